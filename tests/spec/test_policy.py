"""Policies: what they mean by themselves, and what they refuse."""

from __future__ import annotations

import pytest

from katmatic import Event, Key, Promote, Rank, Retrain, Time, past
from katmatic.spec.policy import METRICS
from tests.refusals import refused


class Click(Event):
    shopper: Key
    item: Key
    at: Time


popular = past.top(Click.item, "6h", k=100)


def test_by_itself_nothing_is_retrained_and_anything_better_is_promoted():
    assert (Retrain().every, Retrain().labels, Retrain().on_drift, Retrain().history) == (None, None, False, None)
    assert (Promote().metric, Promote().margin) == (None, 0.0)
    assert (Rank(candidates=[popular]).explore, Rank(candidates=[popular]).size) == (0.0, 10)


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_that_is_named_can_be_asked_for(metric):
    assert Promote(metric=metric).metric == metric


@pytest.mark.parametrize("field", ["every", "history"])
def test_a_length_of_time_must_be_one(field):
    with refused(
        f"Retrain {field}=",
        found="'weekly'",
        expected='a duration such as "30d", "2h", "-10m" or "50ms"',
        do="write a whole number and a unit: y w d h m s ms us",
    ):
        Retrain(**{field: "weekly"})
    with refused(f"Retrain {field}=", found="'0d'", expected="more than no time", do='write e.g. "1d"'):
        Retrain(**{field: "0d"})


@pytest.mark.parametrize(
    ("name", "number", "least"),
    [("rows", 1, 2), ("rows", None, 2), ("rows", 100.0, 2), ("labels", 0, 1), ("labels", "many", 1)],
)
def test_too_few_rows_to_learn_from(name, number, least):
    with refused(
        "Retrain",
        found=f"{name}={number!r}",
        expected=f"a whole number of at least {least}",
        do=f"e.g. {name}=100",
    ):
        Retrain(**{name: number})


def test_a_metric_that_nobody_knows():
    with refused("Promote", found="metric='auc'", expected=f"one of {', '.join(METRICS)}", do="choose one of these"):
        Promote(metric="auc")


@pytest.mark.parametrize("margin", [float("nan"), float("inf"), "0.1", None])
def test_a_margin_that_is_no_number(margin):
    with refused("Promote", found=f"margin={margin!r}", expected="a finite number", do="e.g. margin=0.01"):
        Promote(margin=margin)


@pytest.mark.parametrize("candidates", [(), [past.count(Click, "1d")], ["item"], popular, None], ids=range(5))
def test_candidates_come_from_windows_over_the_most_frequent(candidates):
    with refused(
        "Rank",
        found=f"candidates={candidates!r}",
        expected="a list of past.top(...) windows",
        do="name at least one: candidates=[past.top(...)]",
    ):
        Rank(candidates=candidates)


@pytest.mark.parametrize("explore", [1.0, -0.1, float("nan"), "0.1", None, True])
def test_a_share_of_the_slots(explore):
    with refused("Rank", found=f"explore={explore!r}", expected="a share in [0, 1)", do="e.g. explore=0.05"):
        Rank(candidates=[popular], explore=explore)


@pytest.mark.parametrize("size", [0, -1, 2.5, "ten", None])
def test_a_number_of_slots(size):
    with refused("Rank", found=f"size={size!r}", expected="a whole number of at least 1", do="e.g. size=10"):
        Rank(candidates=[popular], size=size)
