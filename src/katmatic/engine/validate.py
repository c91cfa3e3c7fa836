"""Cleaning: bytes -> columns of one stream; what cannot be read becomes a dead letter with its reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from katmatic.errors import InputError
from katmatic.moment import to_datetime
from katmatic.spec.event import Event, Field, Role, Schema
from katmatic.timestamp import parse_many

# A number is remembered as a float or by its value in a checkpoint: more than 64 bits fit into neither.
_INTEGER = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_WIRE: dict[type, Any] = {str: str, float: float, int: _INTEGER, bool: bool}


@dataclass(frozen=True)
class Dead:
    """A record that could not be read: its index, and the error in four parts."""

    index: int
    error: InputError


@dataclass(frozen=True)
class Columns:
    """Readable records of one stream, by field. `index` is each one's place among those that were given."""

    index: NDArray[np.int64]
    time: NDArray[np.int64]
    fields: dict[str, list[Any]]  # keys as text; the time as it was written
    heartbeats: NDArray[np.int64]
    dead: list[Dead]

    def __len__(self) -> int:
        return len(self.index)


class Reader:
    """Reads the records of one stream."""

    def __init__(self, schema: Schema, zone: ZoneInfo) -> None:
        self.schema, self.zone = schema, zone
        wire = [
            (f.name, _wire_type(f)) if f.default is ... else (f.name, _wire_type(f), f.default) for f in schema.fields
        ]
        self._type = msgspec.defstruct(schema.name, wire, kw_only=True)
        self._decode = msgspec.json.Decoder(self._type).decode
        self._keys = schema.names(Role.KEY, Role.ID)
        self._names = tuple(f.name for f in schema.fields)
        self._values = tuple(name for name in self._names if name != schema.time)

    def read(self, values: Sequence[bytes]) -> Columns:
        """The columns of `values`; b"" is a heartbeat."""
        dead: list[Dead] = []
        heartbeats: list[int] = []
        index: Sequence[int] = range(len(values))
        try:
            rows = list(map(self._decode, values))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            index, rows = self._one_by_one(values, heartbeats, dead)
        fields = {name: [getattr(row, name) for row in rows] for name in self._names}
        bad: dict[int, InputError] = {}
        for name in self._keys:
            fields[name] = [key if type(key) is str else str(key) for key in fields[name]]
            if "" in fields[name]:
                for i, key in enumerate(fields[name]):
                    if key == "":
                        bad.setdefault(
                            i, self._error(f"$.{name}", "an empty text", "a key", "say who the event is about")
                        )
        time, failed = parse_many(fields[self.schema.time], self.zone)
        for i, error in failed:
            bad.setdefault(i, _at(self.schema, error))
        places = np.fromiter(index, np.int64, len(rows))
        if bad:
            dead += [Dead(int(places[i]), error) for i, error in bad.items()]
            kept = [i for i in range(len(rows)) if i not in bad]
            places, time = places[kept], time[kept]
            fields = {name: [column[i] for i in kept] for name, column in fields.items()}
        return Columns(places, time, fields, np.array(heartbeats, np.int64), sorted(dead, key=lambda d: d.index))

    def _one_by_one(
        self, values: Sequence[bytes], heartbeats: list[int], dead: list[Dead]
    ) -> tuple[list[int], list[Any]]:
        index, rows = [], []
        for i, value in enumerate(values):
            if not value:
                heartbeats.append(i)
                continue
            try:
                row = self._decode(value)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                dead.append(Dead(i, self._explain(value, error)))
            else:
                index.append(i)
                rows.append(row)
        return index, rows

    def check(self, value: bytes) -> None:
        """Raise InputError if `value` cannot be read as an event of this stream."""
        for problem in self.read([value]).dead:
            raise problem.error

    def identities(self, columns: Columns, seed: int) -> NDArray[np.uint64]:
        """64 bits per record that are equal for equal identities: the `Id`, or else the whole content; never 0."""
        encode, digest = msgspec.msgpack.Encoder().encode, xxhash.xxh3_64_intdigest
        if self.schema.id is not None:
            found = [digest(value.encode(), seed) for value in columns.fields[self.schema.id]]
        else:
            rest = [columns.fields[name] for name in self._values]
            rows = zip(columns.time.tolist(), *rest, strict=True)
            found = [digest(encode(row), seed) for row in rows]
        return np.maximum(np.array(found, np.uint64), 1)

    def events(self, columns: Columns) -> list[Event]:
        """The records as the user's event objects, with times in the app's zone."""
        make, zone, time = self.schema.event, self.zone, self.schema.time
        moments = [to_datetime(moment).astimezone(zone) for moment in columns.time.tolist()]
        found = []
        for i, moment in enumerate(moments):
            values = {name: columns.fields[name][i] for name in self._values}
            found.append(make(**{time: moment}, **values))
        return found

    def _explain(self, value: bytes, error: Exception) -> InputError:
        text = str(error)
        path = "$" + text.rpartition("`$")[2].rstrip("`") if "`$" in text else "$"
        expected, do = _advice(text)
        shown = value[:80].decode("utf-8", "replace")
        return self._error(path, f"{text.partition(' - at')[0]} in {shown!r}", expected, do)

    def _error(self, path: str, found: str, expected: str, do: str) -> InputError:
        return InputError(f"{self.schema.topic} {path}", found=found, expected=expected, do=do)


def _wire_type(f: Field) -> Any:
    if f.role is Role.TIME:
        kind: Any = str | int | float
    elif f.role in (Role.KEY, Role.ID):
        kind = str | int
    else:
        kind = _WIRE[f.kind]
    return kind | None if f.optional else kind


def _at(schema: Schema, error: InputError) -> InputError:
    return InputError(f"{schema.topic} $.{schema.time}", found=error.found, expected=error.expected, do=error.do)


def _advice(text: str) -> tuple[str, str]:
    if "missing required field" in text:
        return "every field without a default", "add the field"
    if "JSON is malformed" in text or "trailing characters" in text or "truncated" in text:
        return "one JSON object", "send one JSON object per event, in UTF-8"
    if "`int` <=" in text or "`int` >=" in text:
        return "a whole number of at most 64 bits", "declare the field as a float, or as a str"
    if "UTF-8" in text or "utf-8" in text:
        return "UTF-8", "encode the event in UTF-8"
    return "the type that the event declares", "correct the value, or the declaration"


def in_range(columns: Columns, now: NDArray[np.int64], horizon: int, ahead: int, schema: Schema) -> list[Dead]:
    """Which records lie before 1970, too far in the future, or so late that nothing can be exact about them."""
    time = columns.time
    wrong = (time < 0) | (time > now + ahead) | (time < now - horizon)
    found = []
    for i in np.flatnonzero(wrong).tolist():
        moment = to_datetime(int(time[i])).isoformat() if abs(time[i]) < 2**57 else str(time[i])
        if time[i] < 0:
            expected, do = "a time since 1970", "correct the sender's clock"
        elif time[i] > now[i]:
            expected, do = "a time that is not so far ahead", "correct the sender's clock, or raise App.source(ahead=)"
        else:
            expected, do = "an event within the horizon", "replay it by its own time, or raise App.source(horizon=)"
        where = f"{schema.topic} $.{schema.time}"
        found.append(Dead(int(columns.index[i]), InputError(where, found=moment, expected=expected, do=do)))
    return found


def conditions(masks: Sequence[Callable[[Any], Any]], events: Sequence[Event]) -> tuple[NDArray[np.uint8], int, str]:
    """Which events each condition (`where=`) holds for, how often one raised (which counts as no), and what it said."""
    table = np.zeros((len(events), max(len(masks), 1)), np.uint8)
    raised, said = 0, ""
    for j, mask in enumerate(masks):
        for i, event in enumerate(events):
            try:
                table[i, j] = bool(mask(event))
            except Exception as error:  # the user's function may raise anything
                raised += 1
                said = f"{type(error).__name__}: {error}"
    return table, raised, said


def take(columns: Columns, kept: NDArray[np.int64]) -> Columns:
    """Some of the records, by their row."""
    rows = kept.tolist()
    fields = {name: [column[i] for i in rows] for name, column in columns.fields.items()}
    return Columns(columns.index[kept], columns.time[kept], fields, columns.heartbeats, columns.dead)


def local(moment: int, zone: ZoneInfo) -> datetime:
    """A moment as an aware datetime in the app's zone."""
    return to_datetime(moment).astimezone(zone)
