"""The naive oracle: the page of the semantics as lists and loops. Every answer scans all that ever happened."""

from __future__ import annotations

import inspect
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from typing import Any

from katmatic.duration import micros
from katmatic.errors import InputError
from katmatic.log.codec import decode
from katmatic.moment import to_datetime
from katmatic.records import DECISIONS, LabelState, LabelVersion, Prediction
from katmatic.spec.app import App, Predictor, SourcePolicy, windows
from katmatic.spec.event import Event, Role, field_ref, schema
from katmatic.spec.future import Label
from katmatic.spec.past import Past
from katmatic.timestamp import parse_micros

Record = tuple[str, bytes]  # topic, value
PROVISIONAL, FINAL, PREDICTION, EXPIRY = range(4)  # ranks of what is due at the same moment
OPEN_STATES = (LabelState.OPEN, LabelState.PROVISIONAL)
KNOWN_STATES = (LabelState.PROVISIONAL, LabelState.FINAL, LabelState.REVISED)
DAY = 86_400_000_000


@dataclass(frozen=True)
class Fact:
    """An event that was applied."""

    position: int
    kind: type[Event]
    time: int
    fields: dict[str, Any]
    event: Event


@dataclass(eq=False)
class Life:
    """The label of one anchor, with all its versions."""

    name: str
    label: Label
    anchor: Fact
    versions: list[LabelVersion] = field(default_factory=list)
    void: bool = False
    expired: bool = False
    evidence: int | None = None

    @property
    def newest(self) -> LabelVersion:
        """The version that holds now."""
        return self.versions[-1]

    @property
    def forgotten(self) -> bool:
        """Whether no event can change it any more."""
        return self.expired and self.newest.state not in OPEN_STATES

    def looks_at(self, fact: Fact) -> bool:
        """Whether an event is in its window, and of its keys."""
        if fact.kind not in sources(self.label):
            return False
        start, end = self.anchor.time + micros(self.label.start), self.anchor.time + micros(self.label.end)
        same = all(fact.fields[name] == self.anchor.fields[name] for name in self.label.join)
        return same and start <= fact.time < end and fact.position != self.anchor.position


@dataclass(frozen=True, eq=False)
class Wait:
    """Something that falls due."""

    due: int
    rank: int
    life: Life
    among: int  # of equal moment, rank and anchor: the label's place, or that of the predictor
    predictor: Predictor | None = None

    @property
    def order(self) -> tuple[int, int, int, int]:
        """What is least happens first."""
        return (self.due, self.rank, self.life.anchor.position, self.among)


@dataclass(eq=False)
class Held:
    """What was due, and waits for silent sources."""

    wait: Wait
    silent: set[type[Event]]


class Unreadable(Exception):
    """A record that is no event."""


class Oracle:
    """An application's answers: feed it batches with `apply`, and read what came out."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.labels = list(app.labels.items())
        self.predictors = list(app.predictors.values())
        self.topics = {schema(kind).topic: kind for kind in app.events}
        self.outcomes: list[Prediction | LabelVersion] = []
        self.dead: list[tuple[int, str, bytes, int]] = []  # position, topic, payload, now
        self.holds: list[str] = []
        self.counts: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.position = 0
        self.facts: list[Fact] = []
        self.lives: list[Life] = []
        self.waits: list[Wait] = []
        self.held: list[Held] = []
        self.told: set[type[Event]] = set()
        self.heard: dict[type[Event], int] = {}
        self.latest: dict[type[Event], int] = {}
        self.seen: list[tuple[Any, int]] = []
        self.appeared: dict[tuple[type[Event], str], list[Any]] = {}

    def apply(self, now: int, records: Sequence[Record]) -> None:
        """One batch."""
        for topic, payload in records:
            self._pass(now)
            self._record(topic, payload, self.position, now)
            self.position += 1
        self._pass(now)

    # ------------------------------------------------------------------------------------------------------- records

    def _record(self, topic: str, payload: bytes, position: int, now: int) -> None:
        if topic == DECISIONS:
            self._decide(payload, now)
            return
        kind = self.topics.get(topic)
        if kind is None:
            return
        if payload == b"":
            self.counts["heartbeats"] += 1
            self._hear(kind, now)
            return
        self.counts["events"] += 1
        policy = self._policy(kind)
        try:
            time, fields = self._read(kind, payload)
            if not (0 <= time <= now + micros(policy.ahead)) or time < now - micros(policy.horizon):
                raise Unreadable
        except Unreadable:
            self.counts["dead"] += 1
            self.dead.append((position, topic, payload, now))
            return
        fact = Fact(position, kind, time, fields, self._event(kind, time, fields))
        self._note(fact)
        if self._is_duplicate(fact, now):
            self.counts["duplicate"] += 1
            return
        latest = self.latest.get(kind)
        is_late = latest is not None and time < latest - micros(policy.lateness)
        self.counts["late" if is_late else "applied"] += 1
        if time <= now:
            self.latest[kind] = max(time, latest if latest is not None else time)
        self._hear(kind, now)
        self._anchor(fact, now)
        self.facts.append(fact)
        self._testify(fact, now)

    def _read(self, kind: type[Event], payload: bytes) -> tuple[int, dict[str, Any]]:
        """The time and the fields of an event; Unreadable if it is none."""
        try:
            found = json.loads(payload.decode("utf-8"))
            json.dumps(found, ensure_ascii=False, allow_nan=False).encode("utf-8")  # no NaN, no half a letter
        except (ValueError, RecursionError) as error:
            raise Unreadable from error
        if not isinstance(found, dict):
            raise Unreadable
        fields = {}
        for f in schema(kind).fields:
            if f.name not in found and f.default is ...:
                raise Unreadable
            value = found.get(f.name, f.default)
            kinds: dict[Any, tuple[type, ...]] = {
                Role.TIME: (str, int, float),
                Role.KEY: (str, int),
                Role.ID: (str, int),
                float: (float, int),
            }
            wanted = kinds.get(f.role) or kinds.get(f.kind) or (f.kind,)
            if not (type(value) in wanted or (value is None and f.optional)):
                raise Unreadable
            if type(value) is int and f.role is Role.VALUE and f.kind is int and not -(2**63) <= value < 2**63:
                raise Unreadable
            if f.role in (Role.KEY, Role.ID):
                value = str(value)
                if not value:
                    raise Unreadable
            try:
                fields[f.name] = float(value) if f.kind is float and value is not None else value
            except OverflowError as error:
                raise Unreadable from error
        try:
            return parse_micros(fields.pop(schema(kind).time), self.app.timezone), fields
        except InputError as error:
            raise Unreadable from error

    def _event(self, kind: type[Event], time: int, fields: dict[str, Any]) -> Event:
        return kind(**{schema(kind).time: self._datetime(time)}, **fields)

    def _datetime(self, moment: int) -> datetime:
        return to_datetime(moment).astimezone(self.app.timezone)

    def _policy(self, kind: type[Event]) -> SourcePolicy:
        return self.app.sources.get(kind, SourcePolicy())

    def _is_duplicate(self, fact: Fact, now: int) -> bool:
        named = schema(fact.kind).id
        what = fact.fields[named] if named else (fact.time, tuple(fact.fields.items()))
        span = micros(self._policy(fact.kind).duplicates)
        if any(known == (fact.kind, what) and now - moment <= span for known, moment in self.seen):
            return True
        self.seen.append(((fact.kind, what), now))
        return False

    def _note(self, fact: Fact) -> None:
        """What is remembered of every readable record: values in the order of appearance, conditions that raise."""
        for name, value in fact.fields.items():
            known = self.appeared.setdefault((fact.kind, name), [])
            if value not in known:
                known.append(value)
        asked = [window for predictor in self.predictors for window in windows(predictor)]
        conditions = {w.where for w in asked if fact.kind in ((w.label.anchor,) if w.label else w.events)}
        conditions |= {label.where for _, label in self.labels if fact.kind in label.evidence}
        for where in conditions:
            if where is None:
                continue
            try:
                bool(where(fact.event))
            except Exception:
                self.errors["where"] += 1

    # -------------------------------------------------------------------------------------------------- what is due

    def _pass(self, now: int) -> None:
        while due := [wait for wait in self.waits if wait.due <= now]:
            first = min(due, key=lambda wait: wait.order)
            self.waits.remove(first)
            if first.rank == PREDICTION:
                self._ask_known(first, now)
            elif first.rank == EXPIRY:
                first.life.expired = True
            else:
                self._settle(first, now)

    def _ask_known(self, wait: Wait, now: int) -> None:
        assert wait.predictor is not None
        if wait.life.newest.state in OPEN_STATES:
            anchor = wait.life.anchor
            self.outcomes.append(self.ask(wait.predictor, anchor, wait.due, now, anchor.time - wait.due))

    def _settle(self, wait: Wait, now: int) -> None:
        life = wait.life
        waiting = (LabelState.OPEN,) if wait.rank == PROVISIONAL else OPEN_STATES
        if life.newest.state not in waiting:
            return
        silent = [kind for kind in sources(life.label) if self._is_silent(kind, now)]
        if silent:
            self.held.append(Held(wait, set(silent)))
            self.holds += [schema(kind).topic for kind in silent if kind not in self.told]
            self.told |= set(silent)
            return
        value = self._truth(life)
        settled = LabelState.PROVISIONAL if wait.rank == PROVISIONAL else LabelState.FINAL
        self._become(life, LabelState.CENSORED if value is None else settled, value, now)

    def _is_silent(self, kind: type[Event], now: int) -> bool:
        silence = self._policy(kind).silence
        return silence is not None and (kind not in self.heard or now - self.heard[kind] > micros(silence))

    def _hear(self, kind: type[Event], now: int) -> None:
        self.heard[kind] = now
        self.told.discard(kind)
        for held in list(self.held):
            held.silent.discard(kind)
            if not held.silent:
                self.held.remove(held)
                old = held.wait
                self.waits.append(Wait(now + self._lateness(old.life.label), old.rank, old.life, old.among))

    # -------------------------------------------------------------------------------------------------------- labels

    def _lateness(self, label: Label) -> int:
        return max(micros(self._policy(kind).lateness) for kind in sources(label))

    def _anchor(self, fact: Fact, now: int) -> None:
        for i, (name, label) in enumerate(self.labels):
            if label.anchor is fact.kind:
                self._open(i, Life(name, label, fact), now)
        for predictor in self.predictors:
            if predictor.anchor is fact.kind and not predictor.lead:
                self.outcomes.append(self.ask(predictor, fact, fact.time, now, None))

    def _open(self, i: int, life: Life, now: int) -> None:
        label, t = life.label, life.anchor.time
        self.lives.append(life)
        self._become(life, LabelState.OPEN, None, now)
        voids = [fact for fact in self.facts if fact.kind in label.unless and life.looks_at(fact)]
        before = self._evidence(life)
        if voids:
            life.void = True
            life.evidence = min(fact.time for fact in voids)
            self._become(life, LabelState.CENSORED, None, now)
        elif before:
            life.evidence = before[0].time if label.is_binary else before[-1].time
            self._conclude(life, now)
        end = t + micros(label.end)
        horizon = max(micros(self._policy(kind).horizon) for kind in sources(label))
        if label.provisional is not None:
            self.waits.append(Wait(t + micros(label.provisional), PROVISIONAL, life, i))
        self.waits.append(Wait(end + self._lateness(label), FINAL, life, i))
        self.waits.append(Wait(end + max(self._lateness(label), horizon), EXPIRY, life, i))
        asked = []
        for p, predictor in enumerate(self.predictors):
            if predictor.label is label:
                asked += [Wait(t - micros(lead), PREDICTION, life, p, predictor) for lead in predictor.lead]
        for wait in sorted(asked, key=lambda wait: wait.order):
            if wait.due <= now:
                self._ask_known(wait, now)
            else:
                self.waits.append(wait)

    def _evidence(self, life: Life) -> list[Fact]:
        """What counts for a label, by time; of equal times, by position."""
        label = life.label
        found = [
            fact
            for fact in self.facts
            if fact.kind in label.evidence
            and life.looks_at(fact)
            and holds(label.where, fact.event)
            and not (label.field and fact.fields[str(label.field)] is None)
        ]
        return sorted(found, key=lambda fact: (fact.time, fact.position))

    def _truth(self, life: Life) -> float | None:
        """The value that the evidence so far gives."""
        found, label = self._evidence(life), life.label
        if label.op in ("any", "none"):
            return float(bool(found) == (label.op == "any"))
        if label.op == "count":
            return float(len(found))
        values = [float(fact.fields[str(label.field)]) for fact in found]
        if label.op == "sum":
            return math.fsum(values)
        if not values:
            return None
        return mean(values) if label.op == "mean" else values[-1]

    def _testify(self, fact: Fact, now: int) -> None:
        """What the event says about labels."""
        for _, label in self.labels:
            for life in [life for life in self.lives if life.label is label and life.looks_at(fact) and not life.void]:
                if fact.kind in label.unless:
                    life.void = True
                    if life.newest.state != LabelState.CENSORED:
                        life.evidence = fact.time
                        self._become(life, LabelState.CENSORED, None, now)
                elif fact in (counted := self._evidence(life)):
                    if (label.is_binary and len(counted) > 1) or (label.op == "last" and counted[-1] is not fact):
                        continue
                    life.evidence = fact.time
                    self._conclude(life, now)

    def _conclude(self, life: Life, now: int) -> None:
        value, is_open = self._truth(life), life.newest.state == LabelState.OPEN
        if life.label.is_binary:
            self._become(life, LabelState.FINAL if is_open else LabelState.REVISED, value, now)
        elif not is_open and value != life.newest.value:
            self._become(life, LabelState.REVISED, value, now)

    def _decide(self, payload: bytes, now: int) -> None:
        decision = decode(DECISIONS, payload)
        predictor = self.app.predictors.get(decision.predictor)
        for life in self.lives:
            named = predictor is not None and life.label is predictor.label and life.anchor.position == decision.anchor
            if decision.censored and named and not life.forgotten and not life.void:
                life.void = True
                if life.newest.state != LabelState.CENSORED:
                    self._become(life, LabelState.CENSORED, None, now)

    def _become(self, life: Life, state: LabelState, value: float | None, now: int) -> None:
        version = LabelVersion(
            label=life.name,
            anchor=life.anchor.position,
            key=self._key(life.anchor),
            time=life.anchor.time,
            version=len(life.versions),
            state=state,
            value=value,
            now=now,
            evidence=life.evidence,
        )
        life.versions.append(version)
        self.outcomes.append(version)

    @staticmethod
    def _key(fact: Fact) -> tuple[str, ...]:
        return tuple(fact.fields[name] for name in schema(fact.kind).keys)

    # --------------------------------------------------------------------------------------------------- predictions

    def ask(self, predictor: Predictor, anchor: Fact, at: int, now: int, lead: int | None) -> Prediction:
        """The features of an anchor at the moment `at`."""
        known: dict[str, Any] = {}
        failed = False

        def find(name: str) -> Any:
            nonlocal failed
            if name not in known:
                known[name], wrong = self._feature(predictor.features[name], anchor, at, find)
                failed |= wrong
                self.errors[predictor.name] += wrong
            return known[name]

        return Prediction(
            predictor=predictor.name,
            anchor=anchor.position,
            key=self._key(anchor),
            time=anchor.time,
            at=at,
            now=now,
            lead=lead,
            features={name: find(name) for name in predictor.features},
            version=0,
            score=None,
            state="error" if failed else "learning",
        )

    def anchor(self, kind: type[Event], fields: dict[str, Any], time: int) -> Fact:
        """An anchor that is not in the log."""
        return Fact(-1, kind, time, fields, self._event(kind, time, fields))

    def candidates(self, predictor: Predictor, anchor: Fact, at: int) -> list[Any]:
        """What a ranking chooses from."""
        assert predictor.rank is not None
        found = [value for window in predictor.rank.candidates for value in self._past(window, anchor, at)]
        return list(dict.fromkeys(found))

    def _feature(self, feature: Any, anchor: Fact, at: int, find: Callable[[str], Any]) -> tuple[Any, bool]:
        """A feature's value, and whether its function raised."""
        if isinstance(feature, Past):
            return plain(self._past(feature, anchor, at)), False
        if ref := field_ref(feature):
            return plain(anchor.fields[ref.name]), False
        others = {"event": anchor.event, "now": self._datetime(at)}
        names = list(inspect.signature(feature).parameters)
        given = [others[name] if name in others else find(name) for name in names]
        try:
            return plain(feature(*given)), False
        except Exception as error:
            unknown = any(value is None for value in given)
            return None, not (unknown and isinstance(error, TypeError))

    def _past(self, window: Past, anchor: Fact, at: int) -> Any:
        rows = []  # time, value
        for fact, value in self._stream(window):
            same = all(fact.fields[ref.name] == anchor.fields[ref.name] for ref in window.by)
            begins = -math.inf if window.window is None or window.op == "ewm" else at - micros(window.window)
            if same and begins <= fact.time < at and value is not None and holds(window.where, fact.event):
                rows.append((fact.time, fact.position, value))
        rows.sort(key=lambda row: row[:2])
        times, values = [row[0] for row in rows], [row[2] for row in rows]
        if window.op == "top":
            return self._top(window, values)
        return aggregate(window, at, times, values)

    def _stream(self, window: Past) -> Iterable[tuple[Fact, Any]]:
        if window.label is not None:
            for life in self.lives:
                if life.label is window.label and life.newest.state in KNOWN_STATES:
                    yield life.anchor, life.newest.value
            return
        for fact in self.facts:
            if fact.kind in window.events:
                yield fact, fact.fields[window.field] if window.field else 1

    def _top(self, window: Past, values: list[Any]) -> list[Any]:
        appeared = self.appeared.get((window.events[0], str(window.field)), [])
        counted = Counter(values)
        return sorted(counted, key=lambda value: (-counted[value], appeared.index(value)))[: window.k]


def sources(label: Label) -> list[type[Event]]:
    """The event classes that a label waits for."""
    return list(dict.fromkeys((*label.evidence, *label.unless)))


def holds(where: Callable[[Any], Any] | None, event: Event) -> bool:
    """Whether a condition is true; one that raises is not."""
    try:
        return where is None or bool(where(event))
    except Exception:
        return False


def plain(value: Any) -> float | str | None:
    """A feature's value as it is logged: a text, a number, or None."""
    if value is None or isinstance(value, str):
        return value
    number = float(value)
    return None if math.isnan(number) else number


def mean(values: Sequence[float]) -> float:
    """The exact mean, rounded once."""
    return float(sum(map(Fraction, values)) / len(values))


def aggregate(window: Past, at: int, times: list[int], values: list[Any]) -> Any:
    """The value of a window over events in the order of (time, position)."""
    if window.op == "count":
        return len(values)
    if window.op == "sum":
        return math.fsum(values)
    if window.op == "distinct":
        return len(set(values))
    if not values or (window.op == "std" and len(values) < 2):
        return None
    if window.op == "since":
        return (at - times[-1]) / DAY
    if window.op == "ewm":
        assert window.window is not None
        weights = [2.0 ** (-(times[-1] - time) / micros(window.window)) for time in times]
        return math.fsum(w * v for w, v in zip(weights, values, strict=True)) / math.fsum(weights)
    if window.op == "std":
        centre = sum(map(Fraction, values)) / len(values)
        return math.sqrt(sum((Fraction(value) - centre) ** 2 for value in values) / (len(values) - 1))
    of: dict[str, Callable[[list[Any]], Any]] = {
        "mean": mean,
        "min": min,
        "max": max,
        "last": lambda found: found[-1],
        "first": lambda found: found[0],
    }
    return of[window.op](values)
