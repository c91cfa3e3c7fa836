"""Forward windows: what each asks, and what is refused where it is written."""

from __future__ import annotations

from datetime import timedelta

import pytest

from katmatic import Event, Id, Key, Time, future
from tests.refusals import refused


class Payment(Event):
    payment: Id
    card: Key
    at: Time
    amount: float
    country: str = ""


class Chargeback(Event):
    payment: Key
    at: Time
    share: float | None = None


class Cancelled(Event):
    payment: Key
    at: Time


class Weather(Event):
    place: Key
    at: Time


COUNTED = [future.any, future.none, future.count]
VALUES = [future.sum, future.mean, future.last]
HOURS = timedelta(hours=1)


def name(function):
    return function.__name__


@pytest.mark.parametrize("op", COUNTED, ids=name)
def test_a_label_over_events(op):
    label = op(Chargeback, per=Payment, within="60d")
    assert (label.op, label.evidence, label.field, label.anchor) == (op.__name__, (Chargeback,), None, Payment)
    assert (label.start, label.end) == (timedelta(0), timedelta(days=60))
    assert label.join == ("payment",)
    assert label.is_binary == (op is not future.count)
    assert str(label) == f"future.{op.__name__}(Chargeback, per=Payment, within=(0s, 60d))"


@pytest.mark.parametrize("op", VALUES, ids=name)
def test_a_label_over_a_field(op):
    label = op(Chargeback.share, per=Payment, within=("-2h", "15m"))
    assert (label.evidence, label.field, label.is_binary) == ((Chargeback,), "share", False)
    assert (label.start, label.end) == (-2 * HOURS, HOURS / 4)


def test_several_kinds_of_evidence_and_what_makes_it_void():
    class Confirmed(Event):
        payment: Key
        at: Time

    label = future.any(Chargeback | Confirmed, per=Payment, within="60d", provisional="7d", unless=Cancelled)
    assert label.events == (Payment, Chargeback, Confirmed, Cancelled)
    assert label.provisional == timedelta(days=7)
    assert label.unless == (Cancelled,)


def test_the_anchor_may_be_evidence_about_its_own_kind():
    again = future.any(Payment, per=Payment, within="1d")
    assert again.join == ("payment", "card")
    assert again.events == (Payment,)


def test_a_label_of_a_label_goes_in_a_circle():
    fraud = future.any(Chargeback, per=Payment, within="60d")
    with refused(
        "future.none",
        found=f"{fraud}, a label",
        expected="events: a label of a label goes in a circle",
        do="name the events that decide it; past.mean(label, ...) makes a feature of it",
    ):
        future.none(fraud, per=Payment, within="60d")


def test_evidence_that_shares_no_key_with_its_anchor_is_refused():
    with refused(
        "future.any",
        found="Weather and Payment with no key of the same name",
        expected="at least one Key (or Id) field that all of them have",
        do="name the key fields alike",
    ):
        future.any(Weather, per=Payment, within="1d")
    with refused(
        "future.any",
        found="Chargeback, Weather and Payment with no key of the same name",
        expected="at least one Key (or Id) field that all of them have",
        do="name the key fields alike",
    ):
        future.any(Chargeback, per=Payment, within="1d", unless=Weather)


@pytest.mark.parametrize("what", [Payment.amount, "Chargeback", None, Chargeback | int])
def test_counting_what_is_no_event_is_refused(what):
    with refused(
        "future.any",
        found=repr(what),
        expected="an event class, or a union of them",
        do='write future.any(Chargeback, per=Payment, within="60d")',
    ):
        future.any(what, per=Payment, within="60d")


def test_a_sum_of_what_is_no_field_is_refused():
    with refused(
        "future.sum",
        found=repr(Chargeback),
        expected="a field such as Payment.amount",
        do='write future.sum(Payment.amount, per=Payment, within="60d")',
    ):
        future.sum(Chargeback, per=Payment, within="60d")


@pytest.mark.parametrize("op", VALUES, ids=name)
def test_a_value_that_is_no_number_is_refused(op):
    with refused(
        f"future.{op.__name__}",
        found="Payment.country, no number",
        expected="a field of type float, int or bool",
        do="give classes numbers",
    ):
        op(Payment.country, per=Payment, within="60d")


@pytest.mark.parametrize("per", [None, "Payment", Payment | Weather, Payment.card])
def test_an_anchor_that_is_not_one_event_is_refused(per):
    with refused("future.any", found=f"per={per!r}", expected="the anchor's event class", do="per=Payment"):
        future.any(Chargeback, per=per, within="60d")


@pytest.mark.parametrize("unless", [Chargeback, "Cancelled", Chargeback | Cancelled])
def test_what_makes_a_label_void_is_not_its_evidence(unless):
    with refused(
        "future.any",
        found=f"unless={unless!r}",
        expected="event classes that are not the evidence",
        do="unless=Cancelled",
    ):
        future.any(Chargeback, per=Payment, within="60d", unless=unless)


@pytest.mark.parametrize("within", ["0s", "-1h", ("1h", "1h"), ("2h", "-2h")])
def test_a_window_that_does_not_end_after_it_starts_is_refused(within):
    with refused(
        "future.any",
        found=f"within={within!r}",
        expected="a window that ends after it starts",
        do='say how far it looks ahead: within="30m", or within=("-2h", "15m")',
    ):
        future.any(Chargeback, per=Payment, within=within)


@pytest.mark.parametrize("within", [None, ("1h",), ("1h", "2h", "3h"), ["-1h", "1h"], 60])
def test_a_window_that_is_neither_a_length_nor_two_ends_is_refused(within):
    with refused(
        "future.any",
        found=f"within={within!r}",
        expected="how far it looks, or where it starts and ends",
        do='say within="30m", or within=("-2h", "15m")',
    ):
        future.any(Chargeback, per=Payment, within=within)


@pytest.mark.parametrize("provisional", ["60d", "61d", "0s", "-1d"])
def test_a_provisional_answer_comes_before_the_final_one(provisional):
    with refused(
        "future.any",
        found=f"provisional={provisional!r}",
        expected="a moment after the anchor and before the window ends",
        do="leave it out, or shorten it",
    ):
        future.any(Chargeback, per=Payment, within="60d", provisional=provisional)


def test_a_condition_takes_the_event():
    label = future.any(Chargeback, per=Payment, within="60d", where=lambda event: event.share == 1)
    assert label.where(Chargeback(payment="p", at=None, share=1.0))
    with refused(
        "future.any where=",
        found="a function of event, anchor",
        expected="a function of the event",
        do="let it take one argument",
    ):
        future.any(Chargeback, per=Payment, within="60d", where=lambda event, anchor: True)
