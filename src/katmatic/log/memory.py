"""A log in memory, for tests and for trying things out: it promises the same as the durable one, while it lives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import takewhile

from katmatic.log.base import Batch
from katmatic.log.tail import (
    READ,
    TAIL_BYTES_LIMIT,
    TAIL_RECORDS_LIMIT,
    WRITTEN,
    WRITTEN_BYTES_LIMIT,
    Tail,
    checked,
    claim,
    closed,
    not_given,
)


@dataclass
class _Disk:
    """What outlives the log that wrote it."""

    batches: list[Batch] = field(default_factory=list)
    written: dict[str, list[bytes]] = field(default_factory=dict)
    read: dict[str, list[tuple[int, bytes]]] = field(default_factory=dict)
    fed: list[tuple[int, str, bytes]] = field(default_factory=list)
    ways: dict[str, int] = field(default_factory=dict)
    feeds: int = 0  # records ever fed
    sequence: int = 0


class MemoryLog:
    """A log whose disk is a list. Given a closed one, it goes on from what was committed there.

    >>> log = MemoryLog()
    >>> positions = log.append("gate", [b"A123", b"B7"])
    >>> batch = log.read(1_000, limit=100)
    >>> log.commit(batch, {"katmatic.alerts": [b"A123 is late"]})
    >>> positions.result(), list(log.scan("katmatic.alerts")), list(log.batches()) == [batch]
    (range(0, 2), [(0, b'A123 is late')], True)
    """

    def __init__(
        self,
        earlier: MemoryLog | None = None,
        *,
        tail_records_limit: int = TAIL_RECORDS_LIMIT,
        tail_bytes_limit: int = TAIL_BYTES_LIMIT,
    ) -> None:
        self._disk: _Disk = earlier._disk if earlier else _Disk()
        self._ways = dict(self._disk.ways)
        self._sequence = self._disk.sequence
        self._now = self._disk.batches[-1].now if self._disk.batches else 0
        self._position = sum(map(len, self._disk.batches))
        self._given: tuple[Batch, int] | None = None
        self._closed = False
        self._tail = Tail("memory log", records_limit=tail_records_limit, bytes_limit=tail_bytes_limit)
        for number, topic, value in self._disk.fed:
            self._tail.put_durable(topic, [value], number)

    @property
    def waiting(self) -> int:
        """How many records wait to be read or committed."""
        return len(self._tail)

    def append(self, topic: str, values: Sequence[bytes]) -> Future[range]:
        """A promise of the records' positions."""
        claim("memory log", self._ways, topic, READ)
        return self._tail.put(topic, values)

    def pending(self, topic: str) -> list[bytes]:
        """Records of one topic that are durable and wait to be read."""
        return [value for _, name, value in self._disk.fed if name == topic]

    def wait(self, timeout: float) -> bool:
        """True as soon as something waits to be read."""
        return self._tail.wait(timeout)

    def read(self, now: int, *, limit: int) -> Batch:
        """The next batch; a tick if nothing waits."""
        self._check_open()
        slices, number = self._tail.take(self._position, limit)
        batch = Batch(self._sequence + 1, max(now, self._now), slices)
        self._given = batch, number
        return batch

    def commit(
        self,
        batch: Batch,
        written: Mapping[str, Sequence[bytes]],
        fed: Mapping[str, Sequence[bytes]] = {},
        *,
        keep: bool = False,
    ) -> None:
        """Keep the batch and what was made of it."""
        self._check_open()
        if self._given is None or batch is not self._given[0]:
            raise not_given("memory log", batch, self._given and self._given[0])
        disk, (_, number) = self._disk, self._given
        made, feeds = self._checked(written, WRITTEN), self._checked(fed, READ)
        self._given = None
        self._sequence = disk.sequence = batch.sequence
        self._now = batch.now
        if batch.slices or made or feeds or keep:
            disk.batches.append(batch)
        for piece in batch.slices:
            disk.read.setdefault(piece.topic, []).extend(enumerate(piece.values, piece.first))
        for topic, values in made.items():
            disk.written.setdefault(topic, []).extend(values)
        disk.fed = [entry for entry in disk.fed if entry[0] > number]
        for topic, values in feeds.items():
            for value in values:
                disk.feeds += 1
                disk.fed.append((disk.feeds, topic, value))
                self._tail.put_durable(topic, [value], disk.feeds)
        disk.ways |= dict.fromkeys(made, WRITTEN) | dict.fromkeys((*disk.read, *feeds), READ)
        kept = self._tail.settle(len(batch), self._position)
        self._position += len(batch)
        for promise, positions in kept:
            promise.set_result(positions)

    def batches(self, after: int = 0) -> Iterator[Batch]:
        """The batches that were kept, with a sequence above `after`."""
        self._check_open()
        return iter([batch for batch in self._disk.batches if batch.sequence > after])

    def scan(self, topic: str, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, bytes]]:
        """The records of one topic."""
        self._check_open()
        found = [*enumerate(self._disk.written.get(topic, ())), *self._disk.read.get(topic, ())]
        return takewhile(lambda row: stop is None or row[0] < stop, (row for row in found if row[0] >= start))

    def end(self, topic: str) -> int:
        """The position after the topic's last record."""
        self._check_open()
        if read := self._disk.read.get(topic):
            return read[-1][0] + 1
        return len(self._disk.written.get(topic, ()))

    def sequence(self) -> int:
        """The sequence of the last batch that was committed."""
        return self._sequence

    def close(self) -> None:
        """Break the promises that are open."""
        self._closed = True
        for promise in self._tail.close():
            promise.set_exception(closed("memory log"))

    def _checked(self, records: Mapping[str, Sequence[bytes]], way: int) -> dict[str, list[bytes]]:
        found = {topic: list(values) for topic, values in records.items() if values}
        for topic, values in found.items():
            checked(topic, values, limit=WRITTEN_BYTES_LIMIT)
            claim("memory log", self._ways, topic, way)
        return found

    def _check_open(self) -> None:
        if self._closed:
            raise closed("memory log")
