"""Have features, scores or outcomes moved? The population stability index of each, beside what chance explains.

With `n` reference rows, `m` new rows and `B` bins, the index of two samples of one distribution is about
`(1/n + 1/m)` times a chi-squared variable with `B - 1` degrees of freedom (Yurdakul, 2018). The bound is its
`1 - alpha / k` quantile over the `k` columns that are looked at, so that a check of unmoved columns raises a false
alarm with a chance of at most about `alpha`. Rows of one key resemble each other, so a sample counts as many rows as it
has different keys. And what is certain may still be too small to matter: less than `MATTERS` never counts as moved.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from katmatic.records import PredictionBlock

BINS = 10
BIN_KEYS_LEAST = 20  # keys of the reference that share one bin: with fewer the bound would be too low
TEXTS_LIMIT = 20  # categories that get a bin of their own; the rest share one
MATTERS = 0.1  # below it an index is usually called stable (Siddiqi, 2006)
ALPHA = 0.01  # chance of a false alarm per check
ROWS_LEAST = 200  # of either sample; with fewer nothing is said
CYCLE_DAYS = 7  # days with rows; of a school that is closed on one day of the week, a little more than a week
REFERENCE_DAYS = 28
DAY_ROWS_LIMIT = 1_000  # of one day that are kept
OUTCOMES_LIMIT = 20_000
OUTCOMES = 2_000  # the newest, that are compared with those before the champion
DAY = 86_400_000_000
SCORE = "score"
OUTCOME = "outcome"


@dataclass(frozen=True)
class Sample:
    """Columns of one stretch of time, and whose rows they are."""

    columns: Mapping[str, NDArray[np.float64] | list[Any]]  # NaN, or None in a list, is unknown
    keys: Sequence[Any]  # of each row: rows of one key count as one

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class Shift:
    """How far one column moved."""

    name: str
    index: float  # population stability index; 0 is no difference
    bound: float  # above it the column moved
    rows: int  # of the new sample

    @property
    def has_moved(self) -> bool:
        """Whether more happened than chance explains, and enough to matter."""
        return self.index > self.bound


def measure(reference: Sample, window: Sample, *, alpha: float = ALPHA) -> list[Shift]:
    """How far each column that both samples have moved, the furthest first; nothing while a sample is too small."""
    names = [name for name in window.columns if name in reference.columns]
    if min(len(reference), len(window)) < ROWS_LEAST or not names:
        return []
    keys, new_keys = len(set(reference.keys)), len(set(window.keys))
    spread = 1 / keys + 1 / new_keys
    bins = max(2, min(BINS, min(keys, new_keys) // BIN_KEYS_LEAST))
    found = []
    for name in names:
        old, new = _shares(reference.columns[name], window.columns[name], bins)
        bound = max(MATTERS, spread * chi_squared(1 - alpha / len(names), max(len(old) - 1, 1)))
        found.append(Shift(name, _index(old, new), bound, len(window)))
    return sorted(found, key=lambda shift: shift.bound - shift.index)


def chi_squared(q: float, degrees: int) -> float:
    """The quantile `q` of a chi-squared variable, by Wilson and Hilferty: within 3 % for `q` above 0.9.

    >>> round(chi_squared(0.95, 9), 1)
    16.9
    """
    part = 2 / (9 * degrees)
    return float(degrees * (1 - part + NormalDist().inv_cdf(q) * part**0.5) ** 3)


def _shares(old: Any, new: Any, bins: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    counts = _of_texts(old, new) if isinstance(old, list) or isinstance(new, list) else _of_numbers(old, new, bins)
    kept = counts[:, counts.sum(axis=0) > 0]
    # Half a row in every bin, so that an empty one has a logarithm (Jeffreys).
    smoothed = kept + 0.5
    shares: NDArray[np.float64] = smoothed / smoothed.sum(axis=1, keepdims=True)
    return shares[0], shares[1]


def _of_numbers(old: NDArray[np.float64], new: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    known = old[~np.isnan(old)]
    edges = np.unique(np.quantile(known, np.linspace(0, 1, bins + 1)[1:-1])) if len(known) else np.zeros(0)
    counts = np.zeros((2, len(edges) + 2))
    for row, values in enumerate((old, new)):
        is_known = ~np.isnan(values)
        places = np.searchsorted(edges, values[is_known], side="left")
        counts[row, : len(edges) + 1] = np.bincount(places, minlength=len(edges) + 1)
        counts[row, -1] = len(values) - int(is_known.sum())
    return counts


def _of_texts(old: Sequence[Any], new: Sequence[Any]) -> NDArray[np.float64]:
    named = [value for value, _ in Counter(old).most_common(TEXTS_LIMIT)]
    place = {value: i for i, value in enumerate(named)}
    counts = np.zeros((2, len(named) + 1))
    for row, values in enumerate((old, new)):
        for value, number in Counter(values).items():
            counts[row, place.get(value, len(named))] += number
    return counts


def _index(old: NDArray[np.float64], new: NDArray[np.float64]) -> float:
    return float(((new - old) * np.log(new / old)).sum())


class _Day:
    """An even sample of one day's rows: every row, then every second, every fourth, ..."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        self.columns = columns
        self.keys: list[tuple[str, ...]] = []  # of the rows that are kept
        self.texts: dict[str, list[Any]] = {}  # by name, of each of these rows; None is unknown, or a number
        self._figures = np.empty((DAY_ROWS_LIMIT, len(columns) + 2))  # values, score, and whether there is a score
        self._stride, self._seen = 1, 0

    @property
    def figures(self) -> NDArray[np.float64]:
        """The values of each row that is kept, its score, and 1 if there was a model that gave one."""
        return self._figures[: len(self.keys)]

    def add(self, block: PredictionBlock) -> None:
        """Take in rows, of which those stay whose number is a multiple of the stride."""
        before, self._seen = self._seen, self._seen + len(block)
        while self._seen > DAY_ROWS_LIMIT * self._stride:
            self._thin()
        first = -before % self._stride
        if first >= len(block):
            return
        rows = slice(first, None, self._stride)
        new = self._figures[len(self.keys) :][: len(range(first, len(block), self._stride))]
        new[:, :-2] = block.values[rows]
        new[:, -2:] = (np.nan, 0) if block.score is None else np.column_stack([block.score[rows], np.ones(len(new))])
        for name in block.texts.keys() | self.texts.keys():
            known = self.texts.setdefault(name, [None] * len(self.keys))
            known += block.texts[name][rows] if name in block.texts else [None] * len(new)
        self.keys += [key[:1] for key in block.key[rows]]

    def _thin(self) -> None:
        self._stride *= 2
        half = self.figures[::2].copy()
        self._figures[: len(half)] = half
        for column in (self.keys, *self.texts.values()):
            del column[1::2]


def _sample(days: Iterable[_Day]) -> Sample:
    days = [day for day in days if day.keys]
    if not days:
        return Sample({}, ())
    columns: dict[str, Any] = {}
    figures = np.concatenate([day.figures for day in days])
    for name, column in zip(days[0].columns, figures.T, strict=False):
        if any(name in day.texts for day in days):  # of a function, a day without one knows of none
            columns[name] = [v for day in days for v in day.texts.get(name) or [None] * len(day.keys)]
        else:
            columns[name] = column
    if figures[:, -1].all():
        columns[SCORE] = figures[:, -2]
    return Sample(columns, [key for day in days for key in day.keys])


class Watch:
    """Keeps a predictor's rows of the last days, evenly thinned, and says what moved.

    What people do has a weekly beat, and a Friday is not a drift: only whole weeks are compared. The window is the
    newest `CYCLE_DAYS`. The reference is the `REFERENCE_DAYS` up to the champion's promotion, about what it was trained
    on; if these are fewer than a week, it goes on until it has one. Scores are those of the champion alone, so their
    reference is its own first week.
    """

    def __init__(self) -> None:
        self._days: dict[int, _Day] = {}
        self._reference: dict[int, _Day] = {}
        self._answered: dict[int, _Day] = {}  # the champion's first week
        self._promoted: int | None = None
        self._old_outcomes = Sample({}, ())
        self._outcomes: deque[tuple[Any, float]] = deque(maxlen=OUTCOMES_LIMIT)
        self._since = 0

    def predictions(self, block: PredictionBlock) -> None:
        """Take in new predictions."""
        days = block.at // DAY
        numbers = sorted(set(days.tolist()))
        for number in numbers:
            part = block if len(numbers) == 1 else block.take(np.flatnonzero(days == number))
            _add(self._days, number, part)
            if self._promoted is not None:
                if len(self._reference) < CYCLE_DAYS:
                    self._reference.setdefault(number, self._days[number])
                if number in self._answered or len(self._answered) < CYCLE_DAYS:
                    _add(self._answered, number, part)
        while len(self._days) > REFERENCE_DAYS:
            del self._days[min(self._days)]

    def outcomes(self, labels: Iterable[tuple[tuple[str, ...], float]]) -> None:
        """Take in labels that became known, with their keys; NaN is a void one, and does not count."""
        known = [(key[:1], label) for key, label in labels if label == label]
        self._outcomes.extend(known)
        self._since += len(known)

    def promoted(self) -> None:
        """A new champion answers: what it was trained on becomes the reference."""
        self._promoted = max(self._days, default=0)
        self._reference, self._answered = dict(self._days), {}
        self._old_outcomes = _outcomes(self._outcomes)
        self._since = 0

    def shifts(self, *, alpha: float = ALPHA) -> list[Shift]:
        """What moved or stayed, the furthest first; nothing before a first champion and enough days."""
        if self._promoted is None:
            return []
        newest = {number: self._days[number] for number in sorted(self._days)[-CYCLE_DAYS:]}
        found: list[Shift] = []
        if len(self._reference) >= CYCLE_DAYS and max(newest) > max(self._reference):
            found = measure(_without_score(_sample(self._reference.values())), _sample(newest.values()), alpha=alpha)
        if len(self._answered) == CYCLE_DAYS and min(newest) > max(self._answered):  # the two do not overlap
            found += measure(
                _only_score(_sample(self._answered.values())), _only_score(_sample(newest.values())), alpha=alpha
            )
        new = list(self._outcomes)[-min(self._since, OUTCOMES) :] if self._since else []
        return found + measure(self._old_outcomes, _outcomes(new), alpha=alpha)


def _add(days: dict[int, _Day], number: int, block: PredictionBlock) -> None:
    if number not in days:
        days[number] = _Day(block.columns)
    days[number].add(block)


def _without_score(sample: Sample) -> Sample:
    """A new champion scores differently from the one before: its own scores are no reference."""
    return Sample({name: column for name, column in sample.columns.items() if name != SCORE}, sample.keys)


def _only_score(sample: Sample) -> Sample:
    return Sample({name: column for name, column in sample.columns.items() if name == SCORE}, sample.keys)


def _outcomes(rows: Sequence[tuple[Any, float]] | deque[tuple[Any, float]]) -> Sample:
    return Sample({OUTCOME: np.array([label for _, label in rows])}, [key for key, _ in rows])
