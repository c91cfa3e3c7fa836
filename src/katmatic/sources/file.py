"""Recorded events from a file: CSV, JSON Lines or Parquet, as the JSON that a producer would have sent."""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import math
import zlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import IO, Any, BinaryIO, cast
from zoneinfo import ZoneInfo

import msgspec

from katmatic.errors import InputError
from katmatic.sources.base import Row
from katmatic.spec.event import Event, Field, Role, Schema, schema
from katmatic.timestamp import parse_many

CHUNK_ROWS = 2_000  # whose times are read together
FORMATS = {".csv": ",", ".tsv": "\t", ".jsonl": "", ".ndjson": "", ".json": "", ".parquet": ""}

_YES, _NO = frozenset(("true", "t", "yes", "y", "1")), frozenset(("false", "f", "no", "n", "0"))
_UNTYPED = (Role.KEY, Role.ID, Role.TIME, Role.SERVED)
_Read = tuple[Any, bytes]  # the time as it was written (None: none to be found), and the event as JSON
_OPEN: _Read = (None, b"")  # comes before the first row: the file could be opened, and has the columns


def open_events(path: Path | str, event: type[Event], mapping: Mapping[str, str], zone: ZoneInfo) -> EventFile:
    """The events of a file, to be read in order.

    The format follows from the name: `.csv`, `.tsv`, `.jsonl`, `.ndjson` or `.json` (each also with `.gz`), `.parquet`.
    `mapping` says which column a field is in (`{"at": "TX_DATETIME"}`), or its value in every row
    (`{"country": ":NP"}`); other fields are in the column of their own name. A row that cannot be read is passed on as
    it is, so that it becomes a dead letter. InputError: no such file, an unknown format, a column that is not there.
    """
    return EventFile(Path(path), schema(event), mapping, zone)


class EventFile:
    """A file of events. Iterating gives (its time if that can be read, its JSON) from where it stands to the end."""

    def __init__(self, path: Path, declared: Schema, mapping: Mapping[str, str], zone: ZoneInfo) -> None:
        self.path, self._schema, self._zone = path, declared, zone
        self._mapping = {field: column for field, column in mapping.items() if not column.startswith(":")}
        known = {field.name: field for field in declared.fields}
        for name in mapping:
            if name not in known:
                raise _unknown(f"--map {name}={mapping[name]}", name, list(known), f"a field of {declared.name}")
        self._constants = {
            name: _of_text(known[name], text[1:]) for name, text in mapping.items() if text.startswith(":")
        }
        self.len_hint = _size(path)  # in bytes, for a progress bar
        self._position, self._read = 0, _Progress()
        self._rows = self._start()

    def __iter__(self) -> Iterator[Row]:
        while rows := self.read(CHUNK_ROWS):
            yield from rows

    @property
    def position(self) -> int:
        """How many events were read."""
        return self._position

    @property
    def bytes_read(self) -> int:
        """How much of the file was read, of `len_hint` bytes: of what lies on the disk, compressed or not."""
        return min(self.len_hint, self._read.bytes())

    def read(self, limit: int) -> Sequence[Row]:
        """The next events, at most `limit`; none at the end. InputError if the file breaks off."""
        with self._told():
            found = list(islice(self._rows, limit))
        self._position += len(found)
        moments, bad = parse_many([time for time, _ in found], self._zone)
        wrong = {i for i, _ in bad}
        return [
            (None if i in wrong else moment, value)
            for i, (moment, (_, value)) in enumerate(zip(moments.tolist(), found, strict=True))
        ]

    def seek(self, position: int) -> None:
        """Go to where `position` events were read."""
        self._rows.close()
        self._rows, self._position = self._start(), 0
        while self._position < position and self.read(min(CHUNK_ROWS, position - self._position)):
            pass

    def _start(self) -> Generator[_Read, None, None]:
        """The rows from the first on; the file is open, and its columns are checked."""
        suffixes = [suffix.lower() for suffix in self.path.suffixes]
        is_packed = suffixes[-1:] == [".gz"]
        kind = "".join(suffixes[:-1][-1:] if is_packed else suffixes[-1:])
        if kind not in FORMATS or (is_packed and kind == ".parquet"):
            raise InputError(
                self.path.name,
                found=f"a file {''.join(suffixes[-2:]) or 'without a suffix'}",
                expected=f"one of {', '.join(FORMATS)}; all but Parquet also with .gz",
                do="convert or rename it",
            )
        rows = self._parquet() if kind == ".parquet" else self._text(FORMATS[kind], is_packed)
        with self._told():
            next(rows)
        return rows

    @contextmanager
    def _told(self) -> Iterator[None]:
        """An error of the file as one that says where."""
        try:
            yield
        except (EOFError, OSError, zlib.error) as error:
            raise InputError(
                f"{self.path.name}, after {self._position} events",
                found=f"{type(error).__name__}: {error}",
                expected="a whole file",
                do="copy it again",
            ) from error

    def _text(self, delimiter: str, is_packed: bool) -> Generator[_Read, None, None]:
        with self.path.open("rb") as raw, gzip.GzipFile(fileobj=raw) if is_packed else nullcontext(raw) as opened:
            self._read, stream = _Progress(raw, total=self.len_hint), cast("IO[bytes]", opened)
            yield from self._csv(stream, delimiter) if delimiter else self._json_lines(stream)

    def _csv(self, stream: IO[bytes], delimiter: str) -> Iterator[_Read]:
        with io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="") as text:
            lines = _Kept(text)
            reader = csv.reader(lines, delimiter=delimiter)
            header = next(reader, [])
            lines.take()
            columns = self._columns([name.strip() for name in header])
            yield _OPEN
            yield from self._csv_rows(reader, lines, columns, len(header))

    def _csv_rows(
        self, reader: Iterator[list[str]], lines: _Kept, columns: list[tuple[Field, int]], width: int
    ) -> Iterator[_Read]:
        encode = msgspec.json.Encoder().encode
        while True:
            try:
                row = next(reader, None)
            except csv.Error:
                yield None, lines.take()
                continue
            raw = lines.take()
            if row is None:
                return
            if len(row) != width:
                if row:
                    yield None, raw
                continue
            event = dict(self._constants)
            for field, i in columns:
                if (value := _of_text(field, row[i])) is not msgspec.UNSET:
                    event[field.name] = value
            try:
                yield event.get(self._schema.time), encode(event)
            except UnicodeEncodeError:  # a byte that is no UTF-8
                yield None, raw

    def _json_lines(self, stream: IO[bytes]) -> Iterator[_Read]:
        shape: Any = dict[str, Any]
        if not self._mapping and not self._constants:
            shape = msgspec.defstruct("Line", [(self._schema.time, Any, None)])
        decode, encode = msgspec.json.Decoder(shape).decode, msgspec.json.Encoder().encode
        yield _OPEN
        for line in _lines(stream):
            raw = line.strip()
            if not raw:
                continue
            try:
                row = decode(raw)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                yield None, raw
                continue
            if isinstance(row, dict):
                row = {f.name: row[c] for f in self._schema.fields if (c := self._column(f.name)) in row}
                row |= self._constants
                yield row.get(self._schema.time), encode(row)
            else:
                yield getattr(row, self._schema.time), raw

    def _parquet(self) -> Generator[_Read, None, None]:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            raise InputError(
                self.path.name,
                found="no pyarrow to read Parquet with",
                expected="the extra `parquet`",
                do='pip install "katmatic[parquet]"',
            ) from error
        try:
            file = pq.ParquetFile(self.path)
        except pa.ArrowInvalid as error:
            raise InputError(
                self.path.name, found=str(error), expected="a Parquet file", do="check what it is"
            ) from error
        names = file.schema_arrow.names
        columns = self._columns(names)
        self._read = progress = _Progress(total=self.len_hint, rows=file.metadata.num_rows)
        yield _OPEN
        yield from self._parquet_rows(file, [(field, names[i]) for field, i in columns], progress)

    def _parquet_rows(self, file: Any, columns: list[tuple[Field, str]], progress: _Progress) -> Iterator[_Read]:
        encode = msgspec.json.Encoder().encode
        with file:
            for batch in file.iter_batches(batch_size=CHUNK_ROWS, columns=list({name for _, name in columns})):
                values = [(field, _plain(field, batch.column(name))) for field, name in columns]
                for i in range(batch.num_rows):
                    event = dict(self._constants)
                    event |= {f.name: c[i] for f, c in values if c[i] is not None or f.optional or f.default is ...}
                    progress.rows_read += 1
                    yield event.get(self._schema.time), encode(event)

    def _column(self, field: str) -> str:
        return self._mapping.get(field, field)

    def _columns(self, header: Sequence[str]) -> list[tuple[Field, int]]:
        """Where each field stands; InputError for a column that is named or needed and is not there."""
        found = []
        for field in self._schema.fields:
            column = self._column(field.name)
            if field.name in self._constants:
                continue
            if header.count(column) > 1:
                raise InputError(
                    self.path.name, found=f"{header.count(column)} columns {column!r}", expected="one", do="rename them"
                )
            if column in header:
                found.append((field, header.index(column)))
            elif field.name in self._mapping or field.default is ...:
                where = f"{self.path.name}, field {self._schema.name}.{field.name}"
                raise _unknown(where, column, list(header), "a column of the file")
        return found


@dataclass
class _Progress:
    """How far a file was read: from the file itself, or as a share of its rows."""

    raw: BinaryIO | None = None
    total: int = 0
    rows: int = 0
    rows_read: int = 0

    def bytes(self) -> int:
        if self.raw is not None:
            return self.total if self.raw.closed else self.raw.tell()
        return self.total * self.rows_read // max(1, self.rows)


class _Kept:
    """Lines, which remembers those that were read, byte for byte."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text, self._lines = text, list[str]()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._text)
        self._lines.append(line)
        return line

    def take(self) -> bytes:
        """What was read since the last call, without the end of the line."""
        text, self._lines = "".join(self._lines), []
        return text.rstrip("\r\n").encode("utf-8", "surrogateescape")


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    """One JSON value a line; or those of one array over the whole file."""
    first = stream.readline()
    while first and not first.strip():
        first = stream.readline()
    if first.lstrip().startswith(b"["):
        whole = first + stream.read()
        try:
            yield from map(bytes, msgspec.json.decode(whole, type=list[msgspec.Raw]))
            return
        except (msgspec.MsgspecError, RecursionError):  # lines after all
            yield from whole.splitlines()
            return
    yield first
    yield from stream


def _of_text(field: Field, text: str) -> Any:
    """The value that a text stands for; the text itself if it stands for none; UNSET if there is nothing."""
    if field.role in _UNTYPED:
        return text
    if not text.strip() and (field.kind is not str or field.optional):
        return None if field.optional else msgspec.UNSET if field.default is not ... else text
    try:
        if field.kind is float:
            number = float(text)
            return number if math.isfinite(number) else None if field.optional and math.isnan(number) else text
        if field.kind is int:
            return _whole(text)
    except ValueError:
        return text
    if field.kind is bool:
        word = text.strip().lower()
        return True if word in _YES else False if word in _NO else text
    return text


def _whole(text: str) -> int | str:
    if "." not in text and "e" not in text.lower():
        return int(text)
    number = float(text)
    return int(number) if number.is_integer() and abs(number) < 2**53 else text


def _plain(field: Field, column: Any) -> list[Any]:
    """A Parquet column as values of JSON."""
    import pyarrow as pa

    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    return [_json_value(field, value) for value in column.to_pylist()]


def _json_value(field: Field, value: Any) -> Any:
    if isinstance(value, date | datetime):
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if field.kind is int and value == value.to_integral_value() else float(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float):
        if math.isnan(value):
            return None
        if value.is_integer() and (field.kind is int or field.role in (Role.KEY, Role.ID)):
            return int(value)  # whole numbers beside unknown ones are often stored as floats
    return value


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise InputError(
            str(path), found=error.strerror or str(error), expected="a file", do="check the name"
        ) from error


def _unknown(where: str, name: str, known: list[str], expected: str) -> InputError:
    near = difflib.get_close_matches(name, known, 1, 0.5)
    shown = ", ".join(known[:40]) + (", ..." if len(known) > 40 else "")
    advice = f"did you mean {near[0]!r}?" if near else "say which one: --map field=column, or --map field=:value"
    return InputError(where, found=repr(name), expected=f"{expected}: {shown or 'there is none'}", do=advice)
