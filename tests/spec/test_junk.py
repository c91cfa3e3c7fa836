"""Whatever a declaration is given, it is taken or refused with a message in four parts; nothing else is ever raised."""

from __future__ import annotations

import math
from collections.abc import Hashable

import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from katmatic import App, Event, Id, Key, Promote, Rank, Retrain, Time, future, past
from katmatic.errors import DeclarationError


class Payment(Event):
    payment: Id
    card: Key
    at: Time
    amount: float
    country: str = ""


class Chargeback(Event):
    payment: Key
    at: Time


fraud = future.any(Chargeback, per=Payment, within="60d")
window = past.count(Payment, "1d", by=Payment.card)
JUNK = [
    None, True, 0, -1, 5, 2**80, 1.5, math.nan, math.inf, "", "x", "1d", "\ud800", b"1d", [], (), {}, {1: 2}, set(),
    [None], (None, None), ("1d", None), [window], object(), Payment, Payment.amount, Payment.at, Payment | Chargeback,
    Payment | None, Event, fraud, window, lambda: 1, lambda event: 1, len, print, int, math,
    HistGradientBoostingClassifier, HistGradientBoostingClassifier(), Retrain(), Promote(),
]  # fmt: skip


def predict(**changed):
    given = {"label": fraud, "features": {"amount": Payment.amount}, "model": HistGradientBoostingClassifier()}
    return App("shop").predict(changed.pop("name", "score"), **(given | changed))


def named(name):
    return predict(features={name: window} if isinstance(name, Hashable) else name)


WORDS = {
    "App": (App, {"name": "shop", "timezone": "UTC"}),
    "App.source": (lambda **given: App("shop").source(**given), {
        "event": Payment, "lateness": "0s", "silence": None, "horizon": "1d", "duplicates": "1d", "ahead": "1d",
    }),
    "App.predict": (predict, {
        "name": "score", "label": fraud, "features": {"x": window}, "lead": (), "retrain": None, "promote": None,
        "rank": None, "deadline": None,
    }),
    "a model": (predict, {"model": None}),
    "a feature": (lambda value: predict(features={"x": value}), {"value": window}),
    "the name of a feature": (named, {"name": "x"}),
    "App.on": (lambda **given: App("shop").on(**given)(print), {"label": fraud}),
    "what App.on decorates": (App("shop").on(fraud), {"function": print}),
    "App.every": (lambda **given: App("shop").every(**given)(print), {"period": "1d"}),
    "Predictor.when": (
        lambda **given: predict().when(**given)(print), {"above": 0.5, "below": 0.9, "censors": True, "holdout": 0.1},
    ),
    "past.count": (past.count, {"what": Payment, "window": "1d", "by": Payment.card, "where": None}),
    "past.mean": (past.mean, {"what": Payment.amount, "window": "1d", "by": Payment.card, "where": None}),
    "past.top": (past.top, {"what": Payment.card, "window": "1d", "k": 5, "by": (), "where": None}),
    "past.ewm": (past.ewm, {"what": Payment.amount, "halflife": "1d", "by": (), "where": None}),
    "future.any": (future.any, {
        "what": Chargeback, "per": Payment, "within": "2d", "provisional": "1d", "unless": None, "where": None,
    }),
    "future.sum": (future.sum, {"what": Payment.amount, "per": Payment, "within": "2d"}),
    "Retrain": (Retrain, {"every": "1d", "labels": 5, "on_drift": True, "rows": 100, "history": "90d"}),
    "Promote": (Promote, {"metric": "brier", "margin": 0.1}),
    "Rank": (Rank, {"candidates": [past.top(Payment.card, "1d", k=5)], "explore": 0.1, "size": 5}),
}  # fmt: skip


@pytest.mark.parametrize("word", WORDS)
def test_junk_is_refused_and_never_breaks(word):
    function, given = WORDS[word]
    for argument in given:
        for value in JUNK:
            try:
                function(**(given | {argument: value}))
            except DeclarationError as error:
                parts = error.as_dict()
            except Exception as error:
                pytest.fail(f"{word}({argument}={value!r}) raised {error!r}", pytrace=False)
            else:
                continue
            assert all(parts.values()), f"{word}({argument}={value!r}) leaves a part of its message empty: {parts}"


NO_TYPES = [value for value in JUNK if not isinstance(value, str) and value is not int]


@pytest.mark.parametrize("kind", NO_TYPES, ids=range(len(NO_TYPES)))
def test_junk_as_the_type_of_a_field(kind):
    with pytest.raises(DeclarationError):
        type(Event)("Visit", (Event,), {"__annotations__": {"at": Time, "what": kind}})
