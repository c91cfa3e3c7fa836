"""Features once more, naively: docs/reference/semantics.md over the raw events, with lists and loops, and no kernel.

It shares no code with the engine: it reads the events itself, keeps them in plain lists by key, and scans a whole list
for every value. What it keeps is bounded. What has been let go of is remembered, and a window that would need it is
said to be unprovable (`Unprovable`), never passed.
"""

from __future__ import annotations

import heapq
import inspect
import json
import math
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

from katmatic.duration import micros
from katmatic.errors import InputError
from katmatic.log.base import Batch
from katmatic.log.codec import decode
from katmatic.moment import to_datetime
from katmatic.records import DECISIONS, LabelState, Prediction
from katmatic.spec.app import App, Predictor, SourcePolicy
from katmatic.spec.event import Event, Role, Schema, field_ref, schema
from katmatic.spec.future import Label
from katmatic.spec.past import Past
from katmatic.timestamp import parse_micros

ENTRIES_LIMIT = 1_000_000  # kept entries of all lists: about 200 MB; above, half of the keys are let go of
KEY_LIMIT = 20_000  # kept entries of one key; above, the older half is let go of
HALVINGS_LIMIT = 12  # of the share of keys; beyond, nothing with a window is proved any more
ANCHORS_LIMIT = 200_000  # anchors that wait to be asked about at a later moment
LEAST_ROWS = 64  # before a list is looked through for what is too old
HALVED_AWAY = 64  # half-lives after which what was let go of weighs nothing in a decaying mean
SUMS_SPAN = 2.0**40  # values further apart: sums are rounded, and need not be equal in every bit
SUMS_MOST, SQUARES_MOST = 1e290, 1e145  # near the end of the range of floats an answer may be unknown
FOR_EVER = 2**62
DAY = 86_400_000_000
PROVISIONAL, FINAL, PREDICTION, EXPIRY = range(4)  # ranks of what is due at one moment
OPEN = (LabelState.OPEN, LabelState.PROVISIONAL)
KNOWN = (LabelState.PROVISIONAL, LabelState.FINAL, LabelState.REVISED)


class Unprovable(Exception):
    """What the value depends on has been let go of."""


class Unreadable(Exception):
    """A record that is no event."""


@dataclass(frozen=True)
class Checked:
    """One value of one logged row, computed again."""

    row: Prediction
    feature: str  # empty: the row should not be there
    served: Any
    found: Any
    verdict: str  # proved | different | unprovable


@dataclass(frozen=True)
class _Spans:
    """What an application says of one kind of event, in microseconds."""

    id: str | None
    ahead: int
    horizon: int
    duplicates: int
    lateness: int
    silence: int | None

    @classmethod
    def of(cls, app: App, kind: type[Event]) -> _Spans:
        """As declared, or as it is without."""
        policy = app.sources.get(kind, SourcePolicy())
        return cls(
            id=schema(kind).id,
            ahead=micros(policy.ahead),
            horizon=micros(policy.horizon),
            duplicates=micros(policy.duplicates),
            lateness=micros(policy.lateness),
            silence=None if policy.silence is None else micros(policy.silence),
        )


@dataclass(eq=False)
class _Fact:
    """An event that was applied."""

    position: int
    kind: type[Event]
    time: int
    fields: dict[str, Any]
    event: Event | None = None


class _Kept:
    """What is kept of one key: (time, position, values...), and the latest time that was let go of."""

    __slots__ = ("full", "gone", "rows")

    def __init__(self, full: int = LEAST_ROWS) -> None:
        self.rows: list[tuple[Any, ...]] = []
        self.full, self.gone = full, -1


@dataclass(eq=False)
class _Need:
    """Lists by key that some windows read: of events, or of the labels of anchors."""

    kinds: tuple[type[Event], ...]
    by: tuple[str, ...]
    where: Callable[[Any], Any] | None
    label: int | None = None
    is_sampled: bool = True  # whether keys may be let go of
    fields: list[str] = field(default_factory=list)
    reach: int = 0  # how far back it is ever looked
    keys: dict[tuple[Any, ...], _Kept] = field(default_factory=dict)


@dataclass(eq=False)
class _Life:
    """The label of one anchor."""

    label: int
    anchor: _Fact
    state: LabelState = LabelState.OPEN
    value: float | None = None
    void: bool = False
    expired: bool = False
    evidence: list[tuple[int, int, float]] = field(default_factory=list)  # time, position, value


@dataclass(eq=False)
class _Held:
    """What was due, and waits for silent sources."""

    rank: int
    life: _Life
    silent: set[type[Event]]


class Replay:
    """Applies the batches of a log in order, and computes the features of logged rows again when their turn comes."""

    def __init__(self, app: App, *, entries_limit: int = ENTRIES_LIMIT, key_limit: int = KEY_LIMIT) -> None:
        self._app, self._entries_limit, self._key_limit = app, entries_limit, key_limit
        self._kinds = {schema(kind).topic: kind for kind in app.events}
        self._labels = list(app.labels.values())
        self._predictors = dict(app.predictors)
        self._order = {name: i for i, name in enumerate(app.predictors)}
        self._spans = {kind: _Spans.of(app, kind) for kind in app.events}
        self._needs: dict[tuple[Any, ...], _Need] = {}
        self._windows: dict[int, _Need] = {}  # id of a Past -> what it reads
        self._evidence: dict[int, tuple[_Need, _Need]] = {}  # label -> its evidence, and what makes it void
        self._arguments: dict[tuple[str, str], tuple[str, ...]] = {}
        for predictor in app.predictors.values():
            self._declare(predictor)
        self._readers = {kind: _Reader(app, schema(kind)) for kind in app.events}
        self._of_kind = {
            kind: [need for need in self._needs.values() if need.label is None and kind in need.kinds]
            for kind in app.events
        }
        leads = [p for p in app.predictors.values() if p.lead]
        self._asked_later = {p.anchor: max(micros(-min(q.lead)) for q in leads if q.anchor is p.anchor) for p in leads}
        self._exact = {kind for kind, spans in self._spans.items() if spans.id or spans.silence is not None}
        self._of_label = {i: [need for need in self._needs.values() if need.label == i] for i in self._evidence}
        self._joins = [label.join for label in self._labels]
        self._looks = [(micros(label.start), micros(label.end)) for label in self._labels]
        self._lateness = [max(self._spans[kind].lateness for kind in _sources(label)) for label in self._labels]
        self._horizons = [max(self._spans[kind].horizon for kind in _sources(label)) for label in self._labels]
        self.position = 0
        self.now = -1
        self.halvings = 0
        self.entries = 0
        self._anchors: dict[int, _Fact] = {}
        self._seen: dict[type[Event], dict[Hashable, int]] = {kind: {} for kind in app.events}
        self._seen_order: dict[type[Event], deque[tuple[int, Hashable]]] = {kind: deque() for kind in app.events}
        self._heard: dict[type[Event], int] = {}
        self._lives: dict[tuple[int, tuple[Any, ...]], list[_Life]] = {}  # label, join key -> not yet forgotten
        self._by_anchor: dict[tuple[int, int], _Life] = {}  # label, position
        self._held: list[_Held] = []
        self._due: list[tuple[int, int, int, int, int, Any]] = []  # due, rank, anchor, among, number, what
        self._numbered = 0
        self._arrivals: dict[int, list[Prediction]] = {}

    # ------------------------------------------------------------------------------------------------------- in order

    def expect(self, rows: Iterable[Prediction]) -> None:
        """Logged rows to be computed again: all of them made at the moment of the next batch."""
        for row in rows:
            if row.anchor >= self.position:
                self._arrivals.setdefault(row.anchor, []).append(row)
            else:
                self._wait(row.at, PREDICTION, row.anchor, self._order[row.predictor], row)

    def apply(self, batch: Batch) -> Iterator[Checked]:
        """Apply a batch; what comes of the rows that were expected."""
        self.now = batch.now
        for piece in batch.slices:
            self.position = piece.first
            kind = self._kinds.get(piece.topic)
            for payload in piece.values:
                yield from self._pass(batch.now)
                if kind is not None:
                    yield from self._record(kind, payload, batch.now)
                elif piece.topic == DECISIONS:
                    self._decide(payload)
                self.position += 1
        yield from self._pass(batch.now)
        for anchor in [anchor for anchor in self._arrivals if anchor < self.position]:
            for row in self._arrivals.pop(anchor):
                yield Checked(row, "", "a row", "no event that is asked about", "different")
        if self.entries > self._entries_limit:
            self._make_room()

    def _record(self, kind: type[Event], payload: bytes, now: int) -> Iterator[Checked]:
        if payload == b"":
            self._hear(kind, now)
            return
        spans = self._spans[kind]
        try:
            time, fields = self._readers[kind].read(payload)
        except Unreadable:
            return
        if not 0 <= time <= now + spans.ahead or time < now - spans.horizon:
            return
        fact = _Fact(self.position, kind, time, fields)
        places = self._places(fact)
        labels = [i for i, label in enumerate(self._labels) if i in self._evidence and label.anchor is kind]
        is_asked = self.position in self._arrivals or kind in self._asked_later
        if not (places or labels or is_asked or kind in self._exact or self._testifies(kind)):
            return
        if self._is_duplicate(fact, now):
            return
        self._hear(kind, now)
        yield from self._anchor(fact, labels, now)
        self._testify(fact, now)
        for need, key in places:
            if _holds(need.where, self._readers[kind].event(fact) if need.where else None):
                values = (fields[name] for name in need.fields)
                self._keep(need, key, (time, fact.position, *values))

    def _testifies(self, kind: type[Event]) -> bool:
        return any(kind in self._labels[i].evidence or kind in self._labels[i].unless for i in self._evidence)

    def _is_duplicate(self, fact: _Fact, now: int) -> bool:
        spans = self._spans[fact.kind]
        what: Hashable = fact.fields[spans.id] if spans.id else (fact.time, *fact.fields.values())
        span = spans.duplicates
        seen, order = self._seen[fact.kind], self._seen_order[fact.kind]
        while order and now - order[0][0] > span:
            moment, old = order.popleft()
            self.entries -= 1
            if seen.get(old) == moment:
                del seen[old]
        if what in seen:
            return True
        seen[what] = now
        order.append((now, what))
        self.entries += 1
        return False

    def _anchor(self, fact: _Fact, labels: Sequence[int], now: int) -> Iterator[Checked]:
        """The labels of the event open, and what was asked on its arrival is computed again."""
        rows = self._arrivals.pop(fact.position, [])
        later = [row for row in rows if row.lead is not None]
        for i, label in enumerate(self._labels):
            if i in labels:
                self._open(i, fact, now)
            mine = [row for row in later if self._predictors[row.predictor].label is label]
            for row in sorted(mine, key=lambda row: (row.at, self._order[row.predictor])):
                yield from self._check(row, fact)
        for row in sorted(rows, key=lambda row: self._order[row.predictor]):
            if row.lead is None:
                yield from self._check(row, fact)
        if fact.kind in self._asked_later and len(self._anchors) < ANCHORS_LIMIT:
            self._anchors[fact.position] = fact
            self._wait(fact.time + self._asked_later[fact.kind], EXPIRY, fact.position, -1, None)

    def _wait(self, due: int, rank: int, anchor: int, among: int, what: Any) -> None:
        self._numbered += 1
        heapq.heappush(self._due, (due, rank, anchor, among, self._numbered, what))

    def _pass(self, now: int) -> Iterator[Checked]:
        """All that is due at or before `now` happens in its order."""
        while self._due and self._due[0][0] <= now:
            _, rank, anchor, _, _, what = heapq.heappop(self._due)
            if what is None:
                self._anchors.pop(anchor, None)
            elif isinstance(what, Prediction):
                yield from self._check(what, self._anchors.get(anchor))
            elif rank == EXPIRY:
                what.expired = True
                self._forget(what)
            else:
                self._settle(what, rank, now)

    # -------------------------------------------------------------------------------------------------------- labels

    def _open(self, i: int, fact: _Fact, now: int) -> None:
        label = self._labels[i]
        evidence, unless = self._evidence[i]
        life = _Life(i, fact)
        mine = [(need, key) for need, key in self._spaces(i, fact) if self._is_kept(need, key)]
        if not mine:
            return
        join = tuple(fact.fields[name] for name in self._joins[i])
        start, end = (fact.time + look for look in self._looks[i])
        life.evidence = [
            (time, position, value)
            for time, position, value in (evidence.keys[join].rows if join in evidence.keys else ())
            if start <= time < end
        ]
        if any(start <= row[0] < end for row in (unless.keys[join].rows if join in unless.keys else ())):
            life.void, life.state = True, LabelState.CENSORED
        elif life.evidence:
            self._conclude(life)
        self._lives.setdefault((i, join), []).append(life)
        self._by_anchor[i, fact.position] = life
        for need, key in mine:
            if _holds(need.where, self._readers[fact.kind].event(fact) if need.where else None):
                self._keep(need, key, (fact.time, fact.position, life))
        if label.provisional is not None:
            self._wait(fact.time + micros(label.provisional), PROVISIONAL, fact.position, i, life)
        self._wait(end + self._lateness[i], FINAL, fact.position, i, life)
        self._wait(end + max(self._lateness[i], self._horizons[i]), EXPIRY, fact.position, i, life)

    def _spaces(self, i: int, fact: _Fact) -> list[tuple[_Need, tuple[Any, ...]]]:
        return [(need, tuple(fact.fields[name] for name in need.by)) for need in self._of_label[i]]

    def _testify(self, fact: _Fact, now: int) -> None:
        """What the event says about labels of anchors that came before it."""
        for i, (evidence, unless) in self._evidence.items():
            label = self._labels[i]
            if fact.kind not in evidence.kinds and fact.kind not in unless.kinds:
                continue
            join = tuple(fact.fields[name] for name in self._joins[i])
            value = self._said(label, fact)
            if fact.kind in unless.kinds:
                self._keep(unless, join, (fact.time, fact.position))
            elif value is not None:
                self._keep(evidence, join, (fact.time, fact.position, value))
            for life in self._lives.get((i, join), ()):
                start, end = (life.anchor.time + look for look in self._looks[i])
                if life.void or not start <= fact.time < end or fact.position == life.anchor.position:
                    continue
                if fact.kind in unless.kinds:
                    life.void, life.state, life.value = True, LabelState.CENSORED, None
                elif value is not None:
                    life.evidence.append((fact.time, fact.position, value))
                    self._conclude(life)

    def _said(self, label: Label, fact: _Fact) -> float | None:
        """What an event counts as evidence of a label; None if it is none."""
        if fact.kind not in label.evidence:
            return None
        if not _holds(label.where, self._readers[fact.kind].event(fact) if label.where else None):
            return None
        found = fact.fields[label.field] if label.field else 1
        return None if found is None else float(found)

    def _conclude(self, life: _Life) -> None:
        label, is_open = self._labels[life.label], life.state == LabelState.OPEN
        value = self._truth(life)
        if label.is_binary:
            if len(life.evidence) == 1 or is_open:
                life.state, life.value = LabelState.FINAL if is_open else LabelState.REVISED, value
        elif not is_open and value != life.value:
            life.state, life.value = LabelState.REVISED, value

    def _truth(self, life: _Life) -> float | None:
        label, found = self._labels[life.label], sorted(life.evidence)
        if label.op in ("any", "none"):
            return float(bool(found) == (label.op == "any"))
        values = [value for _, _, value in found]
        if label.op == "count":
            return float(len(values))
        if label.op == "sum":
            return _sum(values)
        if not values:
            return None
        return _mean(values) if label.op == "mean" else values[-1]

    def _settle(self, life: _Life, rank: int, now: int) -> None:
        if life.state not in ((LabelState.OPEN,) if rank == PROVISIONAL else OPEN):
            return
        label = self._labels[life.label]
        silent = {kind for kind in _sources(label) if self._is_silent(kind, now)}
        if silent:
            self._held.append(_Held(rank, life, silent))
            return
        life.value = self._truth(life)
        settled = LabelState.PROVISIONAL if rank == PROVISIONAL else LabelState.FINAL
        life.state = LabelState.CENSORED if life.value is None else settled
        self._forget(life)

    def _is_silent(self, kind: type[Event], now: int) -> bool:
        silence = self._spans[kind].silence
        return silence is not None and (kind not in self._heard or now - self._heard[kind] > silence)

    def _hear(self, kind: type[Event], now: int) -> None:
        self._heard[kind] = now
        if not self._held:
            return
        waiting = []
        for held in self._held:
            held.silent.discard(kind)
            if held.silent:
                waiting.append(held)
            else:
                due = now + self._lateness[held.life.label]
                self._wait(due, held.rank, held.life.anchor.position, held.life.label, held.life)
        self._held = waiting

    def _decide(self, payload: bytes) -> None:
        decision = decode(DECISIONS, payload)
        predictor = self._predictors.get(decision.predictor)
        if predictor is None or not decision.censored:
            return
        life = self._by_anchor.get((self._labels.index(predictor.label), decision.anchor))
        if life is not None and not life.void:
            life.void, life.state, life.value = True, LabelState.CENSORED, None
            self._forget(life)

    def _forget(self, life: _Life) -> None:
        """Let go of a label that no event can change any more; its value stays in the past of its keys."""
        if not life.expired or life.state in OPEN:
            return
        if self._by_anchor.pop((life.label, life.anchor.position), None) is not None:
            name = life.label, tuple(life.anchor.fields[part] for part in self._joins[life.label])
            self._lives[name].remove(life)
            if not self._lives[name]:
                del self._lives[name]

    # ------------------------------------------------------------------------------------------------------ features

    def _check(self, row: Prediction, anchor: _Fact | None) -> Iterator[Checked]:
        """Every value of a row beside what it should be."""
        features = self._predictors[row.predictor].features
        for name, served in row.features.items():
            try:
                found = self._feature(row, features[name], anchor, name)
                is_rounded = isinstance(features[name], Past) and _is_rounded(features[name].op)
                is_same = _is_close(served, found) if is_rounded else served == found
                yield Checked(row, name, served, found, "proved" if is_same else "different")
            except _Rounded as rounded:
                verdict = "proved" if _is_close(served, rounded.value) else "different"
                yield Checked(row, name, served, rounded.value, verdict)
            except Unprovable:
                yield Checked(row, name, served, None, "unprovable")

    def _feature(self, row: Prediction, feature: Any, anchor: _Fact | None, name: str) -> Any:
        if anchor is None:
            raise Unprovable
        if isinstance(feature, Past):
            return _plain(self._past(feature, anchor, row.at))
        if ref := field_ref(feature):
            return _plain(anchor.fields[ref.name])
        event = self._readers[anchor.kind].event(anchor)
        others = {"event": event, "now": to_datetime(row.at).astimezone(self._app.timezone)}
        # Each value that it takes is proved by itself; the function is called with those that were served.
        given = [
            others[taken] if taken in others else row.features[taken] for taken in self._arguments[row.predictor, name]
        ]
        try:
            return _plain(feature(*given))
        except Exception:  # the user's function may raise anything: then the value is unknown
            return None

    def _past(self, window: Past, anchor: _Fact, at: int) -> Any:
        need = self._windows[id(window)]
        key = tuple(anchor.fields[ref.name] for ref in window.by)
        if not self._is_kept(need, key):
            raise Unprovable
        kept = need.keys.get(key) or _Kept()
        is_open = window.window is None or window.op == "ewm"
        begins = -1 if is_open else at - _span(window)
        of = need.fields.index(window.field) if window.field else None
        found = []
        for entry in kept.rows:
            if begins <= entry[0] < at:
                value = self._value(window, entry, of)
                if value is not None:
                    found.append((entry[0], entry[1], value))
        found.sort(key=lambda entry: entry[:2])
        if kept.gone >= begins and kept.gone >= 0 and not _is_enough(window, found, kept.gone):
            raise Unprovable
        return aggregate(window, at, [entry[0] for entry in found], [entry[2] for entry in found])

    def _value(self, window: Past, entry: tuple[Any, ...], of: int | None) -> Any:
        if window.label is not None:
            life = entry[2]
            return life.value if life.state in KNOWN else None
        return 1 if of is None else entry[2 + of]

    # ------------------------------------------------------------------------------------------------ what is kept

    def _declare(self, predictor: Predictor) -> None:
        """What the windows of a predictor's features need."""
        margin = self._spans[predictor.anchor].horizon + max([0, *map(micros, predictor.lead)])
        for name, feature in predictor.features.items():
            if isinstance(feature, Past):
                self._windows[id(feature)] = self._needed(feature, margin)
            elif field_ref(feature) is None:
                self._arguments[predictor.name, name] = tuple(inspect.signature(feature).parameters)

    def _needed(self, window: Past, margin: int) -> _Need:
        by = tuple(ref.name for ref in window.by)
        label = self._labels.index(window.label) if window.label is not None else None
        name = (window.events, label, by, window.where)
        kinds = window.events if window.label is None else (window.label.anchor,)
        need = self._needs.setdefault(name, _Need(kinds, by, window.where, label))
        if window.field is not None and window.field not in need.fields:
            need.fields.append(window.field)
        is_open = window.window is None or window.op == "ewm"
        need.reach = max(need.reach, FOR_EVER if is_open else margin + _span(window))
        if label is not None and label not in self._evidence:
            asked = self._labels[label]
            reach = self._spans[asked.anchor].horizon + max(0, -micros(asked.start))
            evidence = _Need(asked.evidence, asked.join, None, is_sampled=False, reach=reach)
            unless = _Need(asked.unless, asked.join, None, is_sampled=False, reach=reach)
            self._evidence[label] = evidence, unless
        return need

    def _places(self, fact: _Fact) -> list[tuple[_Need, tuple[Any, ...]]]:
        """The lists that the event goes into."""
        found = []
        for need in self._of_kind[fact.kind]:
            key = tuple(fact.fields[name] for name in need.by)
            if self._is_kept(need, key):
                found.append((need, key))
        return found

    def _is_kept(self, need: _Need, key: tuple[Any, ...]) -> bool:
        if not self.halvings or not need.is_sampled:
            return True
        if self.halvings > HALVINGS_LIMIT:
            return False
        return not key or not crc32("\0".join(map(str, key)).encode("utf-8", "replace")) & ((1 << self.halvings) - 1)

    def _keep(self, need: _Need, key: tuple[Any, ...], entry: tuple[Any, ...]) -> None:
        kept = need.keys.get(key)
        if kept is None:
            kept = need.keys[key] = _Kept(min(LEAST_ROWS, self._key_limit + 1))
        kept.rows.append(entry)
        self.entries += 1
        if len(kept.rows) >= kept.full:
            self._prune(need, kept)

    def _prune(self, need: _Need, kept: _Kept) -> None:
        """Let go of what no window can reach; of too much for one key, of the older half."""
        before = len(kept.rows)
        oldest = self.now - need.reach
        kept.rows = [entry for entry in kept.rows if entry[0] >= oldest]
        if len(kept.rows) > self._key_limit:
            kept.rows.sort(key=lambda entry: entry[:2])
            half = len(kept.rows) // 2
            kept.gone = max(kept.gone, kept.rows[half - 1][0])
            del kept.rows[:half]
        kept.full = min(max(LEAST_ROWS, 2 * len(kept.rows)), self._key_limit + 1)
        self.entries -= before - len(kept.rows)

    def _make_room(self) -> None:
        """Let go of what is too old; if that is not enough, of half of the keys."""
        needs = [*self._needs.values(), *(need for pair in self._evidence.values() for need in pair)]
        for need in needs:
            for key in list(need.keys):
                self._prune(need, need.keys[key])
                if not need.keys[key].rows and need.keys[key].gone < 0:
                    del need.keys[key]
        while self.entries > self._entries_limit * 0.75 and self.halvings <= HALVINGS_LIMIT:
            self.halvings += 1
            for need in needs:
                for key in [key for key in need.keys if not self._is_kept(need, key)]:
                    self.entries -= len(need.keys.pop(key).rows)
            for life in list(self._by_anchor.values()):
                if not any(self._is_kept(need, key) for need, key in self._spaces(life.label, life.anchor)):
                    life.expired, life.state = True, LabelState.CENSORED
                    self._forget(life)


class _Reader:
    """Reads the records of one kind of event."""

    def __init__(self, app: App, schema: Schema) -> None:
        self._zone, self._schema, self._time = app.timezone, schema, schema.time
        self._decode = json.JSONDecoder(parse_constant=_refuse).decode
        number = (float, int)
        of_role: dict[Role, tuple[type, ...]] = {
            Role.TIME: (str, int, float),
            Role.KEY: (str, int),
            Role.ID: (str, int),
        }
        self._fields = [
            (f, of_role.get(f.role) or (number if f.kind is float else (f.kind,)), f.role in (Role.KEY, Role.ID))
            for f in schema.fields
        ]

    def read(self, payload: bytes) -> tuple[int, dict[str, Any]]:
        """The time and the other fields; Unreadable if it is no such event."""
        try:
            found = self._decode(payload.decode("utf-8"))
            if b"\\u" in payload:
                json.dumps(found, ensure_ascii=False).encode("utf-8")  # half a letter is no text
        except (ValueError, RecursionError) as error:
            raise Unreadable from error
        if not isinstance(found, dict):
            raise Unreadable
        fields: dict[str, Any] = {}
        for f, types, is_name in self._fields:
            value = found.get(f.name, f.default)
            if type(value) not in types and not (value is None and f.optional):
                raise Unreadable
            if is_name:
                value = str(value)
                if not value:
                    raise Unreadable
            elif type(value) is int and f.role is Role.VALUE:
                if f.kind is float:
                    value = _float(value)
                elif not -(2**63) <= value < 2**63:
                    raise Unreadable
            elif value in (math.inf, -math.inf):
                raise Unreadable
            fields[f.name] = value
        try:
            return parse_micros(fields.pop(self._time), self._zone), fields
        except InputError as error:
            raise Unreadable from error

    def event(self, fact: _Fact) -> Event:
        """The event as the user's functions see it."""
        if fact.event is None:
            time: Any = to_datetime(fact.time).astimezone(self._zone)
            fact.event = self._schema.event(**{self._time: time}, **fact.fields)
        return fact.event


def _refuse(text: str) -> Any:
    raise ValueError(text)


def _float(value: int) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise Unreadable from error


def _sources(label: Label) -> tuple[type[Event], ...]:
    """The event classes that a label waits for."""
    return tuple(dict.fromkeys((*label.evidence, *label.unless)))


def _holds(where: Callable[[Any], Any] | None, event: Event | None) -> bool:
    """Whether a condition is true; one that raises is not."""
    try:
        return where is None or bool(where(event))
    except Exception:  # the user's function may raise anything
        return False


# ------------------------------------------------------------------------------------------------------- aggregates


class _Rounded(Exception):
    """A value that need not be equal in every bit, though its kind usually is."""

    def __init__(self, value: Any) -> None:
        super().__init__(value)
        self.value = value


def _is_rounded(op: str) -> bool:
    """Whether an aggregate is a sum of rounded terms: then it is equal to a billionth, and not in every bit."""
    return op in ("std", "ewm")


def _is_close(one: Any, other: Any) -> bool:
    if one is None or other is None or isinstance(one, str) or isinstance(other, str):
        return bool(one == other)
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9)


def _is_enough(window: Past, found: Sequence[tuple[int, int, Any]], gone: int) -> bool:
    """Whether what is kept decides a window from which something has been let go of."""
    if not found or window.op not in ("last", "since", "ewm"):
        return False
    newest = found[-1][0]
    if window.op == "ewm":
        return newest - gone > HALVED_AWAY * _span(window)
    return newest > gone


def _plain(value: Any) -> float | str | None:
    """A feature's value as it is logged."""
    if value is None or isinstance(value, str):
        return value
    number = float(value)
    return None if math.isnan(number) else number


def _whole(values: Sequence[float]) -> tuple[list[int], int]:
    """The values as whole numbers of one common fraction, and that fraction: floats are exact in binary."""
    ratios = [value.as_integer_ratio() for value in values]
    common = max((below for _, below in ratios), default=1)
    return [above * (common // below) for above, below in ratios], common


def _sum(values: Sequence[float]) -> float:
    whole, common = _whole(values)
    return sum(whole) / common


def _mean(values: Sequence[float]) -> float:
    whole, common = _whole(values)
    return sum(whole) / (common * len(values))  # one division of whole numbers: rounded once


def _std(values: Sequence[float]) -> float:
    whole, common = _whole(values)
    n, total = len(whole), sum(whole)
    return math.sqrt((n * sum(value * value for value in whole) - total * total) / (common * common * n * (n - 1)))


def aggregate(window: Past, at: int, times: Sequence[int], values: Sequence[Any]) -> Any:
    """The value of a window over what is in it, in the order of time.

    Raises Unprovable where the meaning leaves it open: sums near the end of the range of floats.
    """
    op = window.op
    if op == "count":
        return len(values)
    if op == "distinct":
        return len(set(values))
    if op in ("sum", "mean", "std", "ewm"):
        return _summed(window, times, [float(value) for value in values])
    if not values:
        return None
    if op == "since":
        return (at - times[-1]) / DAY
    of: Mapping[str, Callable[[Sequence[Any]], Any]] = {
        "min": min,
        "max": max,
        "last": lambda found: found[-1],
        "first": lambda found: found[0],
    }
    return of[op](values)


def _summed(window: Past, times: Sequence[int], values: Sequence[float]) -> float | None:
    sizes = [abs(value) for value in values if value]
    if sizes and max(sizes) > (SQUARES_MOST if window.op == "std" else SUMS_MOST):
        raise Unprovable
    if window.op == "sum":
        found: float | None = _sum(values)
    elif not values or (window.op == "std" and len(values) < 2):
        return None
    elif window.op == "mean":
        found = _mean(values)
    elif window.op == "std":
        return _std(values)
    else:
        halflife = _span(window)
        weights = [2.0 ** ((time - times[-1]) / halflife) for time in times]
        return math.fsum(w * v for w, v in zip(weights, values, strict=True)) / math.fsum(weights)
    if sizes and max(sizes) / min(sizes) > SUMS_SPAN:
        raise _Rounded(found)
    return found


def _span(window: Past) -> int:
    """How long a window is, or the half-life of a decaying mean."""
    assert window.window is not None
    return micros(window.window)
