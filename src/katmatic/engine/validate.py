"""Cleaning: bytes -> columns of one stream; what cannot be read becomes a dead letter with its reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import repeat
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
from numpy.typing import NDArray

from katmatic.errors import InputError
from katmatic.moment import to_datetime
from katmatic.spec.event import Event, Field, Role, Schema
from katmatic.state import loop, scan
from katmatic.timestamp import offsets, parse_many

# A number is remembered as a float or by its value in a checkpoint: more than 64 bits fit into neither.
_INTEGER = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_WIRE: dict[type, Any] = {str: str, float: float, int: _INTEGER, bool: bool}
_NONE = np.arange(0)
_PADDING = bytes(scan.PADDING)
_packed = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True)
class Dead:
    """A record that could not be read: its index, and the error in four parts."""

    index: int
    error: InputError


class Columns:
    """Readable records of one stream, by field."""

    _words: bytearray

    def __init__(
        self,
        index: NDArray[np.int64],
        heartbeats: NDArray[np.int64],
        dead: list[Dead],
        layout: Layout,
        text: bytes,  # in which the texts lie
        table: NDArray[np.int64],  # (2 * fields + 2, n): words, lengths, times, fates: see state/scan.py
    ) -> None:
        self.index, self.heartbeats, self.dead = index, heartbeats, dead
        self.layout, self.text, self.table = layout, text, table
        self._count = len(index)

    @classmethod
    def plain(cls, layout: Layout, text: bytes, words: bytearray, count: int) -> Columns:
        """Columns of all that was given; arrays are made of the table once they are looked at."""
        columns = object.__new__(cls)
        columns.layout, columns.text, columns.heartbeats, columns.dead = layout, text, _NONE, []
        columns._words, columns._count = words, count
        return columns

    @cached_property
    def index(self) -> NDArray[np.int64]:
        """Each one's place among those that were given."""
        return np.arange(self._count)

    @cached_property
    def table(self) -> NDArray[np.int64]:
        """Words, lengths, times and fates: (2 * fields + 2, n)."""
        return np.frombuffer(self._words, np.int64).reshape(-1, self._count)

    @cached_property
    def address(self) -> int:
        """Where the table lies."""
        return int(self.table.ctypes.data)

    def __len__(self) -> int:
        return self._count

    @property
    def words(self) -> NDArray[np.int64]:
        """A number itself, or its bits; of a text where it begins: (fields, n)."""
        return self.table[: len(self.layout.names)]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The bytes of a text: (fields, n)."""
        return self.table[len(self.layout.names) : -2]

    @property
    def time(self) -> NDArray[np.int64]:
        """The moments of the records."""
        found: NDArray[np.int64] = self.table[-2]
        return found

    @cached_property
    def fields(self) -> Mapping[str, list[Any]]:
        """The values of each field, made when they are asked for: keys as text; the time as it was written."""
        return _Fields(self)

    def numbers(self, name: str) -> NDArray[np.float64] | None:
        """A field that is a number or a truth, NaN where unknown; None if it is a text."""
        f = self.layout.places[name]
        kind, words = self.layout.kinds[f], self.words[f]
        if kind >= scan.TEXT:
            return None
        found: NDArray[np.float64] = words.view(np.float64) if kind == scan.REAL else words.astype(np.float64)
        if self.layout.is_optional[f]:
            return np.where(self.lengths[f] == scan.NULL, np.nan, found)
        return found


class _Fields(Mapping[str, list[Any]]):
    def __init__(self, columns: Columns) -> None:
        self._columns, self._made = columns, dict[str, list[Any]]()

    def __len__(self) -> int:
        return len(self._columns.layout.places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns.layout.places)

    def __getitem__(self, name: str) -> list[Any]:
        if name not in self._made:
            self._made[name] = self._make(self._columns.layout.places[name])
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in self._columns.layout.places

    def _make(self, f: int) -> list[Any]:
        columns = self._columns
        kind, words, lengths = columns.layout.kinds[f], columns.words[f], columns.lengths[f]
        found: list[Any]
        if kind < scan.TEXT:
            found = (words.view(np.float64) if kind == scan.REAL else words).tolist()
            if kind == scan.TRUTH:
                found = list(map(bool, found))
        else:
            text, stops = columns.text, (words + np.maximum(lengths, 0)).tolist()
            spans = zip(words.tolist(), stops, strict=True)
            if kind == scan.TIME:
                return [msgspec.json.decode(text[start:stop]) for start, stop in spans]
            found = [text[start:stop].decode() for start, stop in spans]
        for i in np.flatnonzero(lengths == scan.NULL).tolist():
            found[i] = None
        return found


class Layout:
    """How the records of a stream lie in columns: for the compiled reader, and for whoever looks at them."""

    def __init__(self, schema: Schema) -> None:
        self.names = tuple(field.name for field in schema.fields)
        self.places = {name: f for f, name in enumerate(self.names)}
        self.kinds = [_kind(field) for field in schema.fields]
        self.is_optional = [field.optional for field in schema.fields]
        self.defaults, self.letters = b"", b""
        self._parts: dict[tuple[str, ...], tuple[NDArray[np.int64], int]] = {}
        self.table = np.zeros((len(schema.fields), scan.FIELD_WORDS), np.int64)
        for field, row, kind in zip(schema.fields, self.table, self.kinds, strict=True):
            name = field.name.encode()
            row[scan.F_KIND], row[scan.F_OPTIONAL] = kind, field.optional
            row[scan.F_NAME], row[scan.F_BYTES] = len(self.letters), len(name)
            row[scan.F_FIRST] = int.from_bytes(name[:8].ljust(8, b"\0"), "little", signed=True)
            row[scan.F_MASK] = int.from_bytes((b"\xff" * len(name[:8])).ljust(8, b"\0"), "little", signed=True)
            self.letters += name
            if field.default is not ...:
                row[scan.F_DEFAULT] = 1
                (word,), (length,), text = self.column(kind, [field.default], len(self.defaults))
                row[scan.F_WORD], row[scan.F_LENGTH] = word, length
                self.defaults += text
        self.numbers = {
            n: f for f, (n, kind) in enumerate(zip(self.names, self.kinds, strict=True)) if kind < scan.TEXT
        }
        self.is_plain = len(self.names) <= scan.FIELDS_MOST
        self.fields = self.table.ctypes.data, len(self.names), self.letters  # as the loops take them
        self.time, self.identity = self.places[schema.time], self.places.get(schema.id or "", -1)

    def packed(self, values: Sequence[bytes]) -> tuple[bytes, int]:
        """Records as one text, after what is there where a field is missing; and where they begin."""
        n = len(values) + 1
        text = _packed([*values, _PADDING])
        first = 1 if n < 16 else 3 if n < 65_536 else 5  # after the head of the list
        return (self.defaults + text, first + len(self.defaults)) if self.defaults else (text, first)

    def parts(self, names: tuple[str, ...]) -> int:
        """The address of an array that says which fields these are."""
        if names not in self._parts:
            found = np.array([self.places[name] for name in names], np.int64)
            self._parts[names] = found, found.ctypes.data
        return self._parts[names][1]

    @staticmethod
    def column(kind: int, values: Sequence[Any], start: int) -> tuple[NDArray[np.int64], NDArray[np.int64], bytes]:
        """Values as words, their lengths, and their texts, which will lie from `start` on."""
        lengths = np.array([scan.NULL if value is None else 0 for value in values], np.int64)
        if kind < scan.TEXT:
            known = [0 if value is None else value for value in values]
            if kind == scan.REAL:
                return np.array(known, np.float64).view(np.int64), lengths, b""
            return np.array(known, np.int64), lengths, b""
        encode = msgspec.json.encode if kind == scan.TIME else str.encode
        texts = [b"" if value is None else encode(value) for value in values]
        sizes = np.array([*map(len, texts)], np.int64)
        return start + np.cumsum(sizes) - sizes, lengths + sizes, b"".join(texts)


def _kind(field: Field) -> int:
    if field.role is Role.TIME:
        return scan.TIME
    if field.role in (Role.KEY, Role.ID):
        return scan.KEY
    return {float: scan.REAL, int: scan.WHOLE, bool: scan.TRUTH, str: scan.TEXT}[field.kind]


class Reader:
    """Reads the records of one stream: those that are plain all at once, the others one by one; both alike."""

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
        self.layout = Layout(schema)

    def read(self, values: Sequence[bytes]) -> Columns:
        """The columns of `values`; b"" is a heartbeat."""
        layout, n = self.layout, len(values)
        text, first = layout.packed(values)
        table = np.empty((2 * len(layout.names) + 2, n), np.int64)
        columns = Columns(np.arange(n), _NONE, [], layout, text, table)
        time, fate = table[-2:]
        if not layout.is_plain:
            fate[:] = [scan.ODD if value else scan.BEAT for value in values]
        elif not loop.read(text, first, layout.fields, columns.address, n):
            return columns
        is_local = fate == scan.LOCAL
        if is_local.any():
            time[is_local] -= offsets(time[is_local], self.zone)
            if is_local.all():
                return columns
        odd = np.flatnonzero(fate == scan.ODD)
        which, moments, fields, dead = self._read_odd([values[i] for i in odd.tolist()])
        good = odd[which]
        time[good] = moments
        parts = [text]
        size = len(text)
        for f, (name, kind) in enumerate(zip(layout.names, layout.kinds, strict=True)):
            columns.words[f, good], columns.lengths[f, good], more = Layout.column(kind, fields[name], size)
            parts.append(more)
            size += len(more)
        fate[good] = scan.PLAIN
        beats = np.flatnonzero(fate == scan.BEAT)
        dead = [Dead(int(odd[each.index]), each.error) for each in dead]
        text = b"".join([*parts, bytes(scan.PADDING)])
        columns = Columns(columns.index, beats, dead, layout, text, table)
        return columns if (fate < scan.BEAT).all() else take(columns, np.flatnonzero(fate < scan.BEAT))

    def _read_odd(
        self, values: Sequence[bytes]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], dict[str, list[Any]], list[Dead]]:
        """Read records of any form: the places of those that can be, their times and fields, and those that cannot."""
        dead: list[Dead] = []
        index: Sequence[int] = range(len(values))
        try:
            rows = list(map(self._decode, values))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            index, rows = self._one_by_one(values, dead)
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
        return places, time, fields, sorted(dead, key=lambda d: d.index)

    def _one_by_one(self, values: Sequence[bytes], dead: list[Dead]) -> tuple[list[int], list[Any]]:
        index, rows = [], []
        for i, value in enumerate(values):
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

    def events(self, columns: Columns) -> list[Event]:
        """The records as the user's event objects, with times in the app's zone."""
        make, zone, time = self.schema.event, self.zone, self.schema.time
        moments = [to_datetime(moment).astimezone(zone) for moment in columns.time.tolist()]
        rows = zip(*(columns.fields[name] for name in self._values), strict=True) if self._values else repeat(())
        names = self._values
        return [make(**{time: moment}, **dict(zip(names, row))) for moment, row in zip(moments, rows)]  # noqa: B905

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
    for i in wrong.nonzero()[0].tolist():
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
    table = columns.table.take(kept, 1)
    return Columns(columns.index[kept], columns.heartbeats, columns.dead, columns.layout, columns.text, table)


def local(moment: int, zone: ZoneInfo) -> datetime:
    """A moment as an aware datetime in the app's zone."""
    return to_datetime(moment).astimezone(zone)
