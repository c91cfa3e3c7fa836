"""The embedded log: one SQLite file, one owner, one transaction for one commit; other processes may read it and post.

SQLite does the hard part: a transaction is there or it is not, after SIGKILL, a power cut or a full disk. On top of it,
every batch and every piece of records carries a checksum that also covers where it stands, so that what the disk has
changed is found when it is read. Beside the file lie SQLite's own two (`-wal`, `-shm`) and `.lock`, naming the owner.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import xxhash

from katmatic.errors import LogError, LogFull
from katmatic.log.base import Batch, Slice
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

APPLICATION = 0x6B61746D  # "katm": how the file says whose it is
FORM = 1  # of the tables
PAGE_BYTES = 8192  # 4096 costs a fifth more CPU in large batches, 16384 gains nothing: bench/log.py
WAL_BYTES = 16 * 2**20  # after so much, pages move from the side file into the main one: some 20 ms
CACHE_BYTES = 8 * 2**20
BUSY_SECONDS = 30.0  # how long to wait for the short transaction of another process
INBOX_RECORDS_LIMIT = 100_000  # posted and not yet read
INBOX_LOOK_SECONDS = 0.2  # how soon a post is noticed when nothing else comes
CHUNK_BYTES = 4 * 2**20  # read in one go, so that a long scan holds nobody up and needs little memory
CHUNK_BATCHES = 1000
RESERVED = 10_000  # sequences at a time, so that ticks that are not kept cost no commit

_SCHEMA = """
-- way 0: its records are read, numbered together with all others that are; way 1: written, numbered by themselves
CREATE TABLE topics (
    number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, way INTEGER NOT NULL, checksum INTEGER NOT NULL
);
-- runs: [[topic number, how many records], ...] in the order in which they were read, from position `first` on
CREATE TABLE batches (
    sequence INTEGER PRIMARY KEY, now INTEGER NOT NULL, first INTEGER NOT NULL, runs BLOB NOT NULL,
    checksum INTEGER NOT NULL
);
-- what one batch has of one topic; place: topic number and position of the last record, as 15 and 48 bits
CREATE TABLE records (
    place INTEGER PRIMARY KEY, first INTEGER NOT NULL, sequence INTEGER NOT NULL, checksum INTEGER NOT NULL,
    data BLOB NOT NULL
);
-- fed or posted, and not read yet
CREATE TABLE inbox (
    number INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, checksum INTEGER NOT NULL, value BLOB NOT NULL
);
-- reserved: no batch had a sequence above it; forgotten: the last sequence that was let go
CREATE TABLE facts (reserved INTEGER NOT NULL, forgotten INTEGER NOT NULL, checksum INTEGER NOT NULL);
"""

_POSITION_BITS = 48
_POSITIONS = (1 << _POSITION_BITS) - 1
_64_BITS = (1 << 64) - 1
_ODD = 0x9E3779B97F4A7C15  # spreads the bits of a small number
_encoder = msgspec.msgpack.Encoder()
_values = msgspec.msgpack.Decoder(list[bytes])
_runs = msgspec.msgpack.Decoder(list[tuple[int, int]])


def open_readonly(path: str | Path) -> SqliteHistory:
    """What is committed in the log at `path`, now and later; its owner may be at work. LogError if there is no log."""
    return SqliteHistory(path)


class SqliteHistory:
    """A log as a process sees it that does not own it: it reads what is committed, and may post records to be read."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._past_lock = threading.Lock()
        if not self._path.exists():
            raise LogError(
                str(path), found="no such file", expected="a log", do="start the pipeline first, or name another file"
            )
        self._past = _connect(self._path, "PRAGMA query_only = ON")
        self._topics_there: dict[str, _Topic] = {}
        self._names: dict[int, str] = {}
        try:
            with _explained(self._path), _shaped():
                _check_form(self._past, self._path)
        except LogError:
            self._past.close()
            raise

    def batches(self, after: int = 0) -> Iterator[Batch]:
        """The committed batches with a sequence above `after`, in order, each with the content that was read.

        LogError if they were forgotten, if `after` was never reached, or if the disk has changed one.
        """
        with self._reading() as past:
            reserved, forgotten = _facts(past)
        if not forgotten <= after <= reserved:
            raise LogError(
                str(self._path),
                found=f"a checkpoint at batch {after}",
                expected=f"one between {forgotten} and {reserved}, which is what the log holds",
                do="restore the log and its checkpoints from one backup, or start with a new log",
            )
        found, position = self._some_batches(after, None)
        while found:
            yield from found
            found, position = self._some_batches(found[-1].sequence, position)

    def scan(self, topic: str, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Committed records of one topic with their positions, from `start` up to but without `stop`."""
        stop = _POSITIONS if stop is None else stop
        last = None
        while start < stop and (found := self._some_records(topic, start, last)):
            for positions, values in found:
                if positions[0] < start or positions[-1] >= stop:
                    yield from (row for row in zip(positions, values, strict=True) if start <= row[0] < stop)
                else:
                    yield from zip(positions, values, strict=True)
            last = found[-1][0][-1]
            start = last + 1

    def end(self, topic: str) -> int:
        """The position after the topic's last committed record; 0 of nothing."""
        with self._reading() as past:
            found = self._find(past, topic)
            return _end(past, found.number) if found else 0

    def post(self, topic: str, values: Sequence[bytes]) -> None:
        """Hand records to the owner, who reads them next; they are durable when this returns. For other processes."""
        values = list(values)
        checked(topic, values)
        writer = _connect(self._path)
        try:
            with _transaction(writer, self._path):
                oldest, newest = writer.execute("SELECT min(number), max(number) FROM inbox").fetchone()
                waiting = newest - oldest + 1 if newest else 0
                if waiting + len(values) > INBOX_RECORDS_LIMIT:
                    raise LogFull(
                        f"{self._path}: inbox",
                        found=f"{waiting} records waiting, and {len(values)} more",
                        expected=f"at most {INBOX_RECORDS_LIMIT}",
                        do="see that the pipeline runs and reads them, then post again",
                    )
                _register(writer, self._path, topic, READ)
                _put(writer, topic, values)
        finally:
            writer.close()

    def close(self) -> None:
        """Let go of the file."""
        with self._past_lock:
            self._past.close()

    # ---------------------------------------------------------------------------------------------- in small helpings

    def _some_batches(self, after: int, position: int | None) -> tuple[list[Batch], int]:
        """Some batches after a sequence, the first from `position` on if that is known; and the position after them."""
        found: list[Batch] = []
        size = 0
        with self._reading() as past:
            rows = past.execute(
                "SELECT sequence, now, first, runs, checksum FROM batches WHERE sequence > ? ORDER BY sequence LIMIT ?",
                (after, CHUNK_BATCHES),
            )
            for sequence, now, first, packed, checksum in rows:
                if checksum != _batch_checksum(sequence, now, first, packed):
                    raise _Damage(f"batch {sequence}")
                if position is not None and first != position:
                    raise _Damage(f"positions from {position} up to {first}, which are missing")
                found.append(Batch(sequence, now, self._slices(past, first, _runs.decode(packed))))
                position = first + len(found[-1])
                size += sum(len(value) for piece in found[-1].slices for value in piece.values)
                if size > CHUNK_BYTES:
                    break
        return found, position or 0

    def _slices(self, past: sqlite3.Connection, first: int, runs: list[tuple[int, int]]) -> tuple[Slice, ...]:
        last = first - 1
        lasts = {}
        for number, count in runs:
            last += count
            lasts[number] = last
        pieces = {number: self._piece(past, number << _POSITION_BITS | last) for number, last in lasts.items()}
        if len(runs) == len(pieces):
            taken = [(number, pieces[number]) for number, _ in runs]
        else:
            streams = {number: iter(values) for number, values in pieces.items()}
            taken = [(number, [next(streams[number]) for _ in range(count)]) for number, count in runs]
        slices = []
        for number, values in taken:
            slices.append(Slice(self._name(past, number), first, values))
            first += len(values)
        return tuple(slices)

    def _piece(self, past: sqlite3.Connection, place: int) -> list[bytes]:
        row = past.execute("SELECT first, sequence, checksum, data FROM records WHERE place = ?", (place,)).fetchone()
        if row is None or row[2] != _piece_checksum(place, row[0], row[1], row[3]):
            raise _Damage(self._where(past, place))
        return _values.decode(row[3])

    def _some_records(self, topic: str, start: int, last: int | None) -> list[tuple[Sequence[int], list[bytes]]]:
        found: list[tuple[Sequence[int], list[bytes]]] = []
        size = 0
        with self._reading() as past:
            there = self._find(past, topic)
            if there is None:
                return []
            if last is None and _facts(past)[1] == 0:
                last = start - 1
            rows = past.execute(
                "SELECT place, first, sequence, checksum, data FROM records WHERE place BETWEEN ? AND ? ORDER BY place",
                (there.number << _POSITION_BITS | start, there.number << _POSITION_BITS | _POSITIONS),
            )
            for place, first, sequence, checksum, data in rows:
                if checksum != _piece_checksum(place, first, sequence, data):
                    raise _Damage(self._where(past, place))
                if there.way == WRITTEN and last is not None and first > last + 1:
                    raise _Damage(f"{topic} from position {last + 1} up to {first}, which are missing")
                values = _values.decode(data)
                last = place & _POSITIONS
                positions: Sequence[int] = range(first, last + 1)
                if len(positions) != len(values):  # records of other topics lie between
                    positions = self._positions(past, there.number, sequence)
                found.append((positions, values))
                size += len(data)
                if size > CHUNK_BYTES:
                    break
        return found

    def _positions(self, past: sqlite3.Connection, number: int, sequence: int) -> list[int]:
        first, packed = past.execute("SELECT first, runs FROM batches WHERE sequence = ?", (sequence,)).fetchone()
        found: list[int] = []
        for other, count in _runs.decode(packed):
            if other == number:
                found.extend(range(first, first + count))
            first += count
        return found

    def _find(self, past: sqlite3.Connection, topic: str) -> _Topic | None:
        if topic not in self._topics_there:
            self._topics_there = _topics(past)
            self._names = {there.number: name for name, there in self._topics_there.items()}
        return self._topics_there.get(topic)

    def _name(self, past: sqlite3.Connection, number: int) -> str:
        if number not in self._names:
            self._find(past, "")
        return self._names[number]

    def _where(self, past: sqlite3.Connection, place: int) -> str:
        return f"{self._name(past, place >> _POSITION_BITS)} up to position {place & _POSITIONS}"

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """One view of the file, for a short while."""
        with self._past_lock, _explained(self._path), _shaped():
            self._past.execute("BEGIN")
            try:
                yield self._past
            finally:
                with suppress(sqlite3.Error):  # a file that cannot be read has ended it already
                    self._past.execute("ROLLBACK")


@dataclass
class _Given:
    """The batch that was read last, and the last number of the inbox in it."""

    batch: Batch
    inbox: int


class SqliteLog(SqliteHistory):
    """The log of its owner: it alone reads and commits. Made at `path` if nothing is there.

    >>> from tempfile import TemporaryDirectory
    >>> folder = TemporaryDirectory()
    >>> log = SqliteLog(Path(folder.name) / "log.db")
    >>> positions = log.append("gate", [b"A123", b"B7"])
    >>> log.commit(log.read(1_000, limit=100), {"katmatic.alerts": [b"A123 is late"]})
    >>> positions.result(), list(log.scan("katmatic.alerts"))
    (range(0, 2), [(0, b'A123 is late')])
    >>> log.close(); folder.cleanup()
    """

    def __init__(
        self,
        path: str | Path,
        *,
        tail_records_limit: int = TAIL_RECORDS_LIMIT,
        tail_bytes_limit: int = TAIL_BYTES_LIMIT,
        file_bytes_limit: int | None = None,
    ) -> None:
        path = Path(path)
        self._lock = threading.RLock()
        self._tail = Tail(str(path), records_limit=tail_records_limit, bytes_limit=tail_bytes_limit)
        self._given: _Given | None = None
        # Where the file ends:
        self._topics: dict[str, _Topic] = {}
        self._ways: dict[str, int] = {}
        self._sequence = self._reserved = self._now = self._position = 0
        self._seen = self._version = 0  # of the inbox
        self._owner = _own(path)
        with ExitStack() as undo:
            undo.callback(os.close, self._owner)
            self._connection = _create(path)
            undo.callback(self._connection.close)
            super().__init__(path)
            undo.callback(super().close)
            with _explained(path), _shaped():
                if file_bytes_limit is not None:
                    self._connection.execute(f"PRAGMA max_page_count = {max(file_bytes_limit // PAGE_BYTES, 1)}")
                self._resume()
            undo.pop_all()

    # -------------------------------------------------------------------------------------------------------- coming in

    @property
    def waiting(self) -> int:
        """How many records wait to be read or committed."""
        return len(self._tail)

    def append(self, topic: str, values: Sequence[bytes]) -> Future[range]:
        """A promise of the records' positions, kept when they are durable; LogFull if too much waits."""
        claim(str(self._path), self._ways, topic, READ)
        return self._tail.put(topic, values)

    def post(self, topic: str, values: Sequence[bytes]) -> None:
        """What other processes do; here the same as `append`, without waiting for the promise."""
        self.append(topic, values)

    def wait(self, timeout: float) -> bool:
        """True as soon as something waits to be read; False if nothing came within `timeout` seconds."""
        while True:
            if self._tail.wait(min(max(timeout, 0.0), INBOX_LOOK_SECONDS)):
                return True
            with self._lock, _explained(self._path):
                self._check_open()
                self._look()
            timeout -= INBOX_LOOK_SECONDS
            if timeout <= 0:
                return self.waiting > 0

    def read(self, now: int, *, limit: int) -> Batch:
        """The next batch, at most `limit` records; a tick if nothing waits."""
        with self._lock, _explained(self._path):
            self._check_open()
            self._look()
            slices, inbox = self._tail.take(self._position, limit)
            self._given = _Given(Batch(self._sequence + 1, max(now, self._now), slices), inbox)
            return self._given.batch

    # --------------------------------------------------------------------------------------------------------- for good

    def commit(
        self, batch: Batch, written: Mapping[str, Sequence[bytes]], fed: Mapping[str, Sequence[bytes]] = {}
    ) -> None:
        """Make the batch and what was made of it durable, in one transaction; then keep the promises of its records."""
        with self._lock:
            self._check_open()
            if self._given is None or batch is not self._given.batch:
                raise not_given(str(self._path), batch, self._given.batch if self._given else None)
            made = self._checked(written, WRITTEN)
            feeds = self._checked(fed, READ)
            kept = bool(batch.slices or made or feeds)
            if kept or batch.sequence > self._reserved:
                with _transaction(self._connection, self._path):
                    topics, fed_from = self._write(batch, made, feeds, kept=kept)
                self._topics.update(topics)
                if batch.sequence > self._reserved:
                    self._reserved = batch.sequence + RESERVED - 1
                for topic, values in feeds.items():
                    self._tail.put_durable(topic, values, fed_from)
                    fed_from += len(values)
                    self._seen = fed_from - 1
            self._given = None
            self._sequence, self._now = batch.sequence, batch.now
            kept_promises = self._tail.settle(len(batch), self._position)
            self._position += len(batch)
        for promise, positions in kept_promises:
            promise.set_result(positions)

    def sequence(self) -> int:
        """The sequence of the last batch that was committed, kept or not."""
        return self._sequence

    def forget(self, before: int) -> int:
        """Let go of the batches before the moment `before`, with their records and what was written; how many batches.

        Checkpoints from before then are of no more use. The newest batch stays, and the newest records of each topic.
        The file gets no smaller; what comes later takes the room.
        """
        total = 0
        while True:
            with self._lock:
                self._check_open()
                with _transaction(self._connection, self._path) as connection:
                    gone = _forget(connection, before)
            total += gone
            if gone < CHUNK_BATCHES:
                return total

    def close(self) -> None:
        """Let go of the file and of its ownership; promises that are open are broken."""
        with self._lock:
            if self._owner < 0:
                return
            with suppress(LogError), _transaction(self._connection, self._path):
                newest = self._connection.execute("SELECT max(sequence) FROM batches").fetchone()[0] or 0
                _set_facts(self._connection, reserved=max(self._sequence, newest))  # no gap after an orderly end
            super().close()
            self._connection.close()
            os.close(self._owner)  # which unlocks it
            self._owner = -1
            broken = self._tail.close()
        for promise in broken:
            promise.set_exception(closed(str(self._path)))

    # ----------------------------------------------------------------------------------------------------------- pieces

    def _resume(self) -> None:
        """Go on where the file ends."""
        run = self._connection.execute
        for name, topic in _topics(self._connection).items():
            self._topics[name] = _Topic(topic.number, topic.way, _end(self._connection, topic.number))
            self._ways[name] = topic.way
        self._sequence = self._reserved = _facts(self._connection)[0]
        newest = run("SELECT max(sequence) FROM batches").fetchone()[0]
        if newest is not None:
            (last,), self._position = self._some_batches(newest - 1, None)
            self._now = last.now
        self._look()

    def _look(self) -> None:
        """Notice what other processes posted."""
        version = self._connection.execute("PRAGMA data_version").fetchone()[0]
        if version != self._version:
            self._collect()
            self._version = version

    def _collect(self) -> None:
        rows = self._connection.execute(
            "SELECT number, topic, checksum, value FROM inbox WHERE number > ? ORDER BY number", (self._seen,)
        )
        for number, topic, checksum, value in rows:
            if checksum != _checksum(value, number):
                raise _Damage(f"inbox {number}, for {topic}")
            claim(str(self._path), self._ways, topic, READ)
            self._tail.put_durable(topic, [value], number)
            self._seen = number

    def _checked(self, records: Mapping[str, Sequence[bytes]], way: int) -> dict[str, list[bytes]]:
        found = {topic: list(values) for topic, values in records.items() if values}
        for topic, values in found.items():
            checked(topic, values, limit=WRITTEN_BYTES_LIMIT)
            claim(str(self._path), self._ways, topic, way)
        return found

    def _write(
        self, batch: Batch, made: dict[str, list[bytes]], feeds: dict[str, list[bytes]], *, kept: bool
    ) -> tuple[dict[str, _Topic], int]:
        """Put all into the transaction; the topics as they are then, and the number of the first record fed."""
        assert self._given is not None
        run = self._connection.execute
        if batch.sequence > self._reserved:
            _set_facts(self._connection, reserved=batch.sequence + RESERVED - 1)
        if not kept:
            return {}, 0
        topics: dict[str, _Topic] = {}
        for topic, values in made.items():
            found = self._topic(topic, WRITTEN)
            topics[topic] = self._insert(found, found.end, values, found.end + len(values), batch.sequence)
        for topic, piece in _pieces(batch.slices).items():
            found = self._topic(topic, READ)
            topics[topic] = self._insert(found, piece.first, piece.values, piece.stop, batch.sequence)
        packed = _encoder.encode([(topics[piece.topic].number, len(piece.values)) for piece in batch.slices])
        checksum = _batch_checksum(batch.sequence, batch.now, self._position, packed)
        run("INSERT INTO batches VALUES (?, ?, ?, ?, ?)", (batch.sequence, batch.now, self._position, packed, checksum))
        if self._given.inbox:
            run("DELETE FROM inbox WHERE number <= ?", (self._given.inbox,))
        fed_from = 0
        if feeds:
            self._collect()  # nobody can post between this and the commit, so the numbers of what is fed are its own
            for topic, values in feeds.items():
                topics.setdefault(topic, self._topic(topic, READ))
                start = _put(self._connection, topic, values)
                fed_from = fed_from or start
        return topics, fed_from

    def _topic(self, name: str, way: int) -> _Topic:
        return self._topics.get(name) or _Topic(_register(self._connection, self._path, name, way), way, 0)

    def _insert(self, topic: _Topic, first: int, values: list[bytes], stop: int, sequence: int) -> _Topic:
        """Records of one topic, the last at `stop` - 1; the topic as it is then."""
        place, data = topic.number << _POSITION_BITS | stop - 1, _encoder.encode(values)
        row = (place, first, sequence, _piece_checksum(place, first, sequence, data), data)
        self._connection.execute("INSERT INTO records VALUES (?, ?, ?, ?, ?)", row)
        return _Topic(topic.number, topic.way, stop)

    def _check_open(self) -> None:
        if self._owner < 0:
            raise closed(str(self._path))


# --------------------------------------------------------------------------------------------------- the tables, by row


@dataclass(frozen=True)
class _Topic:
    """A topic as it stands in the file; `end` is the position after its last record."""

    number: int
    way: int
    end: int


@dataclass
class _Piece:
    """What a batch has of one topic: records from position `first` on, the last at `stop` - 1."""

    first: int
    stop: int
    values: list[bytes]


def _pieces(slices: Sequence[Slice]) -> dict[str, _Piece]:
    found: dict[str, _Piece] = {}
    for piece in slices:
        stop = piece.first + len(piece.values)
        if piece.topic in found:
            found[piece.topic].stop = stop
            found[piece.topic].values.extend(piece.values)
        else:
            found[piece.topic] = _Piece(piece.first, stop, list(piece.values))
    return found


def _facts(connection: sqlite3.Connection) -> tuple[int, int]:
    """No batch had a sequence above the first; none up to the second is there any more."""
    reserved, forgotten, checksum = connection.execute("SELECT reserved, forgotten, checksum FROM facts").fetchone()
    if checksum != _checksum(_encoder.encode((reserved, forgotten)), 0):
        raise _Damage("facts")
    return reserved, forgotten


def _set_facts(connection: sqlite3.Connection, *, reserved: int | None = None, forgotten: int | None = None) -> None:
    facts = _facts(connection)
    facts = (facts[0] if reserved is None else reserved, facts[1] if forgotten is None else forgotten)
    connection.execute(
        "UPDATE facts SET reserved = ?, forgotten = ?, checksum = ?", (*facts, _checksum(_encoder.encode(facts), 0))
    )


def _topics(connection: sqlite3.Connection) -> dict[str, _Topic]:
    found = {}
    for number, name, way, checksum in connection.execute("SELECT number, name, way, checksum FROM topics"):
        if checksum != _topic_checksum(number, name, way):
            raise _Damage(f"topic {number}")
        found[name] = _Topic(number, way, 0)
    return found


def _end(connection: sqlite3.Connection, number: int) -> int:
    places = number << _POSITION_BITS, number << _POSITION_BITS | _POSITIONS
    last = connection.execute("SELECT max(place) FROM records WHERE place BETWEEN ? AND ?", places).fetchone()[0]
    return 0 if last is None else (last & _POSITIONS) + 1


def _register(connection: sqlite3.Connection, path: Path, name: str, way: int) -> int:
    """The number of a topic, new or not; LogError if it holds records of the other way."""
    topics = _topics(connection)
    if name in topics:
        claim(str(path), {name: topics[name].way}, name, way)
        return topics[name].number
    number = 1 + max((topic.number for topic in topics.values()), default=0)
    row = (number, name, way, _topic_checksum(number, name, way))
    connection.execute("INSERT INTO topics VALUES (?, ?, ?, ?)", row)
    return number


def _put(connection: sqlite3.Connection, topic: str, values: list[bytes]) -> int:
    """Let records wait in the inbox; the number of the first."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'inbox'").fetchone()
    first = row[0] + 1 if row else 1
    connection.executemany(
        "INSERT INTO inbox VALUES (?, ?, ?, ?)",
        [(number, topic, _checksum(value, number), value) for number, value in enumerate(values, first)],
    )
    return int(first)


def _forget(connection: sqlite3.Connection, before: int) -> int:
    """Let go of at most CHUNK_BATCHES batches before a moment; how many."""
    newest = connection.execute("SELECT max(sequence) FROM batches").fetchone()[0]
    gone = [
        sequence
        for sequence, now in connection.execute(
            "SELECT sequence, now FROM batches ORDER BY sequence LIMIT ?", (CHUNK_BATCHES,)
        )
        if now < before and sequence != newest
    ]
    if not gone:
        return 0
    for (number,) in connection.execute("SELECT number FROM topics").fetchall():
        low, high = number << _POSITION_BITS, number << _POSITION_BITS | _POSITIONS
        # Sequences rise with places, so the first place to stay is found by walking over those that go.
        stays = connection.execute(
            "SELECT place FROM records WHERE place BETWEEN ? AND ? AND sequence > ? ORDER BY place LIMIT 1",
            (low, high, gone[-1]),
        ).fetchone()
        if stays is None:
            stays = connection.execute(
                "SELECT max(place) FROM records WHERE place BETWEEN ? AND ?", (low, high)
            ).fetchone()
        connection.execute("DELETE FROM records WHERE place >= ? AND place < ?", (low, stays[0]))
    connection.execute("DELETE FROM batches WHERE sequence <= ?", (gone[-1],))
    _set_facts(connection, forgotten=gone[-1])
    return len(gone)


def _checksum(data: bytes, place: int) -> int:
    """Of the bytes and of where they stand; 63 bits, which SQLite's integers hold."""
    return xxhash.xxh3_64_intdigest(data, place) >> 1


def _piece_checksum(place: int, first: int, sequence: int, data: bytes) -> int:
    return _checksum(data, (place ^ first * _ODD ^ sequence * _ODD * _ODD) & _64_BITS)


def _batch_checksum(sequence: int, now: int, first: int, packed: bytes) -> int:
    return _checksum(_encoder.encode((now, first, packed)), sequence)


def _topic_checksum(number: int, name: str, way: int) -> int:
    return _checksum(_encoder.encode((name, way)), number)


# ------------------------------------------------------------------------------------------------------------- the file


def _own(path: Path) -> int:
    """Become the one owner: an open file that is locked until it is closed, even by SIGKILL."""
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.read(lock, 20).decode("ascii", "replace").strip()
        os.close(lock)
        raise LogError(
            str(path),
            found=f"another owner: process {owner}",
            expected="one owner at a time",
            do=f"end process {owner} first, or give this one another log; to look into a log, open it read-only",
        ) from error
    os.ftruncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
    return lock


def _create(path: Path) -> sqlite3.Connection:
    """A connection that may write; the tables are made if the file is new."""
    with _explained(path):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # people's data: for the owner's eyes
        _sync(path.parent)
    connection = _connect(
        path,
        f"PRAGMA page_size = {PAGE_BYTES}",
        "PRAGMA journal_mode = WAL",  # readers never wait for the writer, and a commit is one sequential write
        "PRAGMA cell_size_check = ON",  # find a damaged page before it does harm
        f"PRAGMA wal_autocheckpoint = {WAL_BYTES // PAGE_BYTES}",
        f"PRAGMA journal_size_limit = {2 * WAL_BYTES}",  # a side file that grew under a long reader is cut again
        f"PRAGMA cache_size = -{CACHE_BYTES // 1024}",
    )
    try:
        with _explained(path), _shaped():
            if path.stat().st_size == 0 or connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0:
                facts = f"INSERT INTO facts VALUES (0, 0, {_checksum(_encoder.encode((0, 0)), 0)});"
                form = f"PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {FORM};"
                connection.executescript(f"BEGIN; {_SCHEMA} {facts} {form} COMMIT;")
            _check_form(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _connect(path: Path, *pragmas: str) -> sqlite3.Connection:
    with _explained(path), _shaped():
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            # FULL: the side file is synced at each commit, so that what was acknowledged survives a power cut.
            # On macOS only fullfsync gets it out of the drive's own cache.
            for pragma in (*pragmas, "PRAGMA synchronous = FULL", "PRAGMA fullfsync = ON"):
                connection.execute(pragma)
        except BaseException:
            connection.close()
            raise
    return connection


def _check_form(connection: sqlite3.Connection, path: Path) -> None:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    form = connection.execute("PRAGMA user_version").fetchone()[0]
    if (application, form) != (APPLICATION, FORM):
        raise LogError(
            str(path),
            found=f"a log of form {form}" if application == APPLICATION else "a SQLite file that is no log",
            expected=f"a log of form {FORM}",
            do="open it with the version of katmatic that made it, or name another file",
        )


@contextmanager
def _transaction(connection: sqlite3.Connection, path: Path) -> Iterator[sqlite3.Connection]:
    """All that happens inside, or nothing."""
    with _explained(path):
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                connection.execute("ROLLBACK")
            raise


_ADVICE = {
    sqlite3.SQLITE_FULL: (
        "a full disk",
        "room for what is committed",
        "free some room, or raise the limit; then it goes on",
    ),
    sqlite3.SQLITE_BUSY: ("a file that another process keeps locked", "short transactions", "end whatever holds it"),
    sqlite3.SQLITE_CORRUPT: ("damaged pages", "the pages that were written", "check the disk, and restore a backup"),
    sqlite3.SQLITE_NOTADB: ("a file that is no SQLite database", "a log", "name another file, or restore a backup"),
    sqlite3.SQLITE_READONLY: ("a file that may not be written", "one that may", "check its owner and permissions"),
    sqlite3.SQLITE_CANTOPEN: ("a file that cannot be opened", "one that can", "check its folder and permissions"),
    sqlite3.SQLITE_IOERR: ("a disk that does not read or write", "one that does", "check the disk and its limits"),
}


@contextmanager
def _shaped() -> Iterator[None]:
    """Damage is also what shows as rows that are missing, or of another shape than they were made in."""
    try:
        yield
    except (LookupError, TypeError, ValueError) as error:
        raise _Damage(f"tables ({error!r})") from error


class _Damage(Exception):  # noqa: N818 - said to the user as a LogError
    """What stands at a place is not what was committed there."""


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Errors of SQLite, of the file system and of what stands in the file, in four parts."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        found, expected, do = _ADVICE.get(
            code, ("a transaction that fails", "one that does not", "see the error above")
        )
        raise LogError(str(path), found=f"{found} ({error})", expected=expected, do=do) from error
    except OSError as error:
        raise LogError(
            str(path), found=str(error), expected="a file that can be opened", do="check its folder and permissions"
        ) from error
    except _Damage as error:
        raise LogError(
            f"{path}: {error}",
            found="bytes that do not agree with their checksum",
            expected="the bytes that were committed",
            do="check the disk, and restore the log from a backup",
        ) from error
