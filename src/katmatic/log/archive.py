"""The log as Parquet files in a folder or a bucket: written bit by bit beside the owner, read as any log is read.

    APP/events/AFTER-UPTO.parquet               what was read, of the batches with sequences above AFTER up to UPTO
    APP/written/topic=TOPIC/START-STOP.parquet  what was written into a topic, at the positions from START up to STOP

A file is there whole or not at all, and its name says what it holds: what counts is the chain that begins at 0, each
file where the one before it ends. So an archiver that was killed, or two at once, neither lose nor double anything. In
the files of events each row is a record, with its topic, position, and the sequence and moment of its batch; the values
are as they were sent, so that other tools can read them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from katmatic.errors import LogError, PlaceError
from katmatic.log.base import Batch, History, Slice
from katmatic.places import Place
from katmatic.records import ALERTS, DEAD, LABELS, PREDICTIONS

WRITTEN = (PREDICTIONS, LABELS, DEAD, ALERTS)
FILE_BYTES = 64 * 2**20  # of values in one file, about
FILE_RECORDS = 1_000_000
EVENTS = "events"
_NAME = re.compile(r"(?P<part>events|written/topic=(?P<topic>[^/]+))/(?P<start>\d{20})-(?P<stop>\d{20})\.parquet")


@dataclass(frozen=True)
class _File:
    name: str
    start: int
    stop: int


class Archive:
    """The archive of one application's log at an address."""

    def __init__(self, address: str, application: str) -> None:
        self._place = Place(address) / application
        self._parts: dict[str, list[_File]] = {}
        self._look()

    @property
    def address(self) -> str:
        """Where it lies."""
        return self._place.address

    @property
    def files(self) -> int:
        """How many files count."""
        return sum(map(len, self._parts.values()))

    # ------------------------------------------------------------------------------------------------------- writing

    def extend(self, history: History) -> dict[str, int]:
        """Add what has been committed since; how many records and files were added."""
        self._look()
        ends = {topic: history.end(topic) for topic in WRITTEN}  # before the batches, which they belong to
        records = files = 0
        for after, upto, rows in _events(history, self._end(EVENTS)):
            self._write(f"{EVENTS}/{after:020d}-{upto:020d}.parquet", rows)
            records, files = records + sum(1 for topic in rows["topic"] if topic), files + 1
        for topic, end in ends.items():
            start = self._end(_part(topic))
            for first, rows in _in_helpings(history.scan(topic, start, end)):
                stop = first + len(rows["position"])
                self._write(f"{_part(topic)}/{first:020d}-{stop:020d}.parquet", rows)
                records, files = records + len(rows["position"]), files + 1
        self._look()
        return {"records": records, "files": files}

    # ------------------------------------------------------------------------------------------------------- reading

    def batches(self, after: int = 0) -> Iterator[Batch]:
        """The archived batches with a sequence above `after`, in order, each with the content that was read."""
        for file in self._parts.get(EVENTS, ()):
            if file.stop <= after:
                continue
            rows = self._read(file.name)
            first = 0
            sequences = rows["sequence"]
            for i in range(1, len(sequences) + 1):
                if i == len(sequences) or sequences[i] != sequences[first]:
                    if sequences[first] > after:
                        yield _batch(rows, first, i)
                    first = i

    def scan(self, topic: str, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Archived records of one topic with their positions, from `start` up to but without `stop`."""
        if topic in WRITTEN:
            files = [
                f for f in self._parts.get(_part(topic), ()) if f.stop > start and (stop is None or f.start < stop)
            ]
            found: Iterable[Any] = (self._read(file.name) for file in files)
        else:
            found = (self._read(file.name, topic) for file in self._parts.get(EVENTS, ()))
        for rows in found:
            for position, value in zip(rows["position"], rows["value"], strict=True):
                if position >= start and (stop is None or position < stop):
                    yield position, value

    def end(self, topic: str) -> int:
        """The position after the topic's last archived record; 0 of nothing."""
        if topic in WRITTEN:
            return self._end(_part(topic))
        for file in reversed(self._parts.get(EVENTS, [])):
            positions = self._read(file.name, topic)["position"]
            if positions:
                return int(positions[-1]) + 1
        return 0

    def pending(self, topic: str) -> list[bytes]:
        """Nothing waits in an archive."""
        return []

    def close(self) -> None:
        """There is nothing to let go of."""

    # -------------------------------------------------------------------------------------------------------- pieces

    def _look(self) -> None:
        """Find the chain of each part; of two files that begin at one place, the longer."""
        there: dict[str, dict[int, _File]] = {}
        for name in self._place.names():
            found = _NAME.fullmatch(name)
            if found is not None:
                file = _File(name, int(found["start"]), int(found["stop"]))
                known = there.setdefault(found["part"], {}).get(file.start)
                if known is None or known.stop < file.stop:
                    there[found["part"]][file.start] = file
        self._parts = {part: list(_chain(files)) for part, files in there.items()}

    def _end(self, part: str) -> int:
        files = self._parts.get(part)
        return files[-1].stop if files else 0

    def _write(self, name: str, rows: dict[str, list[Any]]) -> None:
        pa, pq = _pyarrow()
        kinds = {
            "topic": pa.string(),
            "position": pa.int64(),
            "sequence": pa.int64(),
            "now": pa.timestamp("us", tz="UTC"),
            "value": pa.binary(),
        }
        table = pa.table({name: pa.array(column, kinds[name]) for name, column in rows.items()})
        sink = pa.BufferOutputStream()
        if "topic" in rows:  # a group of rows for each topic, so that one is read without the others
            table = table.sort_by([("topic", "ascending"), ("position", "ascending"), ("sequence", "ascending")])
            with pq.ParquetWriter(sink, table.schema, compression="zstd") as writer:
                for topic in dict.fromkeys(rows["topic"]):
                    writer.write_table(table.filter(pa.compute.equal(table["topic"], topic)))
        else:
            pq.write_table(table, sink, compression="zstd")
        self._place.write(name, memoryview(sink.getvalue()))

    def _read(self, name: str, topic: str | None = None) -> dict[str, list[Any]]:
        pa, pq = _pyarrow()
        try:
            with self._place.opened(name) as file:
                if topic is not None:
                    table = pq.read_table(file, columns=["position", "value"], filters=[("topic", "=", topic)])
                    return dict(table.to_pydict())
                table = pq.read_table(file)
        except (PlaceError, OSError, pa.ArrowException) as error:
            raise LogError(
                f"{self._place.address.partition('?')[0]}/{name}",
                found=str(error),
                expected="a file of the archive",
                do="restore it, or archive the log again to another place",
            ) from error
        if "sequence" in table.column_names:
            table = table.sort_by([("sequence", "ascending"), ("position", "ascending")])
            table = table.set_column(table.column_names.index("now"), "now", table["now"].cast(pa.int64()))
        return dict(table.to_pydict())


def _chain(files: dict[int, _File]) -> Iterator[_File]:
    """The files from 0 on, each where the one before it ends."""
    at = 0
    while at in files and files[at].stop > at:
        yield files[at]
        at = files[at].stop


def _events(history: History, after: int) -> Iterator[tuple[int, int, dict[str, list[Any]]]]:
    """What was read after a sequence, as the rows of files: (after, upto, rows). A batch of nothing is a row, too."""
    rows, size, upto = _empty(), 0, after
    for batch in history.batches(after):
        records = [
            (piece.topic, piece.first + i, value) for piece in batch.slices for i, value in enumerate(piece.values)
        ]
        for topic, position, value in records or [("", -1, b"")]:
            for name, cell in zip(rows, (topic, position, batch.sequence, batch.now, value), strict=True):
                rows[name].append(cell)
            size += len(value)
        upto = batch.sequence
        if size > FILE_BYTES or len(rows["topic"]) > FILE_RECORDS:
            yield after, upto, rows
            rows, size, after = _empty(), 0, upto
    if rows["topic"]:
        yield after, upto, rows


def _empty() -> dict[str, list[Any]]:
    return {"topic": [], "position": [], "sequence": [], "now": [], "value": []}


def _in_helpings(records: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, dict[str, list[Any]]]]:
    positions: list[int] = []
    values: list[bytes] = []
    size = 0
    for position, value in records:
        positions.append(position)
        values.append(value)
        size += len(value)
        if size > FILE_BYTES or len(values) > FILE_RECORDS:
            yield positions[0], {"position": positions, "value": values}
            positions, values, size = [], [], 0
    if positions:
        yield positions[0], {"position": positions, "value": values}


def _batch(rows: dict[str, list[Any]], first: int, stop: int) -> Batch:
    slices: list[Slice] = []
    begin = first
    for i in range(first + 1, stop + 1):
        if i == stop or rows["topic"][i] != rows["topic"][begin]:
            if rows["topic"][begin]:
                slices.append(Slice(rows["topic"][begin], rows["position"][begin], rows["value"][begin:i]))
            begin = i
    return Batch(rows["sequence"][first], rows["now"][first], tuple(slices))


def _part(topic: str) -> str:
    return f"written/topic={topic}"


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.compute
        import pyarrow.parquet as pq
    except ImportError as error:
        raise LogError(
            "the archive",
            found="no pyarrow to read and write Parquet with",
            expected="it",
            do="install it: pip install 'katmatic[parquet]'",
        ) from error
    return pa, pq
