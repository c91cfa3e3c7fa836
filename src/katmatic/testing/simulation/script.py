"""What one seed draws: what arrives at an application and when, and all that goes wrong meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from katmatic.duration import micros
from katmatic.moment import to_datetime
from katmatic.spec.app import App, SourcePolicy, windows
from katmatic.spec.event import Event, Role, schema

SECOND = 1_000_000
STARTS = (  # half a minute before the clocks change in Europe, forward and back, and an ordinary noon
    1_743_296_370_000_000,
    1_761_440_370_000_000,
    1_745_236_800_000_000,
)
STEPS = (20, 90)  # how many things happen, between
KEYS = (0, 0, 0, 0, 1, 1, 2, 3)  # most things happen to one key
NUMBERS = (0.0, 1.0, 0.1, 2.5, -0.3, 1e6, None, 7.25)
INTEGERS = (0, 1, 2, 3, 4, -5, 1, 2)
WORDS = ("red", "green", "", "blue", "ügly ☃", "red", "green", "tan")
POISON = (b"{", b"null", b"[]", b"\xff\xfe", b" ", b'"text"', b"[" * 20_000, b'{"at": "soon"}', b"{}")
JUMPS = (-3600, -86_400, -90, -1, 1, 45, 3600, 86_400)  # seconds: a wrong clock, the end of summer time, a repair
LATENCIES = (0.2, 3.0, 40.0)  # seconds that a slow disk takes for a sync

# What happens, and how likely. Gentle things leave the moments of reading as they are.
HAPPENS = {"send": 60, "post": 12, "tick": 6, "model": 3}
GENTLE = {"crash": 8, "save": 4, "restart": 2, "second": 2, "spoil": 2, "fails": 2, "full": 2}
ROUGH = {"jump": 3, "slow": 2, "outage": 2}


@dataclass(frozen=True)
class Happening:
    """One thing that happens, `gap` microseconds after the one before."""

    gap: int
    what: str
    records: tuple[tuple[str, bytes], ...] = ()
    number: int = 0  # of a crash: after how many writes; of a jump: microseconds; of what lasts: how long
    is_power: bool = False  # a crash is a power cut


@dataclass(frozen=True)
class Script:
    """All that happens to an application. In a `gentle` one nothing changes what is read when."""

    app: App
    seed: int
    start: int
    is_gentle: bool
    happenings: tuple[Happening, ...]
    end: int  # so long after the last of them, nothing is open any more
    sends_blindly: bool = False  # sources send again all that was not acknowledged, also what is durable
    faults: dict[str, int] = field(default_factory=dict)  # how often what was drawn


def draw(app: App, seed: int, *, steps: tuple[int, int] = STEPS) -> Script:
    """The script of one seed: always the same."""
    return _Writer(app, seed, steps).script()


def lengths(app: App) -> list[int]:
    """Every length of time that the application declares, in microseconds: at their edges things go wrong."""
    found: set[int] = set()
    for kind in app.events:
        policy = app.sources.get(kind, SourcePolicy())
        found |= {micros(length) for length in (policy.lateness, policy.horizon, policy.duplicates)}
        found |= {micros(policy.silence)} if policy.silence is not None else set()
    for label in app.labels.values():
        found |= {abs(micros(label.start)), abs(micros(label.end))}
        found |= {micros(label.provisional)} if label.provisional is not None else set()
    for predictor in app.predictors.values():
        found |= {abs(micros(lead)) for lead in predictor.lead}
        found |= {micros(window.window) for window in windows(predictor) if window.window is not None}
    return sorted(found - {0})


class _Writer:
    def __init__(self, app: App, seed: int, steps: tuple[int, int]) -> None:
        self._app, self._seed, self._steps = app, seed, steps
        self._chance = np.random.default_rng([seed, 0x5C])
        self._lengths = lengths(app) or [SECOND]
        self._start = self._one(STARTS)
        self._sent: list[tuple[str, bytes]] = []
        self._events: list[tuple[type[Event], dict[str, Any]]] = []
        self._dead: set[type[Event]] = set()  # sources that send nothing any more
        self._silent: dict[type[Event], int] = {}  # until when

    def script(self) -> Script:
        is_gentle = bool(self._chance.integers(0, 2))
        happens = HAPPENS | GENTLE | ({} if is_gentle else ROUGH)
        names, weights = list(happens), np.array(list(happens.values()), float)
        count = int(self._chance.integers(*self._steps))
        drawn = self._chance.choice(names, count, p=weights / weights.sum()).tolist()
        now, found = self._start, []
        for what in drawn:
            gap = self._gap() if what in HAPPENS else 0
            now += gap
            found.append(self._happening(what, gap, now))
        faults = {what: drawn.count(what) for what in (*GENTLE, *ROUGH) if what in drawn}
        blindly = not is_gentle and bool(self._chance.integers(0, 2))
        end = 3 * max(self._lengths) + 60 * SECOND
        return Script(self._app, self._seed, self._start, is_gentle, tuple(found), end, blindly, faults)

    def _happening(self, what: str, gap: int, now: int) -> Happening:
        draw = self._chance.integers
        if what in ("send", "post"):
            if draw(0, 40) == 0:
                self._silence(now)
            count = int(self._one((1, 1, 1, 1, 2, 3, 8)))
            records = tuple(record for _ in range(count) if (record := self._record(now)) is not None)
            return Happening(gap, what if records else "tick", records)
        if what == "crash":
            return Happening(gap, what, number=int(self._one((1, 2, 3, 5, 8, 13, 21, 34))), is_power=bool(draw(0, 2)))
        if what == "fails":
            return Happening(gap, what, number=int(draw(1, 6)))
        if what == "jump":
            return Happening(gap, what, number=int(self._one(JUMPS)) * SECOND + int(self._one((0, 0, 1, -1))))
        if what == "slow":
            return Happening(gap, what, number=int(self._one(LATENCIES) * SECOND))
        if what in ("full", "outage", "model"):
            return Happening(gap, what, number=int(draw(0, 12)))
        return Happening(gap, what)

    def _silence(self, now: int) -> None:
        kind = self._one(self._app.events)
        if self._chance.integers(0, 3) == 0:
            self._dead.add(kind)
        else:
            self._silent[kind] = now + 3 * self._length()

    def _record(self, now: int) -> tuple[str, bytes] | None:
        kind = self._one(self._app.events)
        odd = self._one((*("",) * 12, "beat", "again", "again", "correct", "poison", "spoilt", "stranger"))
        if odd == "stranger":
            return ("elsewhere", b"{}")
        if kind in self._dead or self._silent.get(kind, 0) > now:
            return None
        topic = schema(kind).topic
        if odd == "beat":
            record = (topic, b"")
        elif odd == "poison":
            record = (topic, self._one(POISON))
        elif odd == "again" and self._sent:
            record = self._sent[-1 - min(int(self._chance.geometric(0.3)) - 1, len(self._sent) - 1)]
        else:
            fields = self._fields(kind, now)
            if odd == "correct" and self._events:
                kind, before = self._events[-1 - int(self._chance.integers(0, min(6, len(self._events))))]
                topic = schema(kind).topic
                fields = self._fields(kind, now) | {name: before[name] for name in schema(kind).names(Role.ID)}
            if odd == "spoilt":
                fields[self._one(list(fields))] = self._one((None, "", [], {}, True, 1e9, "nonsense"))
            self._events.append((kind, fields))
            record = (topic, msgspec.json.encode(fields))
        self._sent.append(record)
        return record

    def _fields(self, kind: type[Event], now: int) -> dict[str, Any]:
        of_kind: dict[Any, tuple[Any, ...]] = {float: NUMBERS, int: INTEGERS, str: WORDS, bool: (True, False)}
        key = int(self._one(KEYS))
        found: dict[str, Any] = {}
        for i, f in enumerate(schema(kind).fields):
            if f.role is Role.TIME:
                found[f.name] = self._time(kind, now)
            elif f.role is Role.ID:
                found[f.name] = f"n{len(self._events)}"
            elif f.role is Role.KEY:
                found[f.name] = self._key(f.name, key >> i)
            else:
                value = self._one(of_kind.get(f.kind, (None,)))
                found[f.name] = 0 if value is None and not f.optional else value
        return found

    def _key(self, name: str, key: int) -> str:
        """One of a few; or the identity of an earlier event, where a field has the name of one."""
        of = [
            e[n] for k, e in self._events[-8:] for n in schema(k).names(Role.ID) if n == name and isinstance(e[n], str)
        ]
        return str(self._one(of)) if of else f"{name[0]}{key % 3}"

    def _time(self, kind: type[Event], now: int) -> Any:
        """Mostly now; or at the edge of some length, in the past or ahead; as a number, or as people write it."""
        age = int(self._one((0, 0, 0, 0, SECOND, 2 * SECOND, 1, -1, -2 * SECOND)))
        if self._chance.integers(0, 3) == 0:
            age = self._length() * int(self._one((1, 1, 1, -1)))
        time = now - age
        form = self._chance.integers(0, 8)
        if form == 0:
            return time if time > 10**14 else str(to_datetime(max(time, 0)).isoformat())
        if form == 1:  # without an offset: it is in the application's zone, also in the hour that comes twice
            return to_datetime(time).astimezone(self._app.timezone).replace(tzinfo=None).isoformat(sep=" ")
        return to_datetime(time).isoformat()

    def _gap(self) -> int:
        if self._chance.integers(0, 10) == 0:
            return self._length()
        return int(self._one((0, 0, 0, 0, SECOND, SECOND, 2 * SECOND, 3 * SECOND, 1, 8 * SECOND)))

    def _length(self) -> int:
        return max(0, int(self._one(self._lengths)) + int(self._one((0, 0, 1, -1))))

    def _one(self, of: Any) -> Any:
        return of[int(self._chance.integers(0, len(of)))]
