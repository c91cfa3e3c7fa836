"""Histories that go wrong in every way, for the applications of the simulation."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import msgspec
from hypothesis import strategies as st

from katmatic import App, Event
from katmatic.log.codec import encode
from katmatic.moment import to_datetime
from katmatic.records import DECISIONS, Decision
from katmatic.spec.event import Role, schema
from katmatic.testing.simulation.apps import APPS

__all__ = ["APPS", "History", "histories"]

SECOND = 1_000_000
START = 1_743_296_370_000_000  # half a minute before the clocks go forward in Europe, on 2025-03-30

# ----------------------------------------------------------------------------------------------------------- histories

NUMBERS = (0.0, 1.0, 0.1, 2.5, -0.3, 1e6, None, 7.25)
INTEGERS = (0, 1, 2, 3, 4, -5, 1, 2)
WORDS = ("red", "green", "", "blue", "ügly ☃", "red", "green", "tan")
POISON = (
    b"{",
    b"null",
    b"[]",
    b"\xff\xfe",
    b" ",
    b'{"at": "soon"}',
    b'"text"',
    b"[" * 100_000,
    b'{"unknown":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"sensor": "s0", "room": "r0", "at": 1e999}',
    b'{"user": "", "item": "i0", "at": 1743296370}',
    b'{"pupil": null, "at": 1743296370}',
    b'{"sensor": "s0", "room": "r0", "at": 1743296370, "n": ' + b"9" * 400 + b"}",
    b'{"sensor": "s0", "room": "r0", "at": 1743296370, "word": "\\ud800"}',
    b'{"user": "u0", "item": "i0", "at": 1743296370, "price": 1e999}',
    b'{"user": "u0", "item": "i0", "at": true}',
)
GAPS = (0, 0, 0, 0, 0, SECOND, SECOND, SECOND, 2 * SECOND, 3 * SECOND, 1, 8 * SECOND, 40 * SECOND, 900 * SECOND)
AGES = (*(s * SECOND for s in (0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 8, 12, 20, 31, -1, -2, -4, -7, -20)), 1, -1)
KEYS = (0, 0, 0, 0, 0, 1, 2, 3, 5, 6, 7)  # most things happen to one key
ODD = ("beat", "again", "correct", "poison", "decide", "tick", "stranger")


@dataclass
class History:
    """Moments with their records; a moment without is a tick."""

    app: App
    moments: list[tuple[int, list[tuple[str, bytes]]]] = field(default_factory=list)

    @property
    def records(self) -> int:
        return sum(len(records) for _, records in self.moments)


_step = st.tuples(
    st.sampled_from(GAPS),
    st.integers(0, 23),
    st.sampled_from(KEYS),
    st.sampled_from(AGES),
    st.integers(0, 7),
)


def histories(app: App, *, most: int = 40) -> st.SearchStrategy[History]:
    """What may happen to an application."""
    short = st.lists(_step, min_size=1, max_size=most)
    long = st.lists(_step, min_size=most // 2, max_size=most)
    return (short | long).map(lambda steps: _history(app, steps))


def _history(app: App, steps: list[tuple[int, int, int, int, int]]) -> History:
    now = START
    kinds = app.events
    sent: list[tuple[str, bytes]] = []  # by position
    events: list[tuple[int, type[Event], dict[str, Any]]] = []
    timeline: list[tuple[int, tuple[str, bytes] | None]] = []
    for gap, what, key, age, value in steps:
        now += gap
        record = None
        kind = kinds[what % len(kinds)]
        odd = ODD[what - 17] if what >= 17 else None
        topic = schema(kinds[key % len(kinds)]).topic
        if odd is None:
            fields = _fields(kind, key, value, now - age, len(sent))
            events.append((len(sent), kind, fields))
            record = (schema(kind).topic, msgspec.json.encode(fields))
        elif odd == "beat":
            record = (topic, b"")
        elif odd == "poison":
            record = (topic, POISON[(key + 8 * value) % len(POISON)])
        elif odd == "stranger":
            record = ("elsewhere", b"{}")
        elif odd == "again" and events:
            record = sent[events[-1 - key % len(events)][0]]
        elif odd == "correct" and events:
            _, kind, fields = events[-1 - key % len(events)]
            given = {name: fields[name] for name in schema(kind).names(Role.ID)}
            record = (schema(kind).topic, msgspec.json.encode(_fields(kind, value, key, now - age, 0) | given))
        elif odd == "decide":
            record = _decision(app, events, key, value, now)
        timeline.append((now, record))
        if record is not None:
            sent.append(record)
    found = groupby(timeline, key=lambda item: item[0])
    moments = [(at, [record for _, record in items if record is not None]) for at, items in found]
    return History(app, moments)


def _fields(kind: type[Event], key: int, value: int, time: int, position: int) -> dict[str, Any]:
    of_kind: dict[type, Any] = {float: NUMBERS, int: INTEGERS, str: WORDS, bool: (True, False) * 4}
    found: dict[str, Any] = {}
    for i, f in enumerate(schema(kind).fields):
        if f.role is Role.TIME:
            found[f.name] = time if value == 3 else to_datetime(time).isoformat()
        elif f.role is Role.ID:
            found[f.name] = str(position)
        elif f.role is Role.KEY:
            # The identity of another event, which is its position; else one of a few.
            found[f.name] = max(0, position - 1 - key) if f.name == "id" else f"{f.name[0]}{(key >> i) % 3}"
        else:
            chosen = of_kind[f.kind][(value + i) % 8]
            found[f.name] = 0 if chosen is None and not f.optional else chosen
    return found


def _decision(
    app: App, events: list[tuple[int, type[Event], dict[str, Any]]], key: int, value: int, now: int
) -> tuple[str, bytes] | None:
    predictor = list(app.predictors.values())[value % len(app.predictors)]
    anchors = [(position, fields) for position, kind, fields in events if kind is predictor.anchor]
    if not anchors:
        return None
    position, fields = anchors[-1 - key % len(anchors)]
    decision = Decision(
        predictor=predictor.name if value != 7 else "nobody",
        anchor=position,
        key=tuple(str(fields[name]) for name in schema(predictor.anchor).keys),
        action="decline",
        score=0.9,
        now=now,
        censored=value != 6,
    )
    return DECISIONS, encode(decision)
