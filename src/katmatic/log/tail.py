"""The tail of a log: what was handed in and is not durable yet, in order of arrival, bounded."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import MutableMapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain

from katmatic.errors import LogError, LogFull
from katmatic.log.base import Batch, Slice

TAIL_RECORDS_LIMIT = 200_000  # some seconds of a flood
TAIL_BYTES_LIMIT = 64 * 2**20
BATCH_BYTES_LIMIT = 32 * 2**20  # of the records in one batch; a single one always goes
RECORD_BYTES_LIMIT = 16 * 2**20  # of one that is handed in
WRITTEN_BYTES_LIMIT = 256 * 2**20  # of one that a commit writes: a block of many rows

READ, WRITTEN = 0, 1  # the two ways of getting into a topic
_BYTES = frozenset((bytes,))


@dataclass(slots=True)
class _Entry:
    """What one call handed in."""

    topic: str
    values: list[bytes]
    size: int  # of the values that are not settled, in bytes
    promise: Future[range] | None  # None: it is durable already, under `number`, `number + 1`, ...
    number: int = 0
    origin: tuple[int, ...] = ()  # whatever the log that made them durable calls it
    since: int = 0  # when they became durable, in microseconds since 1970; 0: it is not known
    done: int = 0  # how many of the values are settled
    first: int = 0  # position of the first value


@dataclass(frozen=True, slots=True)
class Origin:
    """How `count` records of one topic came: handed in here, or durable already under `number`, `number + 1`, ..."""

    topic: str
    count: int
    durable: bool
    number: int = 0
    origin: tuple[int, ...] = ()
    since: int = 0


class _Promise(Future[range]):
    """Of the positions of records."""

    def cancel(self) -> bool:
        """False: a sender that goes away does not take its records back."""
        return False


class Tail:
    """Records between `append` and `commit`. Any thread may put; one thread takes and settles."""

    def __init__(self, where: str, *, records_limit: int = TAIL_RECORDS_LIMIT, bytes_limit: int = TAIL_BYTES_LIMIT):
        self._where, self._records_limit, self._bytes_limit = where, records_limit, bytes_limit
        self._waiting: deque[_Entry] = deque()
        self._records = self._bytes = 0
        self._lock = threading.Lock()
        self._came = threading.Condition(self._lock)  # something waits where nothing did
        self._closed = False

    def __len__(self) -> int:
        return self._records

    @property
    def size(self) -> int:
        """The bytes of all that waits."""
        return self._bytes

    def put(self, topic: str, values: Sequence[bytes]) -> Future[range]:
        """A promise of the records' positions. LogError if one is no bytes or too large, LogFull if too much waits."""
        values = list(values)
        size = checked(topic, values)
        promise = _Promise()
        if not values:
            promise.set_result(range(0))
            return promise
        with self._lock:
            if self._closed:
                raise closed(self._where)
            if self._waiting:  # into an empty tail goes what is larger than the limit, too
                self._check_room(len(values), size)
            self._add(_Entry(topic, values, size, promise))
        return promise

    def put_durable(
        self, topic: str, values: list[bytes], number: int, origin: tuple[int, ...] = (), *, since: int = 0
    ) -> None:
        """Let records be read that are durable already, under `number`, `number + 1`, ...; they go above any limit."""
        with self._lock:
            self._add(_Entry(topic, values, sum(map(len, values)), None, number, origin, since))

    def wait(self, timeout: float) -> bool:
        """True as soon as something waits; False after `timeout` seconds without."""
        with self._lock:
            return self._came.wait_for(lambda: bool(self._waiting), timeout)

    def take(self, first: int, limit: int) -> tuple[tuple[Slice, ...], int]:
        """At most `limit` records in order, numbered from `first`, and the last number of those durable already (or 0).

        They stay until they are settled.
        """
        runs: list[tuple[str, list[list[bytes]]]] = []
        room, bytes_room, number = limit, BATCH_BYTES_LIMIT, 0
        with self._lock:
            for entry in self._waiting:
                values = entry.values[entry.done : entry.done + room] if entry.done else entry.values
                if len(values) > room:
                    values = values[:room]
                if entry.size > bytes_room:
                    values = _within(values, bytes_room, first=not runs)
                if values:
                    if runs and runs[-1][0] == entry.topic:
                        runs[-1][1].append(values)
                    else:
                        runs.append((entry.topic, [values]))
                    if entry.number:
                        number = entry.number + entry.done + len(values) - 1
                room -= len(values)
                bytes_room -= entry.size
                if room <= 0 or entry.done + len(values) < len(entry.values):
                    break
        slices = []
        for topic, parts in runs:
            slices.append(Slice(topic, first, parts[0] if len(parts) == 1 else list(chain.from_iterable(parts))))
            first += len(slices[-1].values)
        return tuple(slices), number

    def origins(self, count: int) -> list[Origin]:
        """How the first `count` records came, in their order."""
        found: list[Origin] = []
        with self._lock:
            for entry in self._waiting:
                if count <= 0:
                    break
                n = min(count, len(entry.values) - entry.done)
                durable = entry.promise is None
                number = entry.number + entry.done if durable else 0
                found.append(Origin(entry.topic, n, durable, number, entry.origin, entry.since))
                count -= n
        return found

    def settle(self, count: int, first: int) -> list[tuple[Future[range], range]]:
        """The first `count` records are durable, at the positions from `first`; the promises that can be kept now.

        Whoever keeps them holds no lock: what waits for a promise may do anything.
        """
        kept: list[tuple[Future[range], range]] = []
        with self._lock:
            while count:
                entry = self._waiting[0]
                n = min(count, len(entry.values) - entry.done)
                if not entry.done:
                    entry.first = first
                entry.done += n
                count, first = count - n, first + n
                self._records -= n
                if entry.done < len(entry.values):
                    left = sum(map(len, entry.values[entry.done :]))
                    self._bytes, entry.size = self._bytes - entry.size + left, left
                    continue
                self._bytes -= entry.size
                self._waiting.popleft()
                if entry.promise is not None:
                    kept.append((entry.promise, range(entry.first, entry.first + entry.done)))
        return kept

    def close(self) -> list[Future[range]]:
        """Take no more; the promises that cannot be kept."""
        with self._lock:
            self._closed = True
            left = [entry.promise for entry in self._waiting if entry.promise is not None]
            self._waiting.clear()
            self._records = self._bytes = 0
            self._came.notify_all()
        return left

    def _add(self, entry: _Entry) -> None:
        self._records += len(entry.values)
        self._bytes += entry.size
        self._waiting.append(entry)
        if len(self._waiting) == 1:
            self._came.notify()

    def _check_room(self, count: int, size: int) -> None:
        if self._records + count > self._records_limit or self._bytes + size > self._bytes_limit:
            raise LogFull(
                self._where,
                found=f"{self._records} records of {self._bytes} bytes waiting, and {count} of {size} bytes more",
                expected=f"at most {self._records_limit} records and {self._bytes_limit} bytes",
                do="wait until earlier records are durable, then hand these in again",
            )


def checked(topic: str, values: Sequence[bytes], *, limit: int = RECORD_BYTES_LIMIT) -> int:
    """The size of all values in bytes; LogError if one cannot be a record."""
    if not _BYTES.issuperset(map(type, values)):
        wrong = next(value for value in values if type(value) is not bytes)
        raise LogError(topic, found=f"a record of type {type(wrong).__name__}", expected="bytes", do="encode it first")
    size = sum(map(len, values))
    if size > limit and (largest := max(map(len, values))) > limit:
        raise LogError(
            topic,
            found=f"a record of {largest} bytes",
            expected=f"at most {limit}",
            do="keep large things elsewhere, and log where they are",
        )
    return size


def closed(where: str) -> LogError:
    """The error of whoever uses a log after its end."""
    return LogError(where, found="a closed log", expected="an open one", do="open the log again")


def not_given(where: str, batch: Batch, given: Batch | None) -> LogError:
    """The error of whoever commits another batch than the one that was read last."""
    return LogError(
        where,
        found=f"batch {batch.sequence}, which is not the one that was read last",
        expected=f"batch {given.sequence} as it was read" if given else "a batch that was read and not committed",
        do="commit each batch once, before the next one is read",
    )


def claim(where: str, ways: MutableMapping[str, int], topic: str, way: int) -> None:
    """Remember in which way records get into a topic; LogError if it is the other one already."""
    if ways.setdefault(topic, way) != way:
        raise LogError(
            f"{where}: {topic}",
            found=f"a record to be {'read' if way == READ else 'written'}",
            expected=f"a topic whose records are {'written' if way == READ else 'read'}, as they were before",
            do="hand its records in (append, fed), or write them with a commit, but not both",
        )


def _within(values: list[bytes], room: int, *, first: bool) -> list[bytes]:
    """As many values as fit into `room` bytes; of the first ones of a batch, at least one."""
    count = 0
    for value in values:
        room -= len(value)
        if room < 0 and not (first and not count):
            break
        count += 1
    return values[:count]
