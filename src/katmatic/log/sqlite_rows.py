"""The tables of the embedded log, row by row, each with a checksum of what stands in it and of where it stands."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
import xxhash

from katmatic.errors import LogFull
from katmatic.log.sqlite_file import Damage
from katmatic.log.tail import claim

INBOX_RECORDS_LIMIT = 100_000  # posted and not yet read
FORGOTTEN_AT_ONCE = 1000  # batches let go in one transaction

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

_ROWS_AT_ONCE = 128, 16, 1  # in one statement, of five values each: SQLite takes 999 values or more
_INSERTS = {
    table: [(rows, f"INSERT INTO {table} VALUES {', '.join(['(?, ?, ?, ?, ?)'] * rows)}") for rows in _ROWS_AT_ONCE]
    for table in ("batches", "records")
}

# What logs of the first form lack. A number that nobody else knows: no record can be made that looks like a batch.
HEAD_TABLE = """
CREATE TABLE head (salt INTEGER NOT NULL, checked INTEGER NOT NULL);
INSERT INTO head VALUES (random(), 0);
UPDATE head SET checked = ~salt;
"""

POSITION_BITS = 48
POSITIONS = (1 << POSITION_BITS) - 1
_64_BITS = (1 << 64) - 1
_ODD = 0x9E3779B97F4A7C15  # spreads the bits of a small number
_encoder = msgspec.msgpack.Encoder()
_pack = _encoder.encode
unpack_values = msgspec.msgpack.Decoder(list[bytes]).decode
unpack_runs = msgspec.msgpack.Decoder(list[tuple[int, int]]).decode


def tables() -> str:
    """The statements that make the tables of a new log."""
    return f"{_SCHEMA} INSERT INTO facts VALUES (0, 0, {_facts_checksum((0, 0))}); {HEAD_TABLE}"


def read_salt(connection: sqlite3.Connection) -> int:
    """What goes into the checksums of the head."""
    salt, checked = connection.execute("SELECT salt, checked FROM head").fetchone()
    if checked != ~salt:
        raise Damage("head")
    return int(salt)


class Topic(NamedTuple):
    """A topic as it stands in the file; `end` is the position after its last record."""

    number: int
    way: int
    end: int


def read_facts(connection: sqlite3.Connection) -> tuple[int, int]:
    """No batch had a sequence above the first; none up to the second is there any more."""
    reserved, forgotten, checksum = connection.execute("SELECT reserved, forgotten, checksum FROM facts").fetchone()
    if checksum != _facts_checksum((reserved, forgotten)):
        raise Damage("facts")
    return reserved, forgotten


def set_facts(connection: sqlite3.Connection, *, reserved: int | None = None, forgotten: int | None = None) -> None:
    """Change either."""
    facts = read_facts(connection)
    facts = (facts[0] if reserved is None else reserved, facts[1] if forgotten is None else forgotten)
    connection.execute("UPDATE facts SET reserved = ?, forgotten = ?, checksum = ?", (*facts, _facts_checksum(facts)))


Bytes = bytes | bytearray  # sqlite3 takes the second as they are; for each of the first it asks who adapts it
Piece = tuple[int, int, int, bytearray]  # of one topic: place, first, checksum, data; as in the table


class Entry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One batch as its rows: that of the batch, and one of each topic that it has something of."""

    sequence: int
    now: int
    first: int
    stop: int  # the position after its last record that was read
    runs: bytearray
    checksum: int
    pieces: list[Piece]


def entry_of(sequence: int, now: int, runs: list[tuple[int, int]], first: int, pieces: Iterable[Records]) -> Entry:
    """A batch: how many records of which topic it has in order, from position `first` on, and these records."""
    packed = _made(runs)
    checksum = batch_checksum(sequence, now, first, packed)
    stop = first + sum(count for _, count in runs)
    return Entry(sequence, now, first, stop, packed, checksum, [_piece(sequence, each) for each in pieces])


@dataclass(slots=True)
class Records:
    """What a batch has of a topic: records from position `first` on, the last at `stop` - 1."""

    topic: Topic  # as it was before
    first: int
    stop: int
    values: list[bytes]


def _piece(sequence: int, records: Records) -> Piece:
    place, data = records.topic.number << POSITION_BITS | records.stop - 1, _made(records.values)
    return place, records.first, piece_checksum(place, records.first, sequence, data), data


def _made(values: object) -> bytearray:
    """As MessagePack, in bytes that sqlite3 takes as they are."""
    found = bytearray()
    _encoder.encode_into(values, found)
    return found


class Rows:
    """Batches as what statements put into the tables, value by value."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.batches: list[int | bytearray] = []
        self.records: list[int | bytearray] = []
        for entry in entries:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        """One batch more."""
        sequence = entry.sequence
        self.batches += sequence, entry.now, entry.first, entry.runs, entry.checksum
        for place, first, checksum, data in entry.pieces:
            self.records += place, first, sequence, checksum, data


def insert_rows(connection: sqlite3.Connection, rows: Rows, pause: Callable[[], None] = lambda: None) -> None:
    """Put batches into the tables, by few statements: by one for each row, it would take half as long again.

    `pause` is called after each statement.
    """
    for table, values in (("records", rows.records), ("batches", rows.batches)):
        at = 0
        for number, statement in _INSERTS[table]:
            while len(values) - at >= 5 * number:
                connection.execute(statement, values[at : at + 5 * number])
                at += 5 * number
                pause()


def read_topics(connection: sqlite3.Connection) -> dict[str, Topic]:
    """The topics by name; the ends of all are 0 here."""
    found = {}
    for number, name, way, checksum in connection.execute("SELECT number, name, way, checksum FROM topics"):
        if checksum != _topic_checksum(number, name, way):
            raise Damage(f"topic {number}")
        found[name] = Topic(number, way, 0)
    return found


def last_of(connection: sqlite3.Connection) -> tuple[int, int]:
    """The sequence of the newest batch in the tables, and the position after it; 0 of nothing."""
    row = connection.execute(
        "SELECT sequence, now, first, runs, checksum FROM batches ORDER BY sequence DESC LIMIT 1"
    ).fetchone()
    if row is None:
        return 0, 0
    sequence, now, first, packed, checksum = row
    if checksum != batch_checksum(sequence, now, first, packed):
        raise Damage(f"batch {sequence}")
    return sequence, first + sum(count for _, count in unpack_runs(packed))


def end_of(connection: sqlite3.Connection, number: int) -> int:
    """The position after the last record of a topic; 0 of nothing."""
    places = number << POSITION_BITS, number << POSITION_BITS | POSITIONS
    last = connection.execute("SELECT max(place) FROM records WHERE place BETWEEN ? AND ?", places).fetchone()[0]
    return 0 if last is None else (last & POSITIONS) + 1


def register(connection: sqlite3.Connection, path: Path, name: str, way: int) -> int:
    """The number of a topic, new or not; LogError if it holds records of the other way."""
    topics = read_topics(connection)
    if name in topics:
        claim(str(path), {name: topics[name].way}, name, way)
        return topics[name].number
    number = 1 + max((topic.number for topic in topics.values()), default=0)
    row = (number, name, way, _topic_checksum(number, name, way))
    connection.execute("INSERT INTO topics VALUES (?, ?, ?, ?)", row)
    return number


def check_inbox(connection: sqlite3.Connection, path: Path, more: int) -> None:
    """LogFull if so many more records would be too much for the inbox."""
    oldest, newest = connection.execute("SELECT min(number), max(number) FROM inbox").fetchone()
    waiting = newest - oldest + 1 if newest else 0
    if waiting + more > INBOX_RECORDS_LIMIT:
        raise LogFull(
            f"{path}: inbox",
            found=f"{waiting} records waiting, and {more} more",
            expected=f"at most {INBOX_RECORDS_LIMIT}",
            do="see that the pipeline runs and reads them, then post again",
        )


def put_waiting(connection: sqlite3.Connection, topic: str, values: list[bytes]) -> int:
    """Let records wait in the inbox; the number of the first."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'inbox'").fetchone()
    first = row[0] + 1 if row else 1
    connection.executemany(
        "INSERT INTO inbox VALUES (?, ?, ?, ?)",
        [(number, topic, checksum_of(value, number), value) for number, value in enumerate(values, first)],
    )
    return int(first)


def forget_batches(connection: sqlite3.Connection, before: int) -> int:
    """Let go of at most FORGOTTEN_AT_ONCE batches before a moment; how many."""
    newest = connection.execute("SELECT max(sequence) FROM batches").fetchone()[0]
    gone = [
        sequence
        for sequence, now in connection.execute(
            "SELECT sequence, now FROM batches ORDER BY sequence LIMIT ?", (FORGOTTEN_AT_ONCE,)
        )
        if now < before and sequence != newest
    ]
    if not gone:
        return 0
    for (number,) in connection.execute("SELECT number FROM topics").fetchall():
        low, high = number << POSITION_BITS, number << POSITION_BITS | POSITIONS
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
    set_facts(connection, forgotten=gone[-1])
    return len(gone)


def checksum_of(data: Bytes, place: int) -> int:
    """Of the bytes and of where they stand; 63 bits, which SQLite's integers hold."""
    return xxhash.xxh3_64_intdigest(data, place) >> 1


def _facts_checksum(facts: tuple[int, int]) -> int:
    return checksum_of(_pack(facts), 0)


def piece_checksum(place: int, first: int, sequence: int, data: Bytes) -> int:
    """Of what one batch has of one topic."""
    return checksum_of(data, (place ^ first * _ODD ^ sequence * _ODD * _ODD) & _64_BITS)


def batch_checksum(sequence: int, now: int, first: int, packed: Bytes) -> int:
    """Of a batch: its moment, and what it has of which topic."""
    return checksum_of(_pack((now, first, packed)), sequence)


def _topic_checksum(number: int, name: str, way: int) -> int:
    return checksum_of(_pack((name, way)), number)
