"""What is known today: per group the keys, what is expected of each, what happened, and how the days went."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from enum import StrEnum
from itertools import islice, repeat

from katmatic.monitoring.days import Days, day_of
from katmatic.monitoring.quality import is_multiple
from katmatic.parts import Fifo, Latest
from katmatic.records import NOTHING, Decision, LabelBlock, LabelState, Prediction, PredictionBlock
from katmatic.spec.app import App, Predictor

ANCHORS_LIMIT = 50_000  # anchors kept per predictor: a school of 600 for four months of school days
DAY_LIMIT = 20_000  # anchors of a day that all count, where no roll is called; of more, an even sample counts for all
LATEST_LIMIT = 20_000  # keys whose latest prediction is kept per predictor, at least
PIECE_ROWS = 32  # a kept row keeps no more of its block alive
NEWEST_LIMIT = 200  # newest predictions and actions kept per predictor
DAYS_LIMIT = 400  # days kept in the trend of a predictor
OVER = 0.9  # share of a day's anchors whose labels are known before it counts: those known early are not like the rest
LIKELY = 0.5  # a chance from here on counts as likely, unless an action names its own threshold


class Standing(StrEnum):
    """Where one anchor stands."""

    EXPECTED = "expected"  # its moment is still to come, and nothing is known
    HERE = "here"  # the event came, no later than the anchor's time
    LATE = "late"  # the event came, after the anchor's time
    MISSING = "missing"  # the anchor's time is over, and the event has not come yet
    ABSENT = "absent"  # the event did not come within its window
    UNKNOWN = "unknown"  # the label is void


@dataclass(frozen=True)
class Line:
    """One anchor of the day: who, where it stands, and what was predicted."""

    key: tuple[str, ...]
    anchor: int
    time: int
    standing: Standing
    since: int | None  # time of the event that settled it
    chance: float | None  # newest; None while learning
    first: float | None  # of the day's first prediction
    at: int | None  # the moment that the newest prediction is about
    version: int  # of the model; 0 before the first
    is_likely: bool  # the chance is at or above the predictor's threshold, and the answer is not known
    failed: bool  # a function of the user's or the model raised

    @property
    def late_by(self) -> timedelta | None:
        """How long after its time the event came; None if it did not come, or came in time."""
        if self.standing is not Standing.LATE or self.since is None:
            return None
        return timedelta(microseconds=self.since - self.time)


@dataclass(frozen=True)
class Group:
    """The lines that share one group (the second key of the anchor), the most likely first."""

    name: str
    lines: tuple[Line, ...]
    counts: dict[Standing, int]
    likely: int


@dataclass(frozen=True)
class Roll:
    """The roll call of one predictor on one day."""

    predictor: str
    day: date | None  # None: nothing was ever expected
    groups: tuple[Group, ...]
    counts: dict[Standing, int]
    likely: int
    threshold: float
    names: tuple[str, ...]  # every group of the day, also those that were filtered out

    @property
    def total(self) -> int:
        """How many anchors the day has."""
        return sum(self.counts.values())


@dataclass(frozen=True)
class Day:
    """One day of a predictor: the chances summed beside what happened."""

    day: date
    anchors: int
    known: int  # anchors whose label is known
    actual: float  # sum of the known labels
    forecast: float | None  # sum of the first chances of the same anchors; None while learning
    is_estimate: bool = False  # an even sample of the anchors counts for all

    @property
    def rate(self) -> float | None:
        """What happened, as a share of the known anchors; None of none."""
        return self.actual / self.known if self.known else None

    @property
    def forecast_rate(self) -> float | None:
        """What was expected, as a share of the known anchors; None while learning."""
        return None if self.forecast is None or not self.known else self.forecast / self.known


_STATES = {int(state): state for state in LabelState}
_WAITING = (LabelState.OPEN, LabelState.PROVISIONAL)


class _Cell:
    """What is kept of one anchor."""

    __slots__ = (
        "at", "chance", "day", "evidence", "failed", "first", "key", "state", "tally", "time", "value", "version",
        "weight",
    )  # fmt: skip

    def __init__(self, key: tuple[str, ...], time: int, day: date, tally: _Tally, weight: int) -> None:
        self.key, self.time, self.day, self.tally, self.weight = key, time, day, tally, weight
        self.chance: float | None = None
        self.first: float | None = None
        self.at: int | None = None
        self.version = 0
        self.failed = False
        self.state = LabelState.OPEN
        self.value: float | None = None
        self.evidence: int | None = None


@dataclass
class _Tally:
    anchors: int = 0
    known: int = 0
    actual: float = 0.0
    forecast: float = 0.0
    forecasts: int = 0


class _Sample:
    """Which anchors of a day are kept: all, or those whose position is a multiple, which count for so many each."""

    __slots__ = ("every", "room")

    def __init__(self) -> None:
        self.every, self.room = 1, DAY_LIMIT

    def takes(self, anchor: int) -> bool:
        """Whether a new anchor is kept."""
        if self.every > 1 and not is_multiple(anchor, self.every):
            return False
        self.room -= 1
        if not self.room:
            self.every, self.room = 2 * self.every, DAY_LIMIT // 2
        return True


@dataclass
class _Sheet:
    """All that is kept of one predictor."""

    predictor: Predictor
    cells: Fifo[_Cell] = field(default_factory=Fifo)  # by anchor
    days: defaultdict[date, deque[int]] = field(default_factory=lambda: defaultdict(deque))  # anchors, as in `cells`
    tallies: dict[tuple[date, str], _Tally] = field(default_factory=dict)
    samples: defaultdict[date, _Sample] = field(default_factory=lambda: defaultdict(_Sample))
    latest: Latest[tuple[str, ...], tuple[PredictionBlock, int]] = field(default_factory=lambda: Latest(LATEST_LIMIT))
    # A first key -> the newest whole key with it:
    firsts: Latest[str, tuple[str, ...]] = field(default_factory=lambda: Latest(LATEST_LIMIT))
    newest: deque[tuple[PredictionBlock, int]] = field(default_factory=lambda: deque(maxlen=NEWEST_LIMIT))
    decisions: deque[Decision] = field(default_factory=lambda: deque(maxlen=NEWEST_LIMIT))

    @property
    def has_roll(self) -> bool:
        return self.predictor.label.op == "none"

    def group(self, key: tuple[str, ...]) -> str:
        return key[1] if len(key) > 1 and self.has_roll else ""

    def new_cell(self, anchor: int, keys: Sequence[tuple[str, ...]], row: int, time: int, days: Days) -> _Cell | None:
        """What is kept of a new anchor from now on; None if it is not in the sample."""
        day, weight = days.of(time), 1
        if not self.has_roll:
            sample = self.samples[day]
            weight = sample.every
            if not sample.takes(anchor):
                return None  # its key is not made a text
        key = keys[row]
        name = day, self.group(key)
        tally = self.tallies.get(name)
        if tally is None:
            tally = self.tallies[name] = _Tally()
            self.forget_days()
        tally.anchors += weight
        cell = _Cell(key, time, day, tally, weight)
        self.cells.add(anchor, cell)
        self.days[day].append(anchor)
        return cell

    def answered(self, block: PredictionBlock) -> None:
        """These are the newest answers about their keys."""
        rows = list(zip(repeat(block), range(len(block)), strict=False))
        self.latest.update(zip(block.key, rows, strict=True))
        if block.key and len(block.key[0]) > 1:
            self.firsts.update((key[0], key) for key in block.key)
        self.newest.extend(rows)

    def forget(self) -> None:
        """Let go of the oldest anchors."""
        while len(self.cells) > ANCHORS_LIMIT:
            anchor, cell = self.cells.pop_oldest()
            anchors = self.days[cell.day]
            anchors.popleft()  # the same: both are in the same order
            if cell.state in _WAITING and (sample := self.samples.get(cell.day)):
                self.thin(anchor, cell, sample)
            if not anchors:
                del self.days[cell.day]

    def thin(self, anchor: int, cell: _Cell, sample: _Sample) -> None:
        """Let go of every second anchor that waits for its label, as if it had never been; the others weigh more."""
        if cell.weight == sample.every:  # all of that day have been looked at
            sample.every *= 2
        _weigh(cell, sample.every if is_multiple(anchor, sample.every) else 0)
        if cell.weight:
            self.cells.add(anchor, cell)
            self.days[cell.day].append(anchor)

    def forget_days(self) -> None:
        days = {day for day, _ in self.tallies}
        if len(days) > DAYS_LIMIT:
            oldest = min(days)
            for name in [name for name in self.tallies if name[0] == oldest]:
                del self.tallies[name]
            self.samples.pop(oldest, None)


class Board:
    """Keeps the newest of every predictor of an app, fed from its log. Safe to read while another thread feeds it.

    Bounded by `ANCHORS_LIMIT` anchors, `LATEST_LIMIT` keys, `NEWEST_LIMIT` newest rows and `DAYS_LIMIT` days per
    predictor: the oldest go. Where no roll is called, an even sample of the anchors of a day beyond `DAY_LIMIT` is
    kept, and counts for all; so it is where more than `ANCHORS_LIMIT` wait for their labels.
    """

    def __init__(self, app: App) -> None:
        self._zone = app.timezone
        self._days = Days(app.timezone)
        self._sheets = {name: _Sheet(predictor) for name, predictor in app.predictors.items()}
        self._of_label = {
            name: [sheet for sheet in self._sheets.values() if sheet.predictor.label is label]
            for name, label in app.labels.items()
        }
        self._lock = threading.Lock()

    def predictions(self, block: PredictionBlock) -> None:
        """Take in new predictions."""
        sheet = self._sheets.get(block.predictor)
        if sheet is None:
            return
        scores = [None] * len(block) if block.score is None else [None if s != s else s for s in block.score.tolist()]
        columns = (c.tolist() for c in (block.anchor, block.time, block.at, block.failed))
        rows = enumerate(zip(*columns, scores, strict=True))
        pieces, known, new, keys, days = _cut(block), sheet.cells.get, sheet.new_cell, block.key, self._days
        with self._lock:
            for i, (anchor, time, at, failed, score) in rows:
                cell = known(anchor) or new(anchor, keys, i, time, days)
                if cell is None:
                    continue
                if cell.first is None and score is not None:
                    cell.first = score
                    if cell.value is not None:
                        _count(cell, 1, of_label=False)
                cell.chance, cell.at, cell.version, cell.failed = score, at, block.version, failed
            for piece in pieces:
                sheet.answered(piece)
            sheet.forget()

    def labels(self, block: LabelBlock) -> None:
        """Take in new versions of a label."""
        columns = (block.anchor, block.time, block.state, block.value, block.evidence)
        rows = list(zip(*(column.tolist() for column in columns), strict=True))
        keys, days = block.key, self._days
        with self._lock:
            for sheet in self._of_label.get(block.label, ()):
                known, new = sheet.cells.get, sheet.new_cell
                for i, (anchor, time, state, value, evidence) in enumerate(rows):
                    cell = known(anchor) or new(anchor, keys, i, time, days)
                    if cell is None:
                        continue
                    if cell.value is not None:
                        _count(cell, -1)
                    cell.state = _STATES[state]
                    cell.value = None if value != value else value
                    cell.evidence = None if evidence == NOTHING else evidence
                    if cell.value is not None:
                        _count(cell, 1)
                sheet.forget()

    def decisions(self, taken: list[Decision]) -> None:
        """Take in actions."""
        with self._lock:
            for decision in taken:
                if decision.predictor in self._sheets:
                    self._sheets[decision.predictor].decisions.append(decision)

    def has_roll(self, predictor: str) -> bool:
        """Whether a roll call says something: its label asks whether an expected event came."""
        return self._sheets[predictor].has_roll

    def roll(self, predictor: str, now: int, *, group: str | None = None) -> Roll:
        """The newest day on which something was expected, up to the day of `now`; of one group, or of all."""
        sheet = self._sheets[predictor]
        threshold = likely_from(sheet.predictor)
        today = day_of(now, self._zone)
        with self._lock:
            past = [day for day in sheet.days if day <= today]
            day = max(past, default=min(sheet.days, default=None))
            cells = [(anchor, sheet.cells[anchor]) for anchor in sheet.days.get(day, ())] if day else []
            lines = [_line(anchor, cell, now, threshold) for anchor, cell in cells]
        by_group: dict[str, list[Line]] = {}
        for line in lines:
            by_group.setdefault(sheet.group(line.key), []).append(line)
        names = tuple(sorted(by_group, key=_natural))
        shown = tuple(_grouped(name, by_group[name]) for name in names if group in (None, name))
        counts = {standing: sum(part.counts[standing] for part in shown) for standing in Standing}
        return Roll(predictor, day, shown, counts, sum(part.likely for part in shown), threshold, names)

    def trend(self, predictor: str, *, days: int = 30, group: str | None = None) -> tuple[Day, ...]:
        """The newest `days` days that are over, oldest first; of one group, or of all."""
        sheet = self._sheets[predictor]
        summed: dict[date, _Tally] = {}
        with self._lock:
            sampled = {day for day, sample in sheet.samples.items() if sample.every > 1}
            for (day, name), tally in sheet.tallies.items():
                if group in (None, name):
                    whole = summed.setdefault(day, _Tally())
                    whole.anchors += tally.anchors
                    whole.known += tally.known
                    whole.actual += tally.actual
                    whole.forecast += tally.forecast
                    whole.forecasts += tally.forecasts
        return tuple(
            Day(day, t.anchors, t.known, t.actual, _scaled(t), day in sampled)
            for day, t in sorted(summed.items())
            if t.known and t.known >= OVER * t.anchors
        )[-days:]

    def groups(self, predictor: str) -> tuple[str, ...]:
        """Every group that the trend knows."""
        with self._lock:
            return tuple(sorted({name for _, name in self._sheets[predictor].tallies}, key=_natural))

    def latest(self, predictor: str, key: tuple[str, ...]) -> Prediction | None:
        """The newest prediction about `key`: all keys of the anchor in their order, or the first alone; else None."""
        sheet = self._sheets.get(predictor)
        if sheet is None:
            return None
        with self._lock:
            found = sheet.latest.get(key)
            if found is None and len(key) == 1 and (whole := sheet.firsts.get(key[0])):
                found = sheet.latest.get(whole)
        return found[0].row(found[1]) if found else None

    def newest(self, predictor: str, limit: int = 50) -> list[Prediction]:
        """The newest predictions, newest first."""
        with self._lock:
            found = list(islice(reversed(self._sheets[predictor].newest), limit))
        return [block.row(i) for block, i in found]

    def actions(self, predictor: str, limit: int = 50) -> list[Decision]:
        """The newest actions, newest first."""
        with self._lock:
            return list(islice(reversed(self._sheets[predictor].decisions), limit))


def _cut(block: PredictionBlock) -> list[PredictionBlock]:
    """The block cut into copies of at most `PIECE_ROWS` rows, so that one row does not keep all of it in memory."""
    if len(block) <= PIECE_ROWS:
        return [block]
    cuts = [slice(start, start + PIECE_ROWS) for start in range(0, len(block), PIECE_ROWS)]
    return [
        PredictionBlock(
            predictor=block.predictor,
            columns=block.columns,
            anchor=block.anchor[cut].copy(),
            key=block.key[cut],
            time=block.time[cut].copy(),
            at=block.at[cut].copy(),
            now=block.now[cut].copy(),
            lead=block.lead[cut].copy(),
            values=block.values[cut].copy(),
            texts={name: values[cut] for name, values in block.texts.items()},
            failed=block.failed[cut].copy(),
            version=block.version,
            score=None if block.score is None else block.score[cut].copy(),
        )
        for cut in cuts
    ]


def likely_from(predictor: Predictor) -> float:
    """The chance from which on an answer counts as likely: the lowest threshold of the predictor's actions."""
    return min((a.above for a in predictor.actions if a.above is not None), default=LIKELY)


def _natural(name: str) -> list[tuple[int, int, str]]:
    """A key that puts `9b` before `10a`.

    >>> sorted(["10a", "9b", "1"], key=_natural)
    ['1', '9b', '10a']
    """
    parts: list[tuple[int, int, str]] = []
    for is_number, piece in _pieces(name):
        parts.append((0, int(piece), "") if is_number else (1, 0, piece))
    return parts


def _pieces(text: str) -> Iterator[tuple[bool, str]]:
    start = 0
    for i in range(1, len(text) + 1):
        if i == len(text) or text[i].isdecimal() != text[start].isdecimal():
            yield text[start].isdecimal(), text[start:i]
            start = i


def _line(anchor: int, cell: _Cell, now: int, threshold: float) -> Line:
    standing = _standing(cell, now)
    waiting = standing in (Standing.EXPECTED, Standing.MISSING)
    return Line(
        key=cell.key,
        anchor=anchor,
        time=cell.time,
        standing=standing,
        since=cell.evidence,
        chance=cell.chance,
        first=cell.first,
        at=cell.at,
        version=cell.version,
        is_likely=waiting and cell.chance is not None and cell.chance >= threshold,
        failed=cell.failed,
    )


def _standing(cell: _Cell, now: int) -> Standing:
    if cell.state is LabelState.CENSORED:
        return Standing.UNKNOWN
    if cell.evidence is not None:
        return Standing.LATE if cell.evidence > cell.time else Standing.HERE
    if cell.state in (LabelState.FINAL, LabelState.REVISED):
        return Standing.ABSENT
    return Standing.MISSING if now >= cell.time else Standing.EXPECTED


def _grouped(name: str, lines: list[Line]) -> Group:
    lines.sort(key=lambda line: (_URGENCY[line.standing], -(line.chance or 0.0), line.key))
    counts = dict.fromkeys(Standing, 0)
    for line in lines:
        counts[line.standing] += 1
    return Group(name, tuple(lines), counts, sum(line.is_likely for line in lines))


# Those who may need a call come first; those who are here need no look.
_URGENCY = {
    Standing.ABSENT: 0,
    Standing.MISSING: 0,
    Standing.EXPECTED: 0,
    Standing.UNKNOWN: 1,
    Standing.LATE: 2,
    Standing.HERE: 3,
}


def _count(cell: _Cell, sign: int, *, of_label: bool = True) -> None:
    """Put a known cell into the sums of its day, or take it out."""
    tally, weight = cell.tally, sign * cell.weight
    if of_label:
        tally.known += weight
        tally.actual += weight * (cell.value or 0.0)
    if cell.first is not None:
        tally.forecast += weight * cell.first
        tally.forecasts += weight


def _scaled(tally: _Tally) -> float | None:
    """The forecast of all known anchors, from those that had one."""
    return tally.forecast * tally.known / tally.forecasts if tally.forecasts else None


def _weigh(cell: _Cell, weight: int) -> None:
    """From now on a cell counts for so many anchors."""
    cell.tally.anchors += weight - cell.weight
    if cell.value is not None:
        _count(cell, -1)
    cell.weight = weight
    if cell.value is not None:
        _count(cell, 1)
