"""The embedded log: one SQLite file, one owner, one transaction for one commit; other processes may read it and post.

SQLite does the hard part: a transaction is there or it is not, after SIGKILL, a power cut or a full disk. On top of it,
every batch and every piece of records carries a checksum that also covers where it stands, so that what the disk has
changed is found when it is read. Beside the file lie SQLite's own two (`-wal`, `-shm`), `.lock`, naming the owner, and
the head (`-head`), where small batches stand until they are moved into the file (sqlite_head.py).
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from katmatic.clock import sleep
from katmatic.disk import Disk, SystemDisk
from katmatic.errors import LogError
from katmatic.log.base import Batch, Slice
from katmatic.log.sqlite_file import (
    PAGE_BYTES,
    WAL_BYTES,
    Damage,
    Explained,
    Transaction,
    Unbroken,
    check_form,
    connect,
    create,
    own,
    shaped,
)
from katmatic.log.sqlite_head import (
    HEAD_BYTES,
    NOTHING,
    Head,
    Recent,
    Tip,
    Unmoved,
    follows,
    left,
    packed,
    packed_limit,
    set_mark,
)
from katmatic.log.sqlite_mover import Mover
from katmatic.log.sqlite_rows import (
    FORGOTTEN_AT_ONCE,
    HEAD_TABLE,
    POSITION_BITS,
    POSITIONS,
    Bytes,
    Entry,
    Records,
    Rows,
    Topic,
    batch_checksum,
    check_inbox,
    checksum_of,
    end_of,
    entry_of,
    forget_batches,
    insert_rows,
    last_of,
    piece_checksum,
    put_waiting,
    read_facts,
    read_salt,
    read_topics,
    register,
    set_facts,
    tables,
    unpack_runs,
    unpack_values,
)
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

FOLLOW_LOOK_SECONDS = 0.02  # how soon a copy notices what was committed
INBOX_LOOK_SECONDS = 0.2  # how soon a post without a mark is noticed when nothing else comes,
LOOKS = 1_000  # and after how many batches otherwise
CHUNK_BYTES = 4 * 2**20  # read in one go, so that a long scan holds nobody up and needs little memory
CHUNK_BATCHES = 1000
VIEWS_LIMIT = 100  # of head and tables, until both agree: at once, unless a half gets full just while the head is read
_WALK = "SELECT place, first, sequence, checksum, data FROM records WHERE place BETWEEN ? AND ? ORDER BY place"
RESERVED = 10_000  # sequences at a time, so that ticks that are not kept cost no commit


def head_of(path: Path) -> Path:
    """Where the head of the log at `path` stands."""
    return path.with_name(f"{path.name}-head")


def open_readonly(path: str | Path) -> SqliteHistory:
    """What is committed in the log at `path`, now and later; its owner may be at work. LogError if there is no log."""
    return SqliteHistory(path)


class SqliteHistory:
    """A log as a process sees it that does not own it: it reads what is committed, and may post records to be read."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._explained = Explained(self._path)
        self._past_lock = threading.Lock()
        self._tip: Unmoved = Tip(head_of(self._path), self._salt)
        self._recent = NOTHING
        if not self._path.exists():
            raise LogError(
                str(path), found="no such file", expected="a log", do="start the pipeline first, or name another file"
            )
        self._past = connect(self._path, "PRAGMA query_only = ON")
        self._salt_there: int | None = None
        self._topics_there: dict[str, Topic] = {}
        self._names: dict[int, str] = {}
        try:
            with self._explained, shaped():
                check_form(self._past, self._path)
        except LogError:
            self._past.close()
            raise

    def batches(self, after: int = 0) -> Iterator[Batch]:
        """The committed batches with a sequence above `after`, in order, each with the content that was read.

        LogError if they were forgotten, if `after` was never reached, or if the disk has changed one.
        """
        self._check_after(after)
        found, position = self._some_batches(after, None)
        while found:
            yield from found
            found, position = self._some_batches(found[-1].sequence, position)

    def follow(self, after: int = 0) -> Iterator[Batch | None]:
        """The committed batches above `after`, and those to come, without end; None when none came for a moment."""
        self._check_after(after)
        position: int | None = None
        while True:
            found, end = self._some_batches(after, position)
            yield from found
            if found:
                after, position = found[-1].sequence, end
            else:
                yield None
                sleep(FOLLOW_LOOK_SECONDS)

    def _check_after(self, after: int) -> None:
        with self._reading() as past:
            reserved, forgotten = read_facts(past)
        if not forgotten <= after <= reserved:
            raise LogError(
                str(self._path),
                found=f"a checkpoint at batch {after}",
                expected=f"one between {forgotten} and {reserved}, which is what the log holds",
                do="restore the log and its checkpoints from one backup, or start with a new log",
            )

    def _check_kept(self, past: sqlite3.Connection, after: int) -> None:
        forgotten = read_facts(past)[1]
        if forgotten > after:
            raise LogError(
                str(self._path),
                found=f"that the batches up to {forgotten} were forgotten meanwhile",
                expected=f"those after {after}, which were to be read next",
                do="read it again from its beginning, or keep more of it",
            )

    def scan(self, topic: str, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Committed records of one topic with their positions, from `start` up to but without `stop`."""
        stop = POSITIONS if stop is None else stop
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
            return (self._recent.end(found.number) or end_of(past, found.number)) if found else 0

    def pending(self, topic: str) -> list[bytes]:
        """Records of one topic that are durable and wait to be read: fed by a commit, or posted by another process."""
        with self._reading() as past:
            return [
                value for (value,) in past.execute("SELECT value FROM inbox WHERE topic = ? ORDER BY number", (topic,))
            ]

    def post(self, topic: str, values: Sequence[bytes]) -> None:
        """Hand records to the owner, who reads them next; they are durable when this returns. For other processes."""
        values = list(values)
        checked(topic, values)
        writer = connect(self._path)
        try:
            with Transaction(writer, self._path):
                check_inbox(writer, self._path, len(values))
                register(writer, self._path, topic, READ)
                first = put_waiting(writer, topic, values)
            set_mark(head_of(self._path), first + len(values))
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
        with self._reading() as past:
            pieces = _Pieces(past, self._recent)
            rows = past.execute(
                "SELECT sequence, now, first, runs, checksum FROM batches WHERE sequence > ? ORDER BY sequence LIMIT ?",
                (after, CHUNK_BATCHES),
            ).fetchall()
            if len(rows) < CHUNK_BATCHES:
                rows += self._recent.batches(after)
            for sequence, now, first, packed, checksum in rows:
                if sequence <= after or checksum != batch_checksum(sequence, now, first, packed):
                    raise Damage(f"batch {sequence}")
                if position is not None and first != position:
                    self._check_kept(past, after)
                    raise Damage(f"positions from {position} up to {first}, which are missing")
                found.append(Batch(sequence, now, self._slices(past, pieces, first, unpack_runs(packed))))
                position = first + len(found[-1])
                if pieces.size > CHUNK_BYTES:
                    break
        return found, position or 0

    def _slices(
        self, past: sqlite3.Connection, pieces: _Pieces, first: int, runs: list[tuple[int, int]]
    ) -> tuple[Slice, ...]:
        if len(runs) == 1:
            ((number, count),) = runs
            return (Slice(self._name(past, number), first, self._piece(past, pieces, number, first + count - 1)),)
        last = first - 1
        lasts = {}
        for number, count in runs:
            last += count
            lasts[number] = last
        found = {number: self._piece(past, pieces, number, last) for number, last in lasts.items()}
        if len(runs) == len(found):
            taken = [(number, found[number]) for number, _ in runs]
        else:
            streams = {number: iter(values) for number, values in found.items()}
            taken = [(number, [next(streams[number]) for _ in range(count)]) for number, count in runs]
        slices = []
        for number, values in taken:
            slices.append(Slice(self._name(past, number), first, values))
            first += len(values)
        return tuple(slices)

    def _piece(self, past: sqlite3.Connection, pieces: _Pieces, number: int, last: int) -> list[bytes]:
        place = number << POSITION_BITS | last
        data = pieces.at(number, place)
        if data is None:
            raise Damage(self._where(past, place))
        return unpack_values(data)

    def _some_records(self, topic: str, start: int, last: int | None) -> list[tuple[Sequence[int], list[bytes]]]:
        found: list[tuple[Sequence[int], list[bytes]]] = []
        size = 0
        with self._reading() as past:
            there = self._find(past, topic)
            if there is None:
                return []
            if last is None and read_facts(past)[1] == 0:
                last = start - 1
            least = there.number << POSITION_BITS | start
            rows = past.execute(_WALK, (least, there.number << POSITION_BITS | POSITIONS))
            for place, first, sequence, checksum, data in chain(rows, self._recent.records(there.number, start)):
                if place < least or checksum != piece_checksum(place, first, sequence, data):
                    raise Damage(self._where(past, place))
                if there.way == WRITTEN and last is not None and first > last + 1 and not self._is_start(past, place):
                    raise Damage(f"{topic} from position {last + 1} up to {first}, which are missing")
                least = place + 1  # where the file is damaged, SQLite may give what was not asked for
                values = unpack_values(data)
                last = place & POSITIONS
                positions: Sequence[int] = range(first, last + 1)
                if len(positions) != len(values):  # records of other topics lie between
                    positions = self._positions(past, there.number, sequence)
                found.append((positions, values))
                size += len(data)
                if size > CHUNK_BYTES:
                    break
        return found

    def _is_start(self, past: sqlite3.Connection, place: int) -> bool:
        """Whether a topic begins at a place, because what came before it was forgotten."""
        low = place & ~POSITIONS
        least = past.execute("SELECT min(place) FROM records WHERE place BETWEEN ? AND ?", (low, place)).fetchone()[0]
        return read_facts(past)[1] > 0 and least in (None, place)

    def _positions(self, past: sqlite3.Connection, number: int, sequence: int) -> list[int]:
        row = self._recent.batch(sequence)
        if row is None:
            row = past.execute("SELECT first, runs FROM batches WHERE sequence = ?", (sequence,)).fetchone()
        first, packed = row
        found: list[int] = []
        for other, count in unpack_runs(packed):
            if other == number:
                found.extend(range(first, first + count))
            first += count
        return found

    def _find(self, past: sqlite3.Connection, topic: str) -> Topic | None:
        if topic not in self._topics_there:
            self._topics_there = read_topics(past)
            self._names = {there.number: name for name, there in self._topics_there.items()}
        return self._topics_there.get(topic)

    def _name(self, past: sqlite3.Connection, number: int) -> str:
        if number not in self._names:
            self._find(past, "")
        return self._names[number]

    def _where(self, past: sqlite3.Connection, place: int) -> str:
        return f"{self._name(past, place >> POSITION_BITS)} up to position {place & POSITIONS}"

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """One view of the file, for a short while."""
        with self._past_lock, self._explained, shaped():
            try:
                self._begin()
                yield self._past
            finally:
                with suppress(sqlite3.Error):  # a file that cannot be read has ended it already
                    self._past.execute("ROLLBACK")

    def _salt(self) -> int:
        if self._salt_there is None:
            self._salt_there = read_salt(self._past)
        return self._salt_there

    def _begin(self) -> None:
        """The head, then the tables: what is moved from there to here meanwhile is in these."""
        for _ in range(VIEWS_LIMIT):
            entries = self._tip.unmoved()
            self._past.execute("BEGIN")
            sequence, position = last_of(self._past)
            entries = [entry for entry in entries if entry.sequence > sequence]
            if follows(entries, position):
                if entries != self._recent.entries:
                    self._recent = Recent(entries)
                return
            self._past.execute("ROLLBACK")
        raise Damage(f"{head_of(self._path).name}, a batch after {sequence}")


class _Pieces:
    """What batches have of each topic, asked for in their order: one walk over a topic, not one look for each batch."""

    def __init__(self, past: sqlite3.Connection, recent: Recent) -> None:
        self._past, self._recent = past, recent
        self._walks: dict[int, Iterator[tuple[int, int, int, int, bytes]]] = {}
        self.size = 0  # of what was found

    def at(self, number: int, place: int) -> Bytes | None:
        """What ends at a place; None if it is not there, or is not what was written."""
        found = self._recent.piece(place)
        if found is None:
            walk = self._walks.get(number)
            if walk is None:
                walk = self._walks[number] = self._past.execute(_WALK, (place, number << POSITION_BITS | POSITIONS))
            found = next(walk, None)
        if found is None or found[0] != place:
            return None
        _, first, sequence, checksum, data = found
        if checksum != piece_checksum(place, first, sequence, data):
            return None
        self.size += len(data)
        return data


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

    One that `moves_beside` has a thread that tidies up its files, so that commits are quick to the last of a thousand.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        tail_records_limit: int = TAIL_RECORDS_LIMIT,
        tail_bytes_limit: int = TAIL_BYTES_LIMIT,
        file_bytes_limit: int | None = None,
        wal_bytes: int = WAL_BYTES,
        moves_beside: bool = False,
        head_bytes: int = HEAD_BYTES,
        disk: Disk | None = None,
    ) -> None:
        path = Path(path)
        self._lock = threading.RLock()
        self._tail = Tail(str(path), records_limit=tail_records_limit, bytes_limit=tail_bytes_limit)
        self._given: _Given | None = None
        # Where the file ends:
        self._topics: dict[str, Topic] = {}
        self._ways: dict[str, int] = {}
        self._sequence = self._reserved = self._now = self._position = 0
        self._seen = self._version = 0  # of the inbox
        self._mark, self._looks = b"", 0
        self._owner, self._unbroken = own(path), Unbroken(path)
        with ExitStack() as undo:
            undo.callback(os.close, self._owner)
            self._connection = create(path, tables(), HEAD_TABLE, wal_bytes=wal_bytes)
            undo.callback(self._connection.close)
            self._transaction = Transaction(self._connection, path)
            super().__init__(path)
            undo.callback(super().close)
            with self._explained, shaped():
                if file_bytes_limit is not None:
                    self._connection.execute(f"PRAGMA max_page_count = {max(file_bytes_limit // PAGE_BYTES, 1)}")
                self._take_over(head_of(path))
                self._head = Head(head_of(path), disk or SystemDisk(), self._salt(), head_bytes)
                undo.callback(self._head.close)
                self._tip = self._head
                self._resume()
            self._mover = Mover(path) if moves_beside else None
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
            with self._lock, self._unbroken, self._explained:
                self._check_open()
                self._look(closely=True)
            timeout -= INBOX_LOOK_SECONDS
            if timeout <= 0:
                return self.waiting > 0

    def read(self, now: int, *, limit: int) -> Batch:
        """The next batch, at most `limit` records; a tick if nothing waits."""
        with self._lock, self._unbroken, self._explained:
            self._check_open()
            self._look()
            slices, inbox = self._tail.take(self._position, limit)
            self._given = _Given(Batch(self._sequence + 1, max(now, self._now), slices), inbox)
            return self._given.batch

    # --------------------------------------------------------------------------------------------------------- for good

    def commit(
        self,
        batch: Batch,
        written: Mapping[str, Sequence[bytes]],
        fed: Mapping[str, Sequence[bytes]] = {},
        *,
        keep: bool = False,
    ) -> None:
        """Make the batch and what was made of it durable, all or nothing; then keep the promises of its records."""
        with self._lock, self._unbroken:
            self._check_open()
            if self._given is None or batch is not self._given.batch:
                raise not_given(str(self._path), batch, self._given.batch if self._given else None)
            made = self._checked(written, WRITTEN)
            feeds = self._checked(fed, READ)
            kept = bool(batch.slices or made or feeds or keep)
            if kept or batch.sequence > self._reserved:
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
            count = len(batch)
            kept_promises = self._tail.settle(count, self._position)
            self._position += count
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
            with self._lock, self._unbroken:
                self._check_open()
                with self._whole() as connection:
                    gone = forget_batches(connection, before)
            total += gone
            if gone < FORGOTTEN_AT_ONCE:
                return total

    def close(self) -> None:
        """Let go of the file and of its ownership; promises that are open are broken."""
        with self._lock:
            if self._owner < 0:
                return
            with suppress(LogError), self._unbroken, self._whole() as connection:
                newest = connection.execute("SELECT max(sequence) FROM batches").fetchone()[0] or 0
                set_facts(connection, reserved=max(self._sequence, newest))  # no gap after an orderly end
            if self._mover is not None:
                self._mover.close()
            self._head.close()
            super().close()
            self._connection.close()
            os.close(self._owner)  # which unlocks it
            self._owner = -1
            broken = self._tail.close()
        for promise in broken:
            promise.set_exception(closed(str(self._path)))

    # ----------------------------------------------------------------------------------------------------------- pieces

    def _take_over(self, head: Path) -> None:
        """Move into the tables what the owner before left in the head."""
        entries = left(head, self._salt(), *last_of(self._connection))
        if entries:
            with self._transaction as connection:
                insert_rows(connection, Rows(entries))
                newest, (reserved, _) = entries[-1].sequence, read_facts(connection)
                if newest > reserved:  # it was in doubt, and the owner went no further
                    set_facts(connection, reserved=newest)

    def _resume(self) -> None:
        """Go on where the file ends."""
        run = self._connection.execute
        for name, topic in read_topics(self._connection).items():
            self._topics[name] = Topic(topic.number, topic.way, end_of(self._connection, topic.number))
            self._ways[name] = topic.way
        self._sequence = self._reserved = read_facts(self._connection)[0]
        newest = run("SELECT max(sequence) FROM batches").fetchone()[0]
        if newest is not None:
            (last,), self._position = self._some_batches(newest - 1, None)
            self._now = last.now
        self._look()

    def _look(self, *, closely: bool = False) -> None:
        """Notice what other processes posted: by their mark, and now and then without."""
        mark, self._looks = self._head.mark(), self._looks + 1
        if mark == self._mark and not closely and self._looks < LOOKS:
            return
        self._mark, self._looks = mark, 0
        version = self._connection.execute("PRAGMA data_version").fetchone()[0]
        if version != self._version:
            self._collect()
            self._version = version

    def _collect(self) -> None:
        rows = self._connection.execute(
            "SELECT number, topic, checksum, value FROM inbox WHERE number > ? ORDER BY number", (self._seen,)
        )
        for number, topic, checksum, value in rows:
            if checksum != checksum_of(value, number):
                raise Damage(f"inbox {number}, for {topic}")
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
    ) -> tuple[dict[str, Topic], int]:
        """Make all of it durable; the topics as they are then, and the number of the first record fed."""
        assert self._given is not None
        found = None
        if kept and not (feeds or self._given.inbox or batch.sequence > self._reserved):
            names = {*made, *(each.topic for each in batch.slices)}
            if names <= self._topics.keys():
                found = self._entry(batch, made)
                if self._is_in_head(found[1]):
                    return found[0], 0
        with self._whole() as connection:
            if batch.sequence > self._reserved:
                set_facts(connection, reserved=batch.sequence + RESERVED - 1)
            if not kept:
                return {}, 0
            topics, entry = found or self._entry(batch, made)
            insert_rows(connection, Rows([entry]))
            if self._given.inbox:
                connection.execute("DELETE FROM inbox WHERE number <= ?", (self._given.inbox,))
            fed_from = 0
            if feeds:
                self._collect()  # nobody can post between this and the commit, so these numbers are its own
                for topic, values in feeds.items():
                    topics.setdefault(topic, self._topic(topic, READ))
                    start = put_waiting(connection, topic, values)
                    fed_from = fed_from or start
        return topics, fed_from

    def _is_in_head(self, entry: Entry) -> bool:
        """Put a batch into the head, if it is small, and the head takes it."""
        if not self._head.takes(packed_limit(entry)):
            return False
        data = packed(entry)
        if not self._head.has_room(len(data)):
            self._turn_over()
        with suppress(OSError):  # of a disk that does not write; then the tables are tried
            self._head.add(entry, data)
            return True
        return False

    def _turn_over(self) -> None:
        """Fill the other half of the head from now on, and have this one moved into the tables."""
        full = self._head.full
        if self._mover is not None:
            self._mover.wait()
        if full.entries:
            with self._transaction as connection:
                insert_rows(connection, full.rows)
            full.clear()
        self._head.turn_over()
        if self._mover is not None:
            self._mover.move(self._head.full)

    @contextmanager
    def _whole(self) -> Iterator[sqlite3.Connection]:
        """A transaction that begins with all that is in the head."""
        if self._mover is not None:
            self._mover.wait()
        self._head.doubt()  # if it fails, the tables may have it or not
        with self._transaction as connection:
            if entries := self._head.unmoved():
                insert_rows(connection, Rows(entries))
            yield connection
        self._head.clear()
        if self._mover is not None:
            self._mover.committed()

    def _entry(self, batch: Batch, made: dict[str, list[bytes]]) -> tuple[dict[str, Topic], Entry]:
        """The batch as its rows, and the topics as they are after it."""
        found: dict[str, Records] = {}
        for name, values in made.items():
            topic = self._topic(name, WRITTEN)
            found[name] = Records(topic, topic.end, topic.end + len(values), values)
        for each in batch.slices:
            stop = each.first + len(each.values)
            if each.topic in found:
                found[each.topic].stop = stop
                found[each.topic].values.extend(each.values)
            else:
                found[each.topic] = Records(self._topic(each.topic, READ), each.first, stop, list(each.values))
        topics = {name: Topic(piece.topic.number, piece.topic.way, piece.stop) for name, piece in found.items()}
        runs = [(topics[each.topic].number, len(each.values)) for each in batch.slices]
        return topics, entry_of(batch.sequence, batch.now, runs, self._position, found.values())

    def _topic(self, name: str, way: int) -> Topic:
        return self._topics.get(name) or Topic(register(self._connection, self._path, name, way), way, 0)

    def _check_open(self) -> None:
        if self._owner < 0:
            raise closed(str(self._path))
