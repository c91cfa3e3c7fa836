"""Recorded events: CSV, JSON Lines and Parquet, each also as .gz, one JSON object per row."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO
from zoneinfo import ZoneInfo

import msgspec

from katmatic.errors import InputError, SettingsError
from katmatic.spec.event import Event, Field, Role, schema
from katmatic.timestamp import parse_micros

KINDS = (".csv", ".jsonl", ".ndjson", ".json", ".parquet")


class Recorded:
    """The events of one file, in its order: iterate it. `bytes_read` of `bytes` so far, for a progress bar.

    Each is (time, JSON): the time in microseconds since 1970, or None if it cannot be read. `mapping` says which column
    a field is read from; `field=:text` gives all rows the same. What cannot be read is passed on as it is: the pipeline
    keeps it among the dead letters.
    """

    def __init__(self, path: Path, event: type[Event], mapping: Mapping[str, str], zone: ZoneInfo) -> None:
        self._path, self._schema, self._zone = path, schema(event), zone
        self.name = path.name
        self._mapping = dict(mapping)
        self._raw: BinaryIO | None = None
        self._rows_read = self._rows = 0
        names = [field.name for field in self._schema.fields]
        for name in self._mapping:
            if name not in names:
                raise SettingsError(
                    f"--map {name}=",
                    found=name,
                    expected=f"a field of {event.__name__}: {', '.join(names)}",
                    do="correct it",
                )
        self._kind = next((suffix for suffix in reversed(path.suffixes) if suffix != ".gz"), "")
        if self._kind not in KINDS:
            raise SettingsError(
                str(path), found=f"a file of kind {self._kind!r}", expected=", ".join(KINDS), do="rename or convert it"
            )
        if not path.is_file():
            raise SettingsError(str(path), found="no such file", expected="recorded events", do="name another")
        self.bytes = path.stat().st_size

    @property
    def bytes_read(self) -> int:
        """How much of the file is read, about."""
        if self._rows:
            return self.bytes * self._rows_read // self._rows
        if self._raw is None:
            return 0
        return self.bytes if self._raw.closed else self._raw.tell()

    def __iter__(self) -> Iterator[tuple[int | None, bytes]]:
        time = self._schema.time
        for row in self._parquet() if self._kind == ".parquet" else self._text():
            if isinstance(row, bytes):
                yield None, row
                continue
            yield self._time(row.get(time)), msgspec.json.encode(row)

    def _time(self, value: Any) -> int | None:
        try:
            return parse_micros(value, self._zone)
        except (InputError, TypeError, ValueError):
            return None

    def _text(self) -> Iterator[dict[str, Any] | bytes]:
        with ExitStack() as files:
            raw = self._raw = files.enter_context(self._path.open("rb"))
            opened = files.enter_context(gzip.open(raw)) if self._path.suffix == ".gz" else raw
            if self._kind == ".csv":
                yield from self._csv(io.TextIOWrapper(opened, "utf-8", errors="replace", newline=""))
            else:
                for line in opened:
                    if line.strip():
                        yield self._line(line.strip())

    def _csv(self, text: io.TextIOWrapper) -> Iterator[dict[str, Any] | bytes]:
        rows = csv.reader(text)
        head = next(rows, None)
        if head is None:
            return
        places = self._places(head)
        for row in rows:
            if len(row) != len(head):
                yield ",".join(row).encode()
                continue
            yield self._picked(row, places)

    def _line(self, line: bytes) -> dict[str, Any] | bytes:
        try:
            found = msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.MsgspecError:
            return line
        fields = self._schema.fields
        columns = {f.name: self._mapping.get(f.name, f.name) for f in fields}
        renamed = {name: found[column] for name, column in columns.items() if column in found}
        return renamed | self._constants()

    def _parquet(self) -> Iterator[dict[str, Any] | bytes]:
        try:
            from pyarrow import parquet
        except ImportError as error:
            raise SettingsError(
                str(self._path),
                found="no pyarrow",
                expected="the extra for Parquet",
                do="pip install 'katmatic[parquet]'",
            ) from error
        file = parquet.ParquetFile(self._path)
        self._rows = file.metadata.num_rows
        places = self._places(list(file.schema_arrow.names))
        for batch in file.iter_batches(batch_size=10_000):
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                self._rows_read += 1
                yield self._picked(row, places)

    def _places(self, head: list[str]) -> list[tuple[Field, int]]:
        """Which column each field is read from; a field with a default may be missing."""
        found = []
        for field in self._schema.fields:
            column = self._mapping.get(field.name, field.name)
            if column.startswith(":"):
                continue
            if column in head:
                found.append((field, head.index(column)))
            elif field.name in self._mapping or field.default is ...:
                raise SettingsError(
                    f"{self._path} {field.name}",
                    found=f"no column {column!r}",
                    expected=f"one of the columns {', '.join(head)}",
                    do=f"say which: --map {field.name}=COLUMN, or give all rows the same: --map {field.name}=:TEXT",
                )
        return found

    def _constants(self) -> dict[str, str]:
        return {name: column[1:] for name, column in self._mapping.items() if column.startswith(":")}

    def _picked(self, row: Sequence[Any], places: list[tuple[Field, int]]) -> dict[str, Any]:
        return {field.name: _typed(field, row[place]) for field, place in places} | self._constants()


def open_events(path: Path, event: type[Event], mapping: Mapping[str, str], zone: ZoneInfo) -> Recorded:
    """The recorded events of `event` in a file.

    Raises SettingsError if the file is missing, of an unknown kind, or has no column for a field.
    """
    return Recorded(path, event, mapping, zone)


def _typed(field: Field, value: Any) -> Any:
    """A cell as JSON should have it: text becomes a number where the event has one; what is none stays text."""
    if not isinstance(value, str):
        return value.isoformat() if hasattr(value, "isoformat") else value
    if field.role in (Role.KEY, Role.ID, Role.TIME) or field.kind is str:
        return value
    if value == "" and field.optional:
        return None
    if field.kind is bool:
        return {"true": True, "1": True, "false": False, "0": False}.get(value.lower(), value)
    try:
        return field.kind(value)
    except ValueError:
        return value
