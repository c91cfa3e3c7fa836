"""How good the live answers are: measured from predictions as their truth becomes known, beside two baselines.

The baselines know at each prediction only what was known then: the base rate (of all labels known so far) and the
key's own past rate (of the labels of the same first key, drawn towards the base rate by `PRIOR` labels).

Where more answers become known than some 250 a second, an even sample of their anchors is judged.

An answer counts once its anchor is ripe: when silence would have settled it, too. Those that are known earlier are not
like the rest (who came is known at once, who is absent only later), and figures of them alone would mislead.
"""

from __future__ import annotations

import heapq
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from katmatic.duration import NO_TIME, micros
from katmatic.monitoring.days import Days
from katmatic.parts import BITS, Fifo, Parts
from katmatic.records import Example
from katmatic.spec.app import App, Predictor

ROWS_LIMIT = 50_000  # newest examples kept per predictor for the rolling figures
NEWEST_LIMIT = 5_000  # of these that are looked at for alerts, again and again
DAYS_LIMIT = 400
KEYS_LIMIT = 50_000  # keys whose own past rate is kept; of others the base rate is used
PRIOR = 2.0  # how many labels the base rate weighs in a key's own past rate
LOG_LOSS_CLIP = 1e-6  # a certain answer that was wrong costs at most 13.8
BINS = 10  # of the calibration
JUDGED_LIMIT = 2_560  # rows that become known within JUDGED_SPAN; of more, an even sample of anchors is judged then,
JUDGED_SPAN = 10_000_000  # microseconds of the log's time: as many as came in the one before
RIPENING_LIMIT = 50_000  # anchors that wait to be ripe; beyond it every second one is left out
STEPS_LIMIT = 512  # past points kept of a rate: so many of long ago, and up to twice as many of the newest
_NOTHING_KNOWN = (0, 0.0)

Floats = NDArray[np.float64]
_Name = tuple[int, int]  # of a row: its anchor, and the moment that it is about
_Judged = tuple[_Name, date, tuple[float, ...]]  # a row, its day, and its figures
_turn = itemgetter(2, 0, 3)  # rows are taken as they ripen: by time, anchor, and the moment that they are about


@dataclass(frozen=True)
class Scores:
    """How good one answerer is over some rows. A figure that these rows cannot give is None."""

    rows: int
    auc: float | None = None
    brier: float | None = None
    log_loss: float | None = None
    accuracy: float | None = None
    rmse: float | None = None
    mae: float | None = None


@dataclass(frozen=True)
class Daily:
    """One day: the live model beside the base rate and the key's own past rate, over the same rows."""

    day: date
    model: Scores
    base: Scores
    rule: Scores


@dataclass(frozen=True)
class Bin:
    """Answers of about the same chance: what they said on average, and how often it came true."""

    low: float
    high: float
    rows: int
    said: float
    true: float


@dataclass(frozen=True)
class Report:
    """All that is known of the quality of one predictor's live answers."""

    predictor: str
    is_binary: bool
    model: Scores
    base: Scores
    rule: Scores
    days: tuple[Daily, ...]  # oldest first
    bins: tuple[Bin, ...]  # without empty ones

    @property
    def is_above_baselines(self) -> bool | None:
        """Whether the model beats both baselines by Brier score (squared error); None while nothing is known."""
        mine, others = _error(self.model), [_error(self.base), _error(self.rule)]
        known = [other for other in others if other is not None]
        return None if mine is None or not known else all(mine < other for other in known)


class Quality:
    """Keeps one predictor's newest examples and what the baselines would have said. Safe to read while it is fed."""

    def __init__(self, app: App, predictor: Predictor) -> None:
        self._predictor, self._days = predictor, Days(app.timezone)
        self._is_binary = predictor.label.is_binary
        self._ripens = _ripening(app, predictor)
        self._now = 0
        self._ripening: Parts[dict[int, Example]] = Parts()  # by anchor, then by the moment that it is about
        self._ripe_at: list[tuple[int, int]] = []  # a heap: when, and which anchor
        self._every = 1  # anchors are taken whose position is a multiple of it, by a hash
        self._pace, self._span, self._came = 1, 0, 0  # the same where many come; which span it is, how many came in it
        self._rows = _Rows(ROWS_LIMIT)
        self._measured: dict[date, Daily] = {}
        self._base = _Rate()
        self._own: dict[str, _Rate] = {}
        self._known: Fifo[float] = Fifo()  # by anchor; NaN: void after all
        self._reported: dict[int, Report] = {}  # by days; empty once something changed
        self._changes = 0  # how often something did
        self._lock = threading.Lock()

    def examples(self, found: Iterable[Example]) -> None:
        """Take in predictions whose truth became known, or became another."""
        found = self._sample(found)
        if not found:
            return
        anchors, _, times, moments, _, known, _, _ = zip(*found, strict=True)
        with self._lock:
            self._now = max(self._now, *known)
            before = self._now - 1  # of this moment more may come; whoever looks next finds little left to do
            ripe: list[Example] = []
            if (self._ripe_at and self._ripening.has_any(anchors)) or not _all_differ(anchors, moments):
                for example in found:
                    self._wait(example)
            else:  # what is ripe already need not wait
                latest = before - self._ripens
                if self._every == 1 and max(times) <= latest:
                    ripe = found
                else:
                    for example in found:
                        if example.time > latest:
                            self._wait(example)
                        elif self._takes(example.anchor):
                            ripe.append(example)
            if len(self._ripe_at) > RIPENING_LIMIT:
                self._thin()
            self._ripen(before, ripe)

    def report(self, now: int | None = None, *, days: int = 60) -> Report:
        """The figures over all ripe rows kept, and by day, at the moment `now` (None: when the newest label came)."""
        with self._lock:
            self._ripen(max(self._now, now or 0))
            if days in self._reported:
                return self._reported[days]
            rows, changes = self._rows.all(), self._changes
            changed = {day: self._rows.of(day) for day in self._rows.days if day not in self._measured}
            measured = dict(self._measured)
        measured |= {day: Daily(day, *self._scores(mine)) for day, mine in changed.items()}  # nobody waits for this
        shown = tuple(measured[day] for day in sorted(measured)[-days:])
        model, base, rule = self._scores(rows)
        bins = calibration(*rows.T[:2]) if self._is_binary and len(rows) else ()
        report = Report(self._predictor.name, self._is_binary, model, base, rule, shown, bins)
        with self._lock:
            if changes == self._changes:
                self._measured, self._reported[days] = measured, report
        return report

    def since(self, start: int, now: int) -> Report:
        """The figures over the newest rows ripe at `now` that are about `start` or later, without days and bins."""
        with self._lock:
            self._ripen(max(self._now, now))
            rows = self._rows.since(start, NEWEST_LIMIT)
        return Report(self._predictor.name, self._is_binary, *self._scores(rows), (), ())

    def _wait(self, example: Example) -> None:
        mine = self._ripening.get(example.anchor)
        if mine and example.at in mine:  # what was known until now was known, whether or not somebody looked
            self._ripen(example.label_now - 1)
            mine = self._ripening.get(example.anchor)
        if mine:
            mine[example.at] = example
        elif self._takes(example.anchor):
            self._ripening[example.anchor] = {example.at: example}
            heapq.heappush(self._ripe_at, (example.time + self._ripens, example.anchor))

    def _sample(self, found: Iterable[Example]) -> list[Example]:
        """Those that are judged: all, or where many come an even sample of anchors, and what was judged before."""
        kept = []
        for example in found:
            span = example.label_now // JUDGED_SPAN
            if span > self._span:
                most = self._came if span == self._span + 1 else 0
                self._pace = 1 << max(0, -(-most // JUDGED_LIMIT) - 1).bit_length()
                self._span, self._came = span, 0
            self._came += 1
            anchor = example.anchor
            if self._pace == 1 or is_multiple(anchor, self._pace) or anchor in self._known:
                kept.append(example)
        return kept

    def _takes(self, anchor: int) -> bool:
        return self._every == 1 or is_multiple(anchor, self._every)

    def _thin(self) -> None:
        """Let go of every second anchor that waits."""
        self._every *= 2
        for _, anchor in self._ripe_at:
            if not self._takes(anchor):
                self._ripening.pop(anchor)
        self._ripe_at = [(moment, anchor) for moment, anchor in self._ripe_at if self._takes(anchor)]
        heapq.heapify(self._ripe_at)

    def _ripen(self, now: int, found: Sequence[Example] = ()) -> None:
        """What waits and is ripe at `now`, and what is `found` to be so, counts."""
        found = list(found)
        while self._ripe_at and self._ripe_at[0][0] <= now:
            _, anchor = heapq.heappop(self._ripe_at)
            found += (self._ripening.pop(anchor) or {}).values()
        if not found:
            return
        self._reported.clear()
        self._changes += 1
        found.sort(key=_turn)
        self._learn(found)
        self._judge(found)
        while len(self._known) > 2 * ROWS_LIMIT:
            self._known.pop_oldest()
        while len(self._measured) > DAYS_LIMIT:
            del self._measured[min(self._measured)]

    def _learn(self, found: Sequence[Example]) -> None:
        """Let the baselines know the anchors' labels; a changed mind takes back the old one."""
        known, owns, ripens = self._known, self._own, self._ripens
        changes: list[tuple[int, int, float]] = []
        for anchor, key, time, _, label, now, _, _ in found:
            old, is_void = known.get(anchor), label != label
            if old == label or (old is None and is_void):
                continue
            if old is None:
                known.add(anchor, label)
            else:
                known[anchor] = label
            moment = max(now, time + ripens)
            mine = [] if is_void else [(moment, 1, label)]
            if old is not None and old == old:
                mine.insert(0, (moment, -1, -old))
            changes += mine
            own = owns.get(key[0]) if key else None
            if own is None:
                if not key or len(owns) >= KEYS_LIMIT:
                    continue
                own = owns[key[0]] = _Rate()
            own.add(mine)
        self._base.add(changes)

    def _judge(self, found: Sequence[Example]) -> None:
        """Have the rows, beside what the baselines would have said."""
        rows: list[_Judged] = []
        is_here, owns, base_before, day_of = self._rows.has, self._own, self._base.before, self._days.of
        for anchor, key, _, at, label, _, score, weight in found:
            name = anchor, at
            if is_here(name):
                day = self._rows.take_out(name)
                if day is not None:
                    self._measured.pop(day, None)
            if score != score or label != label or not weight:
                continue
            number, total = base_before(at)
            if not number:  # nothing was known then, so there is nothing to be compared with
                continue
            base = total / number
            own = owns.get(key[0]) if key else None
            own_number, own_total = own.before(at) if own is not None else (0, 0.0)
            rule = (own_total + PRIOR * base) / (own_number + PRIOR)
            rows.append((name, day_of(at), (label, score, base, rule, weight)))
        if rows:
            self._put(rows)

    def _put(self, rows: Sequence[_Judged]) -> None:
        days, leaving = {day for _, day, _ in rows}, self._rows.leaving(len(rows))
        newest = max(self._rows.days, default=None)
        if len(rows) > 1 and leaving and (days != {newest} or not leaving <= {*self._measured, newest}):
            for i in range(len(rows)):
                self._put(rows[i : i + 1])
            return
        for day in leaving - {*self._measured, newest}:
            self._measured[day] = self._measure(day)  # the day's figures stay when its rows go
        self._rows.put(rows)
        for day in days:
            self._measured.pop(day, None)

    def _measure(self, day: date) -> Daily:
        return Daily(day, *self._scores(self._rows.of(day)))

    def _scores(self, rows: Floats) -> tuple[Scores, Scores, Scores]:
        label, *answers, weight = rows.T
        rate = binary_scores if self._is_binary else number_scores
        model, base, rule = (rate(label, answer, weight) for answer in answers)
        return model, base, rule


class _Rows:
    """The newest rows by anchor and moment, as columns in a ring: a new one takes the place of the oldest."""

    def __init__(self, limit: int) -> None:
        self.days: dict[date, int] = {}  # how many rows of each are here
        self._limit, self._next = limit, 0
        self._places: dict[int, dict[_Name, int]] = {}  # in parts, by the anchor
        self._names: list[_Name] = []  # by place
        self._day, self._at = np.zeros(limit, np.int64), np.zeros(limit, np.int64)  # no day: nothing is here
        self._figures = np.zeros((limit, 5))  # label, score, base, rule, weight

    def leaving(self, number: int) -> set[date]:
        """The days of the rows whose places so many new ones take."""
        if self._next + number <= self._limit:
            return set()
        places = np.arange(self._next, self._next + min(number, self._limit)) % self._limit
        return {date.fromordinal(day) for day in set(self._day[places].tolist()) if day}

    def put(self, rows: Sequence[_Judged]) -> None:
        """Have rows, which are not here yet."""
        start = self._next % self._limit
        if start + len(rows) > self._limit:
            self.put(rows[: self._limit - start])
            self.put(rows[self._limit - start :])
            return
        stop = start + len(rows)
        if start < len(self._names):
            self._let_go(start, stop)
        self._next += len(rows)
        names, days, figures = zip(*rows, strict=True)
        self._names[start:stop] = names
        for place, name in enumerate(names, start):
            mine = self._places.get(name[0] >> BITS)
            if mine is None:
                mine = self._places[name[0] >> BITS] = {}
            mine[name] = place
        self._at[start:stop] = [at for _, at in names]
        self._figures[start:stop] = figures
        numbers = Counter(days)
        one = days[0].toordinal() if len(numbers) == 1 else None
        self._day[start:stop] = [day.toordinal() for day in days] if one is None else one
        for day, number in numbers.items():
            self.days[day] = self.days.get(day, 0) + number

    def has(self, name: _Name) -> bool:
        """Whether a row is here."""
        return name in self._places.get(name[0] >> BITS, ())

    def take_out(self, name: _Name) -> date | None:
        """Have a row no longer: its day, if it was here."""
        if not self.has(name):
            return None
        place = self._places[name[0] >> BITS][name]
        day = date.fromordinal(int(self._day[place]))
        self._let_go(place, place + 1)
        return day

    def _let_go(self, start: int, stop: int) -> None:
        """Have nothing in these places."""
        days = self._day[start:stop].tolist()
        for day, name in zip(days, self._names[start:stop], strict=False):
            if day:
                mine = self._places[name[0] >> BITS]
                del mine[name]
                if not mine:
                    del self._places[name[0] >> BITS]
        self._day[start:stop] = 0
        for ordinal, number in Counter(days).items():
            if ordinal:
                day = date.fromordinal(ordinal)
                self.days[day] -= number
                if not self.days[day]:
                    del self.days[day]

    def all(self) -> Floats:
        """The figures of every row."""
        return self._figures[self._day > 0]

    def of(self, day: date) -> Floats:
        """The figures of the rows of a day."""
        mine: NDArray[np.bool_] = self._day == day.toordinal()
        return self._figures[mine]

    def since(self, start: int, limit: int) -> Floats:
        """The figures of the newest rows about `start` or later."""
        order = np.arange(self._next - len(self._names), self._next) % self._limit
        mine = order[(self._day[order] > 0) & (self._at[order] >= start)]
        newest: Floats = self._figures[mine[-limit:]]
        return newest


class _Rate:
    """How many labels were known at each moment, and their sum; of long ago, at some moments only."""

    __slots__ = ("_every", "_number", "_old", "moments", "sums")

    def __init__(self) -> None:
        self.moments: list[int] = []  # when something became known
        self.sums: list[tuple[int, float]] = []  # from each of them on: how many, and their sum
        self._old = 0  # so many of them are of long ago: each `_every`th of those that there were
        self._every, self._number = 1, 0

    def add(self, changes: Iterable[tuple[int, int, float]]) -> None:
        """Labels that became known, and when: how many, and their sum. It may be before others that came earlier."""
        moments, sums = self.moments, self.sums
        for moment, number, total in changes:
            known, summed = sums[-1] if sums else _NOTHING_KNOWN
            if not moments or moment > moments[-1]:
                moments.append(moment)
                sums.append((known + number, summed + total))
                if len(moments) - self._old > 2 * STEPS_LIMIT:
                    self._thin()
            elif moment == moments[-1]:
                sums[-1] = known + number, summed + total
            else:
                self._insert(moment, number, total)

    def before(self, moment: int) -> tuple[int, float]:
        """Number and sum of the labels that were known before `moment`: at the moment itself, more may come."""
        i = bisect_left(self.moments, moment)
        return self.sums[i - 1] if i else _NOTHING_KNOWN

    def _insert(self, moment: int, number: int, total: float) -> None:
        moments, sums = self.moments, self.sums
        i = bisect_left(moments, moment)
        if moments[i] != moment:
            moments.insert(i, moment)
            sums.insert(i, sums[i - 1] if i else _NOTHING_KNOWN)
            self._old += i < self._old
        sums[i:] = [(known + number, summed + total) for known, summed in sums[i:]]
        if len(moments) - self._old > 2 * STEPS_LIMIT:
            self._thin()

    def _thin(self) -> None:
        """Of the older moments, keep fewer: who asks about then is told what was known a little earlier."""
        old, stop = self._old, self._old + STEPS_LIMIT
        kept = slice(old + -self._number % self._every, stop, self._every)
        self._old += len(range(*kept.indices(stop)))
        self._number += STEPS_LIMIT
        is_full = self._old > STEPS_LIMIT
        columns: tuple[list[Any], list[Any]] = self.moments, self.sums
        for column in columns:
            column[old:stop] = column[kept]
            if is_full:
                del column[1 : self._old : 2]
        if is_full:
            self._old -= self._old // 2
            self._every *= 2


def _all_differ(anchors: Sequence[int], moments: Sequence[int]) -> bool:
    """Whether each is another row."""
    return len(set(anchors)) == len(anchors) or len(set(zip(anchors, moments, strict=True))) == len(anchors)


def is_multiple(anchor: int, number: int) -> bool:
    """Whether an anchor's position is a multiple, by a hash: those of 4 are among those of 2."""
    return (anchor * 0x9E3779B97F4A7C15 >> 32) % number == 0


def _ripening(app: App, predictor: Predictor) -> int:
    """How long after an anchor's time silence settles its label, in microseconds."""
    label = predictor.label
    if label.provisional is not None:
        return micros(label.provisional)
    sources = [app.sources[event].lateness for event in (*label.evidence, *label.unless) if event in app.sources]
    return micros(label.end + max(sources, default=NO_TIME))


def binary_scores(label: Floats, chance: Floats, weight: Floats) -> Scores:
    """The scores of chances for labels that are 0 or 1."""
    if not len(label):
        return Scores(0)
    clipped = np.clip(chance, LOG_LOSS_CLIP, 1 - LOG_LOSS_CLIP)
    losses = -(label * np.log(clipped) + (1 - label) * np.log(1 - clipped))
    return Scores(
        len(label),
        auc=auc(label, chance),
        brier=_mean((chance - label) ** 2, weight),
        log_loss=_mean(losses, weight),
        accuracy=_mean((chance >= 0.5) == (label >= 0.5), weight),
    )


def number_scores(label: Floats, value: Floats, weight: Floats) -> Scores:
    """The scores of values for labels that are numbers."""
    if not len(label):
        return Scores(0)
    off = value - label
    return Scores(len(label), rmse=_mean(off**2, weight) ** 0.5, mae=_mean(np.abs(off), weight))


def auc(label: Floats, chance: Floats) -> float | None:
    """The chance that a row of label 1 scores above one of label 0, ties counting half; None if either is missing.

    >>> auc(np.array([0.0, 1.0, 0.0, 1.0]), np.array([0.1, 0.9, 0.5, 0.5]))
    0.875
    """
    positives = int((label >= 0.5).sum())
    negatives = len(label) - positives
    if not positives or not negatives:
        return None
    _, place, number = np.unique(chance, return_inverse=True, return_counts=True)
    ranks = np.cumsum(number) - (number - 1) / 2
    summed = float(ranks[place][label >= 0.5].sum())
    return (summed - positives * (positives + 1) / 2) / (positives * negatives)


def calibration(label: Floats, chance: Floats) -> tuple[Bin, ...]:
    """Rows by tenths of their chance, without empty ones."""
    place = np.minimum((chance * BINS).astype(np.int64), BINS - 1)
    return tuple(
        Bin(i / BINS, (i + 1) / BINS, int(mine.sum()), float(chance[mine].mean()), float(label[mine].mean()))
        for i in range(BINS)
        if (mine := place == i).any()
    )


def _mean(values: NDArray[np.float64] | NDArray[np.bool_], weight: Floats) -> float:
    return float(np.average(values.astype(np.float64), weights=weight))


def _error(scores: Scores) -> float | None:
    return scores.brier if scores.brier is not None else scores.rmse
