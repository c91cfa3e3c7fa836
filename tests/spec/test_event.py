"""Event classes: what a field is for, and what is refused when the class is made."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from katmatic import Event, Id, Key, Served, Time
from katmatic.spec.event import FieldRef, Role, events_in, field_ref, schema
from tests.refusals import refused

NOON = datetime(2025, 4, 21, 12, tzinfo=UTC)


class Payment(Event):
    payment: Id
    card: Key
    merchant: Key
    at: Time
    amount: float
    ranking: Served = ""
    country: str | None = None
    tries: int = 1
    abroad: bool = False
    discount: float = 0


class Refund(Event, topic="money.back"):
    payment: Key
    at: Time


def test_the_types_of_the_fields_say_what_they_are_for():
    found = schema(Payment)
    assert found.time == "at"
    assert found.id == "payment"
    assert found.names(Role.KEY) == ("card", "merchant")
    assert found.names(Role.SERVED) == ("ranking",)
    assert found.keys == ("payment", "card", "merchant")
    assert schema(Refund).id is None
    kinds = {field.name: (field.kind, field.optional, field.default) for field in found.fields}
    assert kinds["at"] == (datetime, False, ...)
    assert kinds["amount"] == (float, False, ...)
    assert kinds["country"] == (str, True, None)
    assert kinds["tries"] == (int, False, 1)
    assert kinds["abroad"] == (bool, False, False)


def test_a_field_that_is_not_there_is_a_key_error():
    with pytest.raises(KeyError, match="colour"):
        schema(Payment).field("colour")


def test_the_topic_is_named_or_is_the_class_in_snake_case():
    class CardWasRead(Event):
        at: Time

    assert schema(CardWasRead).topic == "card_was_read"
    assert schema(Refund).topic == "money.back"


def test_an_event_is_made_by_keyword_and_cannot_be_changed():
    payment = Payment(payment="p1", card="c1", merchant="m1", at=NOON, amount=9.5)
    assert (payment.tries, payment.country) == (1, None)
    with pytest.raises(AttributeError):
        payment.amount = 1.0
    with pytest.raises(TypeError):
        Payment("p1")
    assert msgspec.json.decode(msgspec.json.encode(payment), type=Payment) == payment


def test_a_field_is_named_by_its_class_at_run_time():
    assert field_ref(Payment.amount) == FieldRef(Payment, "amount")
    assert str(field_ref(Payment.amount)) == "Payment.amount"
    assert field_ref(Payment.amount).field.kind is float
    assert field_ref("Payment.amount") is None
    assert field_ref(FieldRef.field) is None
    with pytest.raises(AttributeError, match="amuont"):
        _ = Payment.amuont


def test_a_field_of_another_structure_is_no_field_of_an_event():
    class Point(msgspec.Struct):
        x: int

    assert field_ref(Point.x) is None


def test_a_union_names_several_events():
    assert events_in(Payment) == (Payment,)
    assert events_in(Payment | Refund) == (Payment, Refund)
    assert events_in(Payment | int) == ()
    assert events_in(Event) == ()
    assert events_in("Payment") == ()


def test_only_an_event_class_has_a_schema():
    with refused("schema", found="<class 'int'>", expected="an event class", do="derive it: class Payment(Event)"):
        schema(int)


def test_an_event_without_a_time_is_refused():
    with refused("class Visit", found="0", expected="exactly one field of type Time", do="say which one it is"):

        class Visit(Event):
            page: Key


def test_an_event_with_two_times_is_refused():
    with refused("class Visit", found="2", expected="exactly one field of type Time", do="say which one it is"):

        class Visit(Event):
            came: Time
            went: Time


def test_an_event_with_two_identities_is_refused():
    with refused("class Visit", found="2", expected="at most one field of type Id", do="say which one it is"):

        class Visit(Event):
            at: Time
            one: Id
            other: Id


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (list[str], "list[str]"),
        (dict, "dict"),
        (bytes, "bytes"),
        (float | str, "float | str"),
        (datetime, "datetime"),
        (object, "object"),
    ],
)
def test_a_field_of_a_type_that_is_no_plain_value_is_refused(kind, said):
    with refused(
        "Visit.what",
        found=f"the type {said}",
        expected="Key, Id, Time, Served, float, int, bool or str",
        do="declare one of these; put nested data into fields of their own",
    ):
        type(Event)("Visit", (Event,), {"__annotations__": {"at": Time, "what": kind}})


def test_a_type_that_is_not_known_is_refused():
    with refused(
        "class Visit",
        found="name 'Decimal' is not defined",
        expected="types that are known where the class stands",
        do="import them",
    ):

        class Visit(Event):
            at: Time
            price: Decimal  # noqa: F821


@pytest.mark.parametrize(
    ("role", "default", "said"), [(Key, "", "Key"), (Id, "x", "Id"), (Time, NOON, "Time")], ids=["key", "id", "time"]
)
def test_a_default_where_every_event_must_say_it_is_refused(role, default, said):
    with refused(
        "Visit.what",
        found=f"the default {default!r}",
        expected=f"a {said} in every event",
        do="leave out the default",
    ):
        type(Event)("Visit", (Event,), {"__annotations__": {"at": Time, "what": role}, "what": default})


def test_a_key_may_have_a_default_that_is_somebody():
    class Visit(Event):
        at: Time
        visitor: Key = "guest"

    assert schema(Visit).field("visitor").default == "guest"


@pytest.mark.parametrize(("role", "said"), [(Key, "Key"), (Id, "Id"), (Time, "Time"), (Served, "Served")])
def test_a_role_that_may_be_unknown_is_refused(role, said):
    with refused(
        "Visit.what",
        found=f"{said} | None",
        expected=f"a {said} in every event",
        do="leave out | None, or make it a str",
    ):
        type(Event)("Visit", (Event,), {"__annotations__": {"at": Time, "what": role | None}})


@pytest.mark.parametrize(
    ("kind", "default", "expected", "do"),
    [
        (float, "1", "a plain float", "write one"),
        (int, 1.5, "a plain int", "write one"),
        (int, True, "a plain int", "write one"),
        (str, None, "a plain str", "say str | None"),
        (bool, 0, "a plain bool", "write one"),
        (str | None, 1, "a plain str", "write one"),
    ],
)
def test_a_default_of_another_type_is_refused(kind, default, expected, do):
    with refused("Visit.what", found=f"the default {default!r}", expected=expected, do=do):
        type(Event)("Visit", (Event,), {"__annotations__": {"at": Time, "what": kind}, "what": default})


@pytest.mark.parametrize("topic", ["two words", "katmatic.alerts", "x" * 250, "gate/1", 5])
def test_a_topic_that_no_log_takes_is_refused(topic):
    with refused(
        "class Visit",
        found=f"topic={topic!r}",
        expected="1 to 249 letters, digits, dots, - and _, not beginning with 'katmatic.'",
        do='choose another name, e.g. topic="payments"',
    ):

        class Visit(Event, topic=topic):
            at: Time


def test_an_event_made_from_another_event_is_refused():
    with refused(
        "class Big",
        found="an event made from Payment",
        expected='class Payment(Event) or class Payment(Event, topic="payments")',
        do="derive it from Event, and repeat the fields",
    ):

        class Big(Payment):
            pass


def test_options_of_the_structure_are_refused():
    with refused(
        "class Visit",
        found="frozen=",
        expected='class Payment(Event) or class Payment(Event, topic="payments")',
        do="leave the options out",
    ):

        class Visit(Event, frozen=False):
            at: Time
