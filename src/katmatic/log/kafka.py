"""The log on Apache Kafka: the users' own topics, a journal of batches, and one transaction for one commit.

Producers write plain JSON into the users' topics, with any client. The owner reads them, and writes for each batch one
record into the journal, which also says how far it has read, in one transaction with all that was made of the batch.
So a restart, and whoever reads again, gets the same batches: from the journal, and from the topics what it names.

What is handed in here is put into its topic by that transaction, too; so is what is fed. Records of ours bear a header
that says what they are; it tells them from what others have posted when they come back. A topic of the users may have
many partitions: each is read in its order, and among them the order is that in which they came: the journal keeps it.
"""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from itertools import chain, islice
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from msgspec import structs

from katmatic.clock import SystemClock, monotonic_seconds, to_datetime
from katmatic.errors import LogError, LogLost
from katmatic.log.base import Batch, Slice
from katmatic.log.kafka_client import (
    ANSWER_SECONDS,
    FETCHED,
    PASSING,
    POLL_SECONDS,
    Connection,
    Cursor,
    mark,
    mark_of,
    newest,
    offset_before,
    trouble,
)
from katmatic.log.kafka_ends import Hanging
from katmatic.log.kafka_journal import BEGINNING, Entry, Kind, Place, Run, checksum_of, pack, unpack
from katmatic.log.tail import (
    READ,
    TAIL_BYTES_LIMIT,
    TAIL_RECORDS_LIMIT,
    WRITTEN,
    WRITTEN_BYTES_LIMIT,
    Origin,
    Tail,
    checked,
    claim,
    closed,
    not_given,
)

JOURNAL = "katmatic.journal"
CHECKPOINTS = "katmatic.checkpoints"
PART_BYTES = 900_000  # of one record: a broker takes a million, as it comes
RUN_BYTES = 40  # of a run in the journal, without its topic: a batch has no more of them than its entry can hold
COMMIT_SECONDS = 5.0  # for each step of a transaction
TRANSACTION_SECONDS = 30  # a worker that was killed holds up readers for so long, or until it is started again
INTAKE_RECORDS_LIMIT = 20_000  # taken in and not yet read: more waits on the broker,
INTAKE_BYTES_LIMIT = 64 * 2**20  # and more bytes, too
TOGETHER = 5  # records are said to have come together if their waiting differs by no more than a fifth of it
TOLD_SECONDS = 1.0  # between two words to the consumer group of how far the intake came
CLOSE_SECONDS = 1.0  # for the group to be told the last of it
LOOK_SECONDS = 30.0  # between two looks of the intake for further partitions
FOLLOW_SECONDS = 0.5  # that a broker holds back its answer to a copy while nothing comes
RESERVED = 10_000  # sequences at a time, so that ticks that are not kept cost no commit

Partition = tuple[str, int]  # a topic, and the number of one of its partitions


class KafkaHistory:
    """A log as a process sees it that does not own it: it reads what is committed, and may post records to be read."""

    def __init__(self, address: str, application: str) -> None:
        self._connection = Connection(address, application)
        self._journal = self._connection.topic(JOURNAL)
        self._posting = threading.Lock()
        self._poster: Producer | None = None
        self._posted: set[str] = set()  # topics that may be posted to
        self._closed = False

    def batches(self, after: int = 0) -> Iterator[Batch]:
        """The committed batches with a sequence above `after`, in order, each with the content that was read.

        LogError if `after` was never reached, or if somebody has deleted or changed what was read.
        """
        return self._batches(after, self._checked_after(after))

    def follow(self, after: int = 0) -> Iterator[Batch | None]:
        """The committed batches above `after`, and those to come, without end; None when none came for a moment."""
        self._checked_after(after)
        with Cursor(self._connection, self._journal) as cursor:
            start = offset_before(cursor, lambda message: self._entry(message).sequence > after)
        with (
            Cursor(self._connection, self._journal, start, wait_seconds=FOLLOW_SECONDS) as cursor,
            _Streams(self._connection, wait_seconds=FOLLOW_SECONDS) as streams,
        ):
            number: int | None = None
            while True:
                messages, _ = cursor.some()
                for entry in self._in_order(messages, number):
                    number = entry.number
                    if entry.is_batch and entry.sequence > after:
                        yield Batch(entry.sequence, entry.now, tuple(self._slices(entry, streams)))
                if not messages:
                    yield None

    def scan(self, topic: str, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Committed records of one topic with their positions, from `start` up to but without `stop`."""
        last = self._newest()
        place = last.places.get(topic)
        if place is None:
            return iter(())
        stop = place.end if stop is None else min(stop, place.end)
        if start >= stop:
            return iter(())
        if place.way == WRITTEN:
            return self._written(topic, start, stop)
        return self._read(topic, start, stop, last)

    def end(self, topic: str) -> int:
        """The position after the topic's last committed record; 0 of nothing."""
        place = self._newest().places.get(topic)
        return place.end if place else 0

    def pending(self, topic: str) -> list[bytes]:
        """Records of one topic that are durable and wait to be read: fed by a commit, or posted by another process."""
        last = self._newest()
        name = self._connection.topic(topic)
        if name not in self._connection.there():
            return []
        place = last.places.get(topic) or Place(READ, 0)
        found = [value for _, value in self._fed(topic, last)]
        for partition in range(self._connection.there()[name]):
            start = place.next[partition] if partition < len(place.next) else 0
            with Cursor(self._connection, name, start, partition=partition) as cursor:
                found += [_value(each) for each in cursor.rest() if mark_of(each, self._connection.header) is None]
        return found

    def post(self, topic: str, values: Sequence[bytes]) -> None:
        """Hand records to the owner, who reads them next; they are durable when this returns. For other processes."""
        values = list(values)
        checked(topic, values, limit=PART_BYTES)
        name = self._connection.topic(topic)
        told: list[KafkaError | None] = []
        with self._posting, self._connection.explained(name):
            is_new = topic not in self._posted
            if is_new:
                place = self._newest().places.get(topic)
                if place is not None:
                    claim(self._connection.where(), {topic: place.way}, topic, READ)
                self._connection.ensure([name])
            producer = self._poster or Producer(self._connection.options(enable_idempotence=True))
            self._poster = None  # if it fails, the next one begins anew
            for i, value in enumerate(values):
                producer.produce(name, value, on_delivery=lambda error, _: told.append(error))
                if is_new and i == 0:
                    producer.flush(ANSWER_SECONDS)  # the first goes alone, as in a commit
            producer.flush(ANSWER_SECONDS)
            errors = [error for error in told if error is not None]
            if errors or len(told) < len(values):
                raise KafkaException(errors[0] if errors else KafkaError(KafkaError._TIMED_OUT))
            self._poster = producer
            self._posted.add(topic)

    def checkpoints(self) -> tuple[dict[str, Any], str]:
        """The options of a client and a compacted topic, made if it is not there: for checkpoints of the state."""
        topic = self._connection.topic(CHECKPOINTS)
        self._connection.ensure([topic], {"cleanup.policy": "compact"})
        return self._connection.options(), topic

    def close(self) -> None:
        """Let go of the connection."""
        self._closed = True

    # --------------------------------------------------------------------------------------------------- reading again

    def _newest(self) -> Entry:
        """The last entry of the journal."""
        self._check_open()
        if self._journal not in self._connection.there():
            raise LogError(
                self._connection.where(self._journal),
                found="no such topic",
                expected="the journal of a log",
                do="start the pipeline first, or name another broker",
            )
        with Cursor(self._connection, self._journal) as cursor:
            message = newest(cursor)
            if message is None and cursor.bounds()[0]:
                raise self._changed(self._journal, "a journal of which nothing is left")
        return BEGINNING if message is None else self._entry(message)

    def _entry(self, message: Message) -> Entry:
        entry = unpack(_value(message), self._connection.where(self._journal))
        self._connection.header = f"{self._connection.name}{entry.log}"
        return entry

    def _entries(self, last: Entry, *, sequence: int = -1, position: int = -1) -> Iterator[Entry]:
        """The entries up to the last, from the first batch above a sequence, or that goes beyond a position, on."""

        def is_there(entry: Entry) -> bool:
            return entry.sequence > sequence and entry.end > position

        if last.number < 0:
            return
        with Cursor(self._connection, self._journal) as cursor:
            start = offset_before(cursor, lambda message: is_there(self._entry(message)))
        with Cursor(self._connection, self._journal, start) as cursor:
            number: int | None = None
            while number is None or number < last.number:
                for entry in self._in_order(cursor.take(), number):
                    number = entry.number
                    if number > last.number:
                        return
                    if is_there(entry):
                        yield entry

    def _in_order(self, messages: Iterable[Message], number: int | None) -> Iterator[Entry]:
        """The entries of the journal after the one with a number; LogError if one is missing."""
        for message in messages:
            entry = self._entry(message)
            if number is not None and entry.number != number + 1:
                raise self._changed(self._journal, f"entry {entry.number} after {number}")
            number = entry.number
            yield entry

    def _checked_after(self, after: int) -> Entry:
        """The newest entry, if the log has come as far as batch `after`."""
        last = self._newest()
        if not 0 <= after <= last.reserved:
            raise LogError(
                self._connection.where(self._journal),
                found=f"a checkpoint at batch {after}",
                expected=f"one up to {last.reserved}, which is what the log holds",
                do="restore the topics and the checkpoints from one backup, or start with a new log",
            )
        return last

    def _batches(self, after: int, last: Entry) -> Iterator[Batch]:
        with _Streams(self._connection) as streams:
            for entry in self._entries(last, sequence=after):
                if entry.is_batch:
                    yield Batch(entry.sequence, entry.now, tuple(self._slices(entry, streams)))

    def _slices(self, entry: Entry, streams: _Streams) -> Iterator[Slice]:
        first, runs = entry.first, entry.runs
        i = 0
        while i < len(runs):
            topic, values, position = runs[i].topic, list[bytes](), first
            while i < len(runs) and runs[i].topic == topic:
                values += streams.take(runs[i], entry.places[topic])
                first += runs[i].count
                i += 1
            yield Slice(topic, position, values)

    def _read(self, topic: str, start: int, stop: int, last: Entry) -> Iterator[tuple[int, bytes]]:
        with _Streams(self._connection) as streams:
            for entry in self._entries(last, position=start):
                position = entry.first
                for run in entry.runs:
                    if position >= stop:
                        return
                    if run.topic == topic:
                        values = streams.take(run, entry.places[topic])
                        yield from (row for row in enumerate(values, position) if start <= row[0] < stop)
                    position += run.count

    def _written(self, topic: str, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
        name = self._connection.topic(topic)

        def number(message: Message) -> int:
            found = mark_of(message, self._connection.header)
            if found is None or found[0] not in (Kind.WRITTEN, Kind.END):
                raise self._changed(name, f"a record at offset {message.offset()} that is none of ours")
            return found[1]

        with Cursor(self._connection, name) as cursor:
            offset = offset_before(cursor, lambda message: number(message) >= start)
        with Cursor(self._connection, name, offset) as cursor:
            position, pieces = start, list[bytes]()
            while position < stop:
                for message in cursor.take():
                    if number(message) < start:
                        continue
                    kind, found, part, parts = mark_of(message, self._connection.header) or (0, -1, 0, 1)
                    if kind == Kind.END:
                        continue
                    if (found, part) != (position, len(pieces)):
                        raise self._changed(name, f"part {part} of position {found}")
                    pieces.append(_value(message))
                    if len(pieces) == parts:
                        yield position, pieces[0] if parts == 1 else b"".join(pieces)
                        position, pieces = position + 1, []
                        if position == stop:
                            return

    def _fed(self, topic: str, last: Entry) -> list[tuple[int, bytes]]:
        """What was fed to a topic and not read, with its numbers."""
        place = last.places.get(topic)
        if place is None:
            return []
        found: list[tuple[int, bytes]] = []
        if not place.unread:
            return found
        with Cursor(self._connection, self._connection.topic(topic), place.fed) as cursor:
            while len(found) < place.unread:
                for message in cursor.take():
                    kind, number, *_ = mark_of(message, self._connection.header) or (Kind.POSTED, 0)
                    if kind == Kind.FED and last.read < number <= last.fed:
                        found.append((number, _value(message)))
        return found

    def _changed(self, topic: str, found: str) -> LogError:
        return _changed(self._connection, topic, found)

    def _check_open(self) -> None:
        if self._closed:
            raise closed(self._connection.where())


class _Streams:
    """The records that the journal names, each kind of each partition in its order."""

    def __init__(self, connection: Connection, *, wait_seconds: float = 0.01) -> None:
        self._connection, self._wait_seconds = connection, wait_seconds
        self._cursors: dict[tuple[str, int, int], tuple[Cursor, list[tuple[int, bytes]]]] = {}

    def take(self, run: Run, place: Place) -> list[bytes]:
        """The values of the next run of its partition and kind; LogError if they are not what was read."""
        topic, stream = self._connection.topic(run.topic), (run.topic, run.kind, run.partition)
        if stream not in self._cursors:
            start = {Kind.POSTED: run.first, Kind.APPENDED: place.own, Kind.FED: place.fed}[Kind(run.kind)]
            cursor = Cursor(self._connection, topic, start, partition=run.partition, wait_seconds=self._wait_seconds)
            self._cursors[stream] = cursor, []
        cursor, there = self._cursors[stream]
        while len(there) < run.count:
            for message in cursor.take():
                kind, number, *_ = mark_of(message, self._connection.header) or (Kind.POSTED, message.offset() or 0)
                if kind == run.kind and number >= run.first:
                    there.append((number, _value(message)))
        taken = there[: run.count]
        del there[: run.count]
        values = [value for _, value in taken]
        if (taken[0][0], taken[-1][0], checksum_of(values)) != (run.first, run.last, run.checksum):
            raise _changed(
                self._connection, topic, f"other records than those that were read, from {run.first} to {run.last}"
            )
        return values

    def __enter__(self) -> _Streams:
        return self

    def __exit__(self, *_: object) -> None:
        for cursor, _there in self._cursors.values():
            cursor.close()


class KafkaLog(KafkaHistory):
    """The log of its owner: it alone reads and commits. Made if nothing is there; whoever owned it before is shut out.

    `topics` are read from the start, also before anything was handed in here.
    """

    def __init__(
        self,
        address: str,
        application: str,
        topics: Sequence[str] = (),
        *,
        tail_records_limit: int = TAIL_RECORDS_LIMIT,
        tail_bytes_limit: int = TAIL_BYTES_LIMIT,
    ) -> None:
        super().__init__(address, application)
        where = self._connection.where()
        self._lock = threading.RLock()
        self._tail = Tail(where, records_limit=tail_records_limit, bytes_limit=tail_bytes_limit)
        self._given: Batch | None = None
        self._tried: Entry | None = None  # for the batch that was given; it may have been committed, or not
        self._before: tuple[Entry, list[tuple[str, bytes, bytes]]] | None = None  # the last one that was committed
        self._producer: Producer | None = None
        self._is_shaken = False  # a broker went away since the producer was made
        self._top = -1  # number of the last entry in the journal
        self._last = BEGINNING
        self._owner = f"{socket.gethostname()}, process {os.getpid()}, since {to_datetime(SystemClock().now())}"
        self._known: set[str] = set()  # topics whose partitions the producer knows
        self._fed_at: dict[str, deque[tuple[int, int]]] = {}  # by topic: up to which number, from which offset on
        self._connection.ensure([self._journal, *(self._connection.topic(topic) for topic in topics)])
        self._last = self._connect()
        if self._last is BEGINNING:
            self._last = structs.replace(BEGINNING, log=f"#{checksum_of([self._owner.encode()]):016x}")
            self._connection.header += self._last.log
        names = {JOURNAL, *topics, *self._last.places}
        self._connection.check_kept([self._connection.topic(name) for name in names])
        self._sequence = self._last.reserved
        self._ways = {topic: place.way for topic, place in self._last.places.items()}
        for topic in topics:
            claim(where, self._ways, topic, READ)
        with ExitStack() as undo:
            self._intake = _Intake(self._connection, self._tail)
            undo.callback(self._intake.close)
            self._resume()
            self._intake.start()
            undo.pop_all()

    # -------------------------------------------------------------------------------------------------------- coming in

    @property
    def waiting(self) -> int:
        """How many records were taken in, and wait to be read or committed."""
        return len(self._tail)

    def append(self, topic: str, values: Sequence[bytes]) -> Future[range]:
        """A promise of the records' positions, kept when they are durable; LogFull if too much waits."""
        self._connection.topic(topic)
        checked(topic, values, limit=PART_BYTES)
        claim(self._connection.where(), self._ways, topic, READ)
        return self._tail.put(topic, values)

    def post(self, topic: str, values: Sequence[bytes]) -> None:
        """What other processes do; here the same as `append`, without waiting for the promise."""
        self.append(topic, values)

    def wait(self, timeout: float) -> bool:
        """True as soon as something waits to be read; False if nothing came within `timeout` seconds."""
        return self._tail.wait(max(timeout, 0.0))

    def read(self, now: int, *, limit: int) -> Batch:
        """The next batch, at most `limit` records; a tick if nothing waits."""
        with self._lock:
            self._check_open()
            self._intake.check()
            if self._tried is not None:
                raise LogError(
                    self._connection.where(),
                    found="a batch of which it is not known whether it was committed",
                    expected="that it is committed once more, which finds out",
                    do="commit it again, then read the next one",
                )
            longest = max(map(len, self._ways), default=0)
            slices, _ = self._tail.take(self._last.end, min(limit, PART_BYTES // (RUN_BYTES + longest)))
            count = sum(len(piece.values) for piece in slices)
            came = [(each.topic, each.since, each.count) for each in self._tail.origins(count) if each.since]
            self._given = Batch(self._sequence + 1, max(now, self._last.now), slices, came)
            return self._given

    # --------------------------------------------------------------------------------------------------------- for good

    def commit(
        self,
        batch: Batch,
        written: Mapping[str, Sequence[bytes]],
        fed: Mapping[str, Sequence[bytes]] = {},
        *,
        keep: bool = False,
    ) -> None:
        """Make the batch and what was made of it durable, in one transaction; then keep the promises of its records."""
        with self._lock:
            self._check_open()
            if self._given is None or batch is not self._given:
                raise not_given(self._connection.where(), batch, self._given)
            made = self._checked(written, WRITTEN, WRITTEN_BYTES_LIMIT)
            feeds = self._checked(fed, READ, PART_BYTES)
            first = self._last.end
            if batch.slices or made or feeds or keep or batch.sequence > self._last.reserved:
                entry = self._tried or self._next(batch, made, feeds)
                sent = chain(self._appended(batch, entry), self._made(made), self._feeds(feeds))
                self._settle(self._transact(entry, sent), feeds)
            self._given = None
            self._sequence = batch.sequence
            kept = self._tail.settle(len(batch), first)
        for promise, positions in kept:
            promise.set_result(positions)

    def sequence(self) -> int:
        """The sequence of the last batch that was committed, kept or not."""
        return self._sequence

    def close(self) -> None:
        """Let go of the connections; promises that are open are broken."""
        with self._lock:
            if self._closed:
                return
            super().close()
            self._intake.close()
            self._producer = None
            broken = self._tail.close()
        for promise in broken:
            promise.set_exception(closed(self._connection.where()))

    # ----------------------------------------------------------------------------------------------------------- pieces

    def _newest(self) -> Entry:
        self._check_open()
        return self._last

    def _resume(self) -> None:
        """Go on where the journal ends, and say in it who does."""
        last, fed = self._last, list[tuple[int, str, bytes]]()
        for topic, way in self._ways.items():
            if way == READ:
                place = last.places.get(topic)
                self._intake.add(topic, place.next if place else ())
                fed += [(number, topic, value) for number, value in self._fed(topic, last)]
                if place and place.unread:
                    self._fed_at[topic] = deque([(last.fed, place.fed)])
        for number, topic, value in sorted(fed):
            self._tail.put_durable(topic, [value], number, (Kind.FED, 0))
        opening = self._next(Batch(last.reserved, last.now), {}, {}, is_batch=False)
        self._last = self._transact(opening, [])

    def _next(
        self, batch: Batch, made: Mapping[str, list[bytes]], feeds: Mapping[str, list[bytes]], *, is_batch: bool = True
    ) -> Entry:
        """What the journal will say of a batch."""
        last = self._last
        runs = _runs(batch.slices, self._tail.origins(len(batch)))
        ends = {piece.topic: piece.first + len(piece.values) for piece in batch.slices}
        reserved = last.reserved if is_batch and batch.sequence <= last.reserved else batch.sequence + RESERVED
        places = dict(last.places)
        for topic, values in made.items():
            before = places.get(topic)
            places[topic] = Place(WRITTEN, (before.end if before else 0) + len(values))
        read = [topic for topic, place in places.items() if place.way == READ]
        offsets = self._intake.offsets(runs)
        for topic in dict.fromkeys((*read, *offsets, *ends, *feeds)):
            before = places.get(topic) or Place(READ, 0)
            after, seen = offsets.get(topic, ([], 0))
            own_fed = sum(run.count for run in runs if run.topic == topic and run.kind == Kind.FED)
            places[topic] = Place(
                READ,
                ends.get(topic, before.end),
                next=after,
                own=seen,
                fed=self._fed_at[topic][0][1] if self._fed_at.get(topic) else seen,
                unread=before.unread - own_fed + len(feeds.get(topic, ())),
            )
        return Entry(
            number=self._top + 1,
            sequence=batch.sequence,
            now=batch.now,
            first=last.end,
            runs=runs,
            is_batch=is_batch,
            owner=self._owner,
            reserved=reserved,
            fed=last.fed + sum(map(len, feeds.values())),
            read=last.read + sum(run.count for run in runs if run.kind == Kind.FED),
            places=places,
            log=last.log,
        )

    def _appended(self, batch: Batch, entry: Entry) -> Iterator[tuple[str, bytes, bytes]]:
        """The records of the batch that were handed in here, on the way to their topics, each with its mark."""
        values = chain.from_iterable(piece.values for piece in batch.slices)
        position = entry.first
        for run in entry.runs:
            for value in islice(values, run.count):
                if run.kind == Kind.APPENDED:
                    yield run.topic, value, mark(Kind.APPENDED, position)
                position += 1

    def _made(self, made: Mapping[str, list[bytes]]) -> Iterator[tuple[str, bytes, bytes]]:
        for topic, values in made.items():
            place = self._last.places.get(topic)
            for position, value in enumerate(values, place.end if place else 0):
                parts = max(1, -(-len(value) // PART_BYTES))
                for part in range(parts):
                    piece = value if parts == 1 else value[part * PART_BYTES : (part + 1) * PART_BYTES]
                    yield topic, piece, mark(Kind.WRITTEN, position, part, parts)

    def _feeds(self, feeds: Mapping[str, list[bytes]]) -> Iterator[tuple[str, bytes, bytes]]:
        number = self._last.fed
        for topic, values in feeds.items():
            for value in values:
                number += 1
                yield topic, value, mark(Kind.FED, number)

    def _transact(self, entry: Entry, records: Iterable[tuple[str, bytes, bytes]]) -> Entry:
        """Commit an entry and its records. LogError if it is not known that it was: then try again with the same."""
        if self._producer is not None:
            self._producer.poll(0)  # which tells of brokers that went away
        if self._is_shaken:
            self._producer = None
        if self._producer is None and self._is_committed():
            committed, self._tried = self._tried, None
            assert committed is not None
            return committed
        topics = [self._connection.topic(topic) for topic in entry.places if topic not in self._last.places]
        self._connection.ensure(topics)
        producer, self._producer = self._producer, None
        assert producer is not None
        self._tried, sent = structs.replace(entry, number=self._top + 1), list(records)
        self._send(producer, self._tried, sent)
        self._before, self._producer, self._tried = (self._tried, sent), producer, None
        return self._before[0]

    def _send(self, producer: Producer, entry: Entry, records: Sequence[tuple[str, bytes, bytes]]) -> None:
        """One transaction."""
        with self._connection.explained():
            producer.begin_transaction()
            for topic, value, header in records:
                name = self._connection.topic(topic)
                producer.produce(name, value, partition=0, headers={self._connection.header: header})
                if topic not in self._known:
                    # The first of a topic goes alone: until its partition is known, what follows may overtake it.
                    producer.flush(COMMIT_SECONDS)
                    self._known.add(topic)
            producer.produce(self._journal, pack(entry))
            producer.commit_transaction(COMMIT_SECONDS)
        self._top = entry.number

    def _is_committed(self) -> bool:
        """Whether the entry that was tried got into the journal after all, once nothing is open any more."""
        self._check_owner(super()._newest())
        truth = self._connect()
        return self._tried is not None and truth.sequence >= self._tried.sequence

    def _check_owner(self, last: Entry) -> None:
        if last.number >= 0 and last.owner != self._owner and self._last.owner == self._owner:
            raise LogLost(
                self._connection.where(),
                found=f"another owner: {last.owner}",
                expected="to be the only one that runs this application",
                do="stop one of the two; this one stops now, and has changed nothing since",
            )

    def _connect(self) -> Entry:
        """A new producer: whoever had one can commit no more, and nothing hangs. The newest entry that counts."""
        self._known, self._is_shaken = set[str](), False
        with self._connection.explained():
            producer = Producer(
                self._connection.options(
                    transactional_id=self._connection.name,
                    transaction_timeout_ms=TRANSACTION_SECONDS * 1000,
                    retry_backoff_ms=1,  # the end of one transaction is soon there: 4 ms a commit instead of 100
                    retry_backoff_max_ms=50,
                    queue_buffering_max_messages=1_000_000,
                    queue_buffering_max_kbytes=2_000_000,
                )
                | {"error_cb": self._hear}
            )
            producer.init_transactions(ANSWER_SECONDS)
        last = super()._newest()
        self._check_owner(last)
        truth = self._end_what_hangs(producer, last)
        self._producer = producer
        return truth

    def _hear(self, error: KafkaError) -> None:
        """A broker that went away may come back without the ends that it has promised."""
        if error.code() in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN):
            self._is_shaken = True

    def _end_what_hangs(self, producer: Producer, last: Entry) -> Entry:
        """Abort or commit what has no end, send again what is gone of the last batch; the entry that then counts."""
        places = {**last.places, **self._last.places, **(self._tried.places if self._tried else {})}
        names = [self._connection.topic(topic) for topic in places]
        hanging = Hanging(self._connection, self._journal, names)
        truth, sent = hanging.truth(last), list[tuple[str, bytes, bytes]]()
        self._top = truth.number
        is_gone = self._before is not None and truth.sequence < self._before[0].sequence
        if self._before is not None and (is_gone or truth.sequence == self._before[0].sequence):
            truth, sent = self._before
        meant = hanging.meant(truth)
        self._abort(producer, [name for name in hanging.names if name not in meant])
        gone = hanging.gone(sent, truth, meant)
        if meant or gone or is_gone:
            ends = [(topic, b"", mark(Kind.END, place.end)) for topic, place in truth.places.items()]
            ends = [end for end in ends if self._connection.topic(end[0]) in meant]
            entry = structs.replace(truth, number=self._top + 1)
            if is_gone:
                self._before, self._last, truth = (entry, sent), entry, entry
            else:
                entry = structs.replace(entry, first=truth.end, runs=[], is_batch=False, owner=self._owner)
            self._send(producer, entry, [*ends, *gone])
        deadline = monotonic_seconds() + COMMIT_SECONDS
        while hanging.names:
            if monotonic_seconds() > deadline:
                raise LogError(
                    self._connection.where(hanging.names[0]),
                    found="records of ours that no transaction has ended",
                    expected=f"an end within {COMMIT_SECONDS:g} s",
                    do="see what the broker says, and end them (kafka-transactions.sh find-hanging, abort)",
                )
            hanging = Hanging(self._connection, self._journal, names)
        return truth

    def _abort(self, producer: Producer, names: Sequence[str]) -> None:
        """End what hangs of these topics, as if it had not been written."""
        if not names:
            return
        with self._connection.explained():
            producer.begin_transaction()
            for name in names:
                producer.produce(name, b"", partition=0, headers={self._connection.header: mark(Kind.END, 0)})
            producer.flush(COMMIT_SECONDS)
            producer.abort_transaction(COMMIT_SECONDS)

    def _settle(self, entry: Entry, feeds: Mapping[str, list[bytes]]) -> None:
        """The entry is durable: what was fed waits to be read, and new topics are looked at."""
        before, self._last = self._last, entry
        self._intake.settle(entry.runs)
        for chunks in self._fed_at.values():
            while chunks and chunks[0][0] <= entry.read:
                chunks.popleft()
        number = before.fed
        for topic, values in feeds.items():
            self._tail.put_durable(topic, values, number + 1, (Kind.FED, 0))
            number += len(values)
            self._fed_at.setdefault(topic, deque()).append((number, entry.places[topic].own))
        for topic, place in entry.places.items():
            if topic not in before.places and place.way == READ:
                self._intake.add(topic, ())

    def _checked(self, records: Mapping[str, Sequence[bytes]], way: int, limit: int) -> dict[str, list[bytes]]:
        found = {topic: list(values) for topic, values in records.items() if values}
        for topic, values in found.items():
            checked(topic, values, limit=limit)
            self._connection.topic(topic)
            claim(self._connection.where(), self._ways, topic, way)
        return found


class _Intake:
    """What others post, on its way into the tail: a thread that reads ahead, so far and no farther."""

    def __init__(self, connection: Connection, tail: Tail) -> None:
        self._connection, self._tail = connection, tail
        with connection.explained():
            self._consumer: Consumer = connection.consumer(
                auto_offset_reset="error",
                enable_partition_eof=True,  # which tells of ends of transactions, too
            )
        self._lock = threading.Lock()  # around what was seen and what waits, which belong together
        self._names: dict[str, str] = {}  # topics of the cluster -> ours
        self._partitions: dict[str, int] = {}  # of each of our topics, how many are looked at
        self._starts: dict[Partition, int] = {}  # partitions to be looked at, too: from which offset on
        self._seen: dict[Partition, int] = {}  # the offset after all that came, whoever wrote it
        self._after: dict[Partition, int] = {}  # the offset after the last record that was posted and read
        self._waiting: dict[Partition, int] = {}  # records that were posted, came, and were not read
        self._told: dict[Partition, int] = {}  # what the consumer group was told of how far it came
        self._told_at = self._looked_at = monotonic_seconds()
        self._tells = True  # until it may not
        self._troubles: dict[str, LogError] = {}  # by topic, until it is heard of again; of all of them, for good: ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="katmatic-kafka-intake", daemon=True)

    def add(self, topic: str, starts: Sequence[int]) -> None:
        """Look at a topic, too: its partitions from these offsets on, further ones from their first record on."""
        name = self._connection.topic(topic)
        count = self._connection.there().get(name, 0)
        if count < len(starts):
            raise _changed(self._connection, name, f"{count} partitions, where {len(starts)} were read")
        found = list(starts)
        for partition in range(len(starts), count):
            with Cursor(self._connection, name, partition=partition) as cursor:
                found.append(cursor.bounds()[0])
        with self._lock:
            self._names[name] = topic
            for partition in range(self._partitions.get(topic, 0), count):
                at = topic, partition
                self._seen[at] = self._after[at] = self._starts[at] = found[partition]
                self._waiting[at] = 0
            self._partitions[topic] = count

    def start(self) -> None:
        """Begin to take in."""
        self._thread.start()

    def check(self) -> None:
        """LogError if a topic cannot be read."""
        for error in list(self._troubles.values()):
            raise error

    def offsets(self, runs: Sequence[Run]) -> dict[str, tuple[list[int], int]]:
        """By topic: from where on nothing was read of each partition, after these runs; how far the first is seen."""
        with self._lock:
            waiting, after = dict(self._waiting), dict(self._after)
            _pass(runs, waiting, after)
            return {
                topic: (
                    [after[at] if waiting[at] else self._seen[at] for at in ((topic, p) for p in range(count))],
                    self._seen[topic, 0],
                )
                for topic, count in self._partitions.items()
            }

    def settle(self, runs: Sequence[Run]) -> None:
        """These runs were read for good."""
        with self._lock:
            _pass(runs, self._waiting, self._after)

    def close(self) -> None:
        """Take nothing more in."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        closing = threading.Thread(target=self._consumer.close, name="katmatic-kafka-closing", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)  # what the group is still to be told waits 45 s for a broker that is gone

    def _work(self) -> None:
        try:
            while not self._stopping.is_set():
                self._look_at_more()
                self._tell()
                if len(self._tail) >= INTAKE_RECORDS_LIMIT or self._tail.size >= INTAKE_BYTES_LIMIT:
                    self._stopping.wait(0.005)
                    continue
                first = self._consumer.poll(POLL_SECONDS)
                if first is not None:
                    self._put([first, *self._consumer.consume(FETCHED, 0)])
        except LogError as error:
            self._troubles[""] = error
        except Exception as error:  # whatever it is: it must not go on as if nothing came
            self._troubles[""] = LogError(
                self._connection.where(),
                found=repr(error),
                expected="records",
                do="see what the broker says, and restart",
            )

    def _look_at_more(self) -> None:
        if monotonic_seconds() - self._looked_at >= LOOK_SECONDS:
            self._looked_at = monotonic_seconds()
            self._grow()
        with self._lock:
            more = [TopicPartition(self._connection.topic(t), p, start) for (t, p), start in self._starts.items()]
            self._starts.clear()
        if more:
            self._consumer.incremental_assign(more)  # which leaves alone what is on its way from the others

    def _grow(self) -> None:
        """Look at partitions, too, that topics were given since."""
        try:
            there = self._connection.there()
            for name, topic in list(self._names.items()):
                known = self._partitions[topic]
                if there.get(name, 0) > known:
                    self.add(topic, [self._seen[topic, partition] for partition in range(known)])
        except LogError:  # the broker is away: there will be another look
            return

    def _tell(self) -> None:
        """Tell the group how far it came, for the tools that show its lag; what counts stands in the journal."""
        if not self._tells or monotonic_seconds() - self._told_at < TOLD_SECONDS:
            return
        self._told_at = monotonic_seconds()
        with self._lock:
            found = {at: self._after[at] if self._waiting[at] else seen for at, seen in self._seen.items()}
        if found != self._told:
            self._told = found
            offsets = [TopicPartition(self._connection.topic(t), p, offset) for (t, p), offset in found.items()]
            self._consumer.commit(offsets=offsets, asynchronous=True)

    def _put(self, messages: list[Message]) -> None:
        """Let wait what others posted; what is ours is known."""
        now = SystemClock().now()
        at, start, values, since = None, 0, list[bytes](), now
        for message in messages:
            error, offset = message.error(), int(message.offset() or 0)
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                self._check(message, error)
                continue
            here = self._names[message.topic() or ""], message.partition() or 0
            if self._troubles:
                self._troubles.pop(here[0], None)
            if error is not None:
                self._wait(at, start, values, since)
                at, start, values, since = here, max(offset, self._seen[here]), [], now
                continue
            if offset < (start + len(values) if here == at else self._seen[here]):
                continue  # it came before
            is_ours = mark_of(message, self._connection.header) is not None
            came = _stamp(message, now)
            is_apart = here != at or offset != start + len(values) or abs(came - since) > (now - since) // TOGETHER
            if is_ours or is_apart:
                self._wait(at, start, values, since)
                at, start, values, since = here, offset, [], came
            if is_ours:
                at, start = here, offset + 1
            else:
                values.append(_value(message))
        self._wait(at, start, values, since)

    def _wait(self, at: Partition | None, start: int, values: list[bytes], since: int) -> None:
        if at is None:
            return
        topic, partition = at
        with self._lock:
            self._seen[at] = start + len(values)
            if values:
                self._waiting[at] += len(values)
                self._tail.put_durable(topic, values, start, (Kind.POSTED, partition), since=since)

    def _check(self, message: Message, error: KafkaError) -> None:
        name, code = message.topic() or "", error.code()
        if code == KafkaError._AUTO_OFFSET_RESET:
            self._pass_over(name, message.partition() or 0, int(message.offset() or 0))
        elif error.fatal():
            raise KafkaException(error)
        elif code == KafkaError.GROUP_AUTHORIZATION_FAILED:
            self._tells = False
        elif name and code not in PASSING and not error.retriable():  # else it is of the group, which is only told
            self._troubles[self._names[name]] = trouble(self._connection.where(name), error)

    def _pass_over(self, name: str, partition: int, offset: int) -> None:
        """Go on after what was deleted, if the group was told of all of it: ends of transactions. Else LogError."""
        here = TopicPartition(name, partition)
        first, _ = self._consumer.get_watermark_offsets(here, timeout=ANSWER_SECONDS)
        told = self._consumer.committed([here], timeout=ANSWER_SECONDS)[0].offset
        if not offset < first <= told:
            raise LogError(
                self._connection.where(name),
                found=f"no record at offset {offset} any more",
                expected="every record until it was read",
                do="let the topic keep its records for longer (retention.ms), and begin a new log",
            )
        self._consumer.incremental_unassign([here])
        with self._lock:
            at = self._names[name], partition
            self._seen[at] = self._starts[at] = first


def _pass(runs: Sequence[Run], waiting: dict[Partition, int], after: dict[Partition, int]) -> None:
    """Note that runs were read."""
    for run in runs:
        if run.kind == Kind.POSTED:
            waiting[run.topic, run.partition] -= run.count
            after[run.topic, run.partition] = run.last + 1


def _runs(slices: Sequence[Slice], origins: list[Origin]) -> list[Run]:
    """The runs of a batch: what came in a row, of one topic and in one way."""
    runs, left = list[Run](), deque(origins)
    for piece in slices:
        at = 0
        while at < len(piece.values):
            origin = left.popleft()
            came, count = _came(origin), origin.count
            first = origin.number if origin.durable else piece.first + at
            while left and at + count < len(piece.values) and _came(left[0]) == came:
                origin = left.popleft()
                count += origin.count
            last = origin.number + origin.count - 1 if origin.durable else first + count - 1
            checksum = checksum_of(piece.values[at : at + count])
            runs.append(Run(piece.topic, came[0], count, first, last, checksum, came[1]))
            at += count
    return runs


def _came(origin: Origin) -> tuple[int, ...]:
    """Kind and partition of records."""
    return origin.origin if origin.durable else (Kind.APPENDED, 0)


def _value(message: Message) -> bytes:
    value = message.value()
    return value if isinstance(value, bytes) else b""  # nothing: a heartbeat


def _stamp(message: Message, now: int) -> int:
    """When a record came, as the broker or its producer has it: not later than now."""
    _, milliseconds = message.timestamp()
    return min(milliseconds * 1000, now) if milliseconds > 0 else now


def _changed(connection: Connection, topic: str, found: str) -> LogError:
    return LogError(
        connection.where(topic),
        found=found,
        expected="what was committed",
        do="let nobody delete, compact or write what the log needs; restore the topic, or begin a new log",
    )
