"""Drift: silent while nothing moves, however often it is asked; loud when something does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from katmatic.monitoring import drift as module
from katmatic.monitoring.drift import DAY, MATTERS, OUTCOME, SCORE, Sample, Watch, chi_squared, measure
from tests.monitoring.blocks import bell, predictions


def sample(rng, n=1000, *, shift=0.0, unknown=0.1, words=("a", "b", "c"), keys=None):
    number = rng.normal(shift, 1, n)
    number[rng.random(n) < unknown] = np.nan
    text = [words[i] for i in rng.integers(0, len(words), n)]
    return Sample({"number": number, "text": text}, keys if keys is not None else range(n))


def moved(old, new):
    return {shift.name for shift in measure(old, new) if shift.has_moved}


def test_what_does_not_move_raises_no_alarm():
    rng = np.random.default_rng(1)
    alarms = sum(bool(moved(sample(rng), sample(rng, 500))) for _ in range(200))
    assert alarms <= 4


def test_few_keys_say_little():
    """A hundred pupils a hundred times are not ten thousand pupils."""
    rng = np.random.default_rng(2)

    def pupils():
        own = np.repeat(rng.normal(0, 1, 100), 50)
        return Sample({"number": own}, np.repeat(np.arange(100), 50).tolist())

    alarms = sum(bool(moved(pupils(), pupils())) for _ in range(100))
    assert alarms <= 3


@pytest.mark.parametrize(
    ("change", "name"),
    [({"shift": 1.0}, "number"), ({"unknown": 0.6}, "number"), ({"words": ("a", "d")}, "text")],
)
def test_what_moves_is_named(change, name):
    rng = np.random.default_rng(3)
    assert moved(sample(rng), sample(rng, **change)) == {name}


def test_too_little_says_nothing():
    rng = np.random.default_rng(4)
    assert measure(sample(rng), sample(rng, 50, shift=5)) == []
    assert measure(Sample({}, ()), sample(rng)) == []


def test_a_column_that_is_never_known_or_always_the_same():
    nothing, same = np.full(500, np.nan), np.ones(500)
    found = measure(
        Sample({"nothing": nothing, "same": same}, range(500)), Sample({"nothing": nothing, "same": same}, range(500))
    )
    assert [shift.has_moved for shift in found] == [False, False]
    assert all(shift.bound >= MATTERS for shift in found)
    found = measure(Sample({"same": same}, range(500)), Sample({"same": same + 1}, range(500)))
    assert found[0].has_moved


def test_the_bound_is_that_of_chi_squared():
    assert chi_squared(0.99, 10) == pytest.approx(23.209, rel=0.01)
    assert chi_squared(0.999, 2) == pytest.approx(13.816, rel=0.03)


def block(rng, day, n=300, shift=0.0, score=0.2):
    keys = [(f"p{i}", "9b") for i in rng.integers(0, 10_000, n)]
    values = np.column_stack([rng.normal(shift, 1, n), np.full(n, float(day % 7)), np.full(n, np.nan)])
    return predictions(
        range(n), keys, rng.normal(score, 0.05, n), time=bell(1) + day * DAY, columns=("rate", "weekday", "gate"),
        values=values, texts={"gate": [None if i % 3 else "north" for i in range(n)]},
    )  # fmt: skip


def names(watch):
    return {shift.name for shift in watch.shifts() if shift.has_moved}


def test_a_watch_compares_with_what_the_champion_was_trained_on():
    rng = np.random.default_rng(5)
    watch = Watch()
    assert watch.shifts() == []
    for day in range(14):
        watch.predictions(block(rng, day))
    watch.outcomes(((f"p{i}",), 0.0) for i in range(600))
    assert watch.shifts() == [], "there is no champion yet"
    watch.promoted()
    for day in range(14, 22):
        watch.predictions(block(rng, day, score=0.9))
        assert names(watch) == set(), "a new champion may score as it likes, and every day has its weekday"
    for day in range(22, 29):
        watch.predictions(block(rng, day, shift=1.0, score=0.1))
    watch.outcomes(((f"p{i}",), 1.0) for i in range(600))
    assert names(watch) == {"rate", SCORE, OUTCOME}
    watch.promoted()
    assert names(watch) == set()


def test_a_champion_of_the_first_days_is_compared_with_its_first_week():
    rng = np.random.default_rng(6)
    watch = Watch()
    watch.predictions(block(rng, 0))
    watch.promoted()
    for day in range(1, 14):
        watch.predictions(block(rng, day))
        assert names(watch) == set()
    for day in range(14, 18):
        watch.predictions(block(rng, day, shift=2.0))
    assert "rate" in names(watch)


def test_a_busy_day_is_thinned_evenly():
    """A hundred thousand rows of one day: at most a thousand are kept, and they stand for all of it."""
    rng = np.random.default_rng(7)
    watch = Watch()
    for _ in range(100):
        watch.predictions(block(rng, 0, n=1000))
    kept = watch._days[min(watch._days)].figures[:, 0]
    assert 500 <= len(kept) <= 1000
    assert abs(kept.mean()) < 0.2


@given(st.lists(st.integers(0, 400), max_size=30), st.integers(1, 60))
def test_of_a_busy_day_every_so_manyth_row_is_kept_however_they_come(sizes, limit):
    """What stays is what would, had all of them come at once."""
    day, number = Watch(), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "DAY_ROWS_LIMIT", limit)
        for size in sizes:
            rows = range(number, number + size)
            block = predictions(
                rows, [(f"p{i}", "9b") for i in rows], None if number % 2 else [float(i) for i in rows],
                time=bell(1), values=np.array([[float(i)] for i in rows]).reshape(size, 1),
                texts={"gate": [f"g{i}" for i in rows]} if number % 3 else None,
            )  # fmt: skip
            day.predictions(block)
            number += size
    stride = 1
    while len(range(0, number, stride)) > limit:
        stride *= 2
    kept = list(range(0, number, stride))
    starts = {
        i: start
        for start, size in zip(np.cumsum([0, *sizes]).tolist(), sizes, strict=False)
        for i in range(start, start + size)
    }
    for found in day._days.values():
        assert found.figures[:, 0].tolist() == kept
        assert found.keys == [(f"p{i}",) for i in kept]
        scores = [i if starts[i] % 2 == 0 else None for i in kept]
        assert [s if is_scored else None for s, is_scored in found.figures[:, 1:].tolist()] == scores
        texts = [f"g{i}" if starts[i] % 3 else None for i in kept]
        assert found.texts.get("gate", [None] * len(kept)) == texts
