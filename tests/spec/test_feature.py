"""What each kind of feature gives to a model: a number or a text, always or only sometimes."""

from __future__ import annotations

import pytest

from katmatic import Event, Key, Time, future, past
from katmatic.spec.feature import Given, given


class Payment(Event):
    card: Key
    at: Time
    amount: float
    country: str
    city: str | None = None
    rating: float | None = None


fraud = future.any(Payment, per=Payment, within="1d")


@pytest.mark.parametrize(
    ("feature", "is_text", "may_be_unknown"),
    [
        (Payment.amount, False, False),
        (Payment.rating, False, True),
        (Payment.country, True, False),
        (Payment.city, True, True),
        (Payment.card, True, False),
        (past.count(Payment, "1d"), False, False),
        (past.sum(Payment.amount, "1d"), False, False),
        (past.distinct(Payment.country, "1d"), False, False),
        (past.mean(Payment.amount, "1d"), False, True),
        (past.std(Payment.amount, "1d"), False, True),
        (past.min(Payment.amount, "1d"), False, True),
        (past.max(Payment.amount, "1d"), False, True),
        (past.ewm(Payment.amount, "1d"), False, True),
        (past.since(Payment), False, True),
        (past.last(Payment.amount), False, True),
        (past.last(Payment.country), True, True),
        (past.first(Payment.country, "1d"), True, True),
        (past.mean(fraud, "1d"), False, True),
        (past.last(fraud), False, True),
        (lambda event: 1, False, True),
    ],
    ids=range(20),
)
def test_what_a_feature_gives(feature, is_text, may_be_unknown):
    assert given({"x": feature}) == [Given("x", is_text, may_be_unknown)]


def test_a_function_says_by_its_annotation_that_it_gives_text():
    def place(event: Payment) -> str:
        return event.country

    assert given({"place": place}) == [Given("place", is_text=True, may_be_unknown=True)]


def test_features_keep_their_order():
    assert [one.name for one in given({"b": Payment.amount, "a": Payment.country})] == ["b", "a"]
