"""Backward windows: what each looks at, and what is refused where it is written."""

from __future__ import annotations

from datetime import timedelta

import pytest

from katmatic import Event, Key, Time, future, past
from katmatic.spec.event import FieldRef
from tests.refusals import refused


class Payment(Event):
    card: Key
    merchant: Key
    at: Time
    amount: float
    country: str = ""
    abroad: bool = False


class Chargeback(Event):
    card: Key
    at: Time


fraud = future.any(Chargeback, per=Payment, within="60d")
VALUES = [past.sum, past.mean, past.min, past.max, past.std, past.ewm]
COMPARED = [past.distinct, past.last, past.first]
COUNTED = [past.count, past.since]


def name(function):
    return function.__name__


@pytest.mark.parametrize("op", VALUES, ids=name)
def test_a_window_over_a_field(op):
    window = op(Payment.amount, "30d", by=Payment.card)
    assert (window.op, window.events, window.field) == (op.__name__, (Payment,), "amount")
    assert window.window == timedelta(days=30)
    assert window.by == (FieldRef(Payment, "card"),)
    assert window.kind is float
    assert str(window) == f"past.{op.__name__}(Payment.amount, '30d')"


@pytest.mark.parametrize("op", COUNTED, ids=name)
def test_a_window_over_events(op):
    window = op(Payment | Chargeback, "1h", by=(Payment.card,))
    assert (window.events, window.field, window.label) == ((Payment, Chargeback), None, None)
    assert str(window) == f"past.{op.__name__}(Payment | Chargeback, '1h')"


@pytest.mark.parametrize("op", [*VALUES, *COMPARED, *COUNTED], ids=name)
def test_a_label_is_a_stream_too(op):
    window = op(fraud, "90d", by=Payment.merchant)
    assert (window.label, window.events, window.field) == (fraud, (), None)


@pytest.mark.parametrize("op", COMPARED, ids=name)
def test_texts_can_be_compared(op):
    assert op(Payment.country, "1d", by=Payment.card).kind is str


def test_no_window_is_for_ever_and_no_key_is_everybody():
    assert past.count(Payment, None).window is None
    assert past.count(Payment, None).by == ()
    assert past.last(Payment.amount, by=Payment.card).window is None
    assert past.since(Payment, by=Payment.card).window is None
    assert str(past.count(Payment, None)) == "past.count(Payment, None)"


def test_several_keys_and_a_condition():
    is_large = lambda event: event.amount > 100  # noqa: E731
    window = past.count(Payment, "1d", by=(Payment.card, Payment.merchant), where=is_large)
    assert [ref.name for ref in window.by] == ["card", "merchant"]
    assert window.where is is_large


def test_the_most_frequent_values():
    window = past.top(Payment.merchant, "6h", k=5)
    assert (window.op, window.k, window.field) == ("top", 5, "merchant")


@pytest.mark.parametrize("k", [0, -1, 2.0, True, "3"])
def test_how_many_must_be_a_whole_number(k):
    with refused("past.top", found=f"k={k!r}", expected="a whole number above 0", do="say how many: k=10"):
        past.top(Payment.merchant, "6h", k=k)


def test_the_most_frequent_of_a_label_is_refused():
    with refused("past.top", found=str(fraud), expected="a field such as Click.item", do="rank by a key"):
        past.top(fraud, "6h", k=5)


@pytest.mark.parametrize("op", VALUES, ids=name)
def test_arithmetic_on_a_text_is_refused(op):
    with refused(
        f"past.{op.__name__}",
        found="Payment.country, a text",
        expected="a field of type float, int or bool",
        do="count its values: past.distinct(Payment.country, ...), or take the newest: past.last(Payment.country, ...)",
    ):
        op(Payment.country, "1d", by=Payment.card)


@pytest.mark.parametrize("op", [*VALUES, *COMPARED], ids=name)
def test_a_time_has_no_value(op):
    with refused(
        f"past.{op.__name__}",
        found="Payment.at, a time",
        expected="a field with a value",
        do="for its age: past.since(Payment, by=...)",
    ):
        op(Payment.at, "1d", by=Payment.card)


@pytest.mark.parametrize("op", VALUES, ids=name)
@pytest.mark.parametrize("what", [Payment, "Payment.amount", None, 5, Payment | Chargeback], ids=str)
def test_an_aggregate_of_what_is_no_field_is_refused(op, what):
    with refused(
        f"past.{op.__name__}",
        found=repr(what),
        expected="a field such as Payment.amount",
        do="name the class and the field: Payment.amount",
    ):
        op(what, "1d", by=Payment.card)


@pytest.mark.parametrize("op", COUNTED, ids=name)
def test_counting_what_is_no_event_is_refused(op):
    with refused(
        f"past.{op.__name__}",
        found=repr(Payment.amount),
        expected="an event class, a union of them, or a label",
        do="name the class: Payment",
    ):
        op(Payment.amount, "1d", by=Payment.card)


@pytest.mark.parametrize("window", ["thirty days", "30", 30, "", "1.5d"])
def test_a_window_that_is_no_duration_is_refused(window):
    with refused(
        "past.count",
        found=repr(window),
        expected='a duration such as "30d", "2h", "-10m" or "50ms"',
        do="write a whole number and a unit: y w d h m s ms us",
    ):
        past.count(Payment, window)


@pytest.mark.parametrize("window", ["0s", "-30d"])
def test_a_window_without_length_is_refused(window):
    with refused("past.count", found=repr(window), expected="more than no time", do='write e.g. "1d"'):
        past.count(Payment, window)


def test_a_half_life_for_ever_is_refused():
    with refused(
        "past.ewm",
        found="None",
        expected='a duration such as "30d", "2h", "-10m" or "50ms"',
        do="write a whole number and a unit: y w d h m s ms us",
    ):
        past.ewm(Payment.amount, None, by=Payment.card)


@pytest.mark.parametrize(
    ("by", "said"),
    [
        ("card", "'card'"),
        ((Payment.card, Payment.card), "Payment.card, Payment.card"),
        ((Payment.card, Chargeback.card), "Payment.card, Chargeback.card"),
        (None, "None"),
        ([Payment.card], repr([Payment.card])),
    ],
)
def test_keys_that_are_not_fields_of_one_event_are_refused(by, said):
    with refused(
        "past.count",
        found=f"by={said}",
        expected="one Key field of the anchor event, or a tuple of different ones",
        do="name the field of the event that the prediction is about: by=Payment.card",
    ):
        past.count(Payment, "1d", by=by)


def test_a_condition_that_takes_no_event_is_refused():
    with refused(
        "past.count where=",
        found="a function of nothing",
        expected="a function of the event",
        do="let it take one argument",
    ):
        past.count(Payment, "1d", where=lambda: True)
    with refused(
        "past.count where=", found="'amount > 5'", expected="a function of the event", do="write lambda event: ..."
    ):
        past.count(Payment, "1d", where="amount > 5")
