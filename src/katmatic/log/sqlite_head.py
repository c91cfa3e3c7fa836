"""The head of the embedded log: what was committed last, in a file where a commit is one small write and its sync.

A small batch in SQLite's tables touches a page of each topic, and all of them are written. Here the same rows stand one
after the other, each batch with a checksum that also covers where it stands, and a number of the log's that no sender
knows: what is sent may look like anything. The file is as large as it will ever be from the start, so that a sync has
only these bytes to write. It has two halves: while one is filled, what stands in the other is moved into the tables,
and then forgotten. Whoever reads the log takes what is not in the tables from here.
In front stands a mark that whoever posts records changes, so that the owner need not ask SQLite again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from struct import Struct as Layout
from typing import Protocol

import msgspec
import xxhash

from katmatic.disk import Disk, Region, sync_data
from katmatic.log.sqlite_file import Damage
from katmatic.log.sqlite_rows import POSITION_BITS, POSITIONS, Entry, Piece, Rows

HEAD_BYTES = 2**20  # some 400 batches of a few events
ENTRIES_LEAST = 2  # that a half has room for: larger batches, of some 400 events, cost the tables little by the record
ALIGNED = 64  # bytes: where a batch may begin
FREED_AT_ONCE = 4  # batches, with each that comes: to free all of a half, a thread holds Python's lock for 1 ms
_MARK = Layout("<Q")  # the number that the next record will get that is posted
_FRONT = Layout("<QQ")  # checksum and length of what follows
_64_BITS = (1 << 64) - 1
_ODD = 0x9E3779B97F4A7C15  # spreads the bits of a small number

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Entry).decode


class Recent:
    """Batches that are not in the tables yet, to be looked into as one looks into these."""

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries

    @cached_property
    def _places(self) -> dict[int, tuple[Piece, int]]:
        return {piece[0]: (piece, entry.sequence) for entry in self.entries for piece in entry.pieces}

    def batches(self, after: int) -> Iterator[tuple[int, int, int, bytearray, int]]:
        """As rows: sequence, now, first, runs, checksum."""
        return (
            (entry.sequence, entry.now, entry.first, entry.runs, entry.checksum)
            for entry in self.entries
            if entry.sequence > after
        )

    def piece(self, place: int) -> tuple[int, int, int, int, bytearray] | None:
        """What ends at a place: this, first, sequence, checksum, data."""
        found = self._places.get(place)
        if found is None:
            return None
        (_, first, checksum, data), sequence = found
        return place, first, sequence, checksum, data

    def records(self, number: int, start: int) -> Iterator[tuple[int, int, int, int, bytearray]]:
        """What is there of a topic, up to `start` or after it: place, first, sequence, checksum, data."""
        low, high = number << POSITION_BITS | start, number << POSITION_BITS | POSITIONS
        return (
            (place, first, sequence, checksum, data)
            for (place, first, checksum, data), sequence in self._places.values()
            if low <= place <= high
        )

    def batch(self, sequence: int) -> tuple[int, bytearray] | None:
        """Of a batch: first and runs."""
        return next(((entry.first, entry.runs) for entry in self.entries if entry.sequence == sequence), None)

    def end(self, number: int) -> int:
        """The position after the last record of a topic; 0 of nothing."""
        return max(((place & POSITIONS) + 1 for place, *_ in self.records(number, 0)), default=0)


NOTHING = Recent([])


class Unmoved(Protocol):
    """Where those batches are that may not be in the tables yet."""

    def unmoved(self) -> list[Entry]:
        """All of them in order, durable. Some may be in the tables; one may be missing that is there, or comes now."""
        ...


class Tip:
    """The file of a head as others read it while its owner goes on."""

    def __init__(self, path: Path, salt: Callable[[], int]) -> None:
        self._path, self._salt = path, salt
        self._known: dict[tuple[int, int], Entry] = {}  # by where it stands, and its checksum

    def unmoved(self) -> list[Entry]:
        """All that stands there whole."""
        known = self._known
        try:
            with self._path.open("rb", buffering=0) as file:
                found = self._entries(file.readall(), self._salt())
                if not self._known.keys() <= known.keys():  # the owner may be about to sync what is new, or cannot
                    sync_data(file.fileno())
        except FileNotFoundError:
            return []
        except BaseException:
            self._known = known
            raise
        return found

    def _entries(self, data: bytes, salt: int) -> list[Entry]:
        half, known, found = len(data) // 2, self._known, []
        self._known = {}
        for start, stop in ((ALIGNED, half), (half, 2 * half)):
            newest = 0
            for at, checksum, payload in _whole(data, start, stop, salt):
                entry = self._known[at, checksum] = known.get((at, checksum)) or _unpack(payload)
                if entry.sequence <= newest:  # of an earlier time
                    break
                newest = entry.sequence
                found.append(entry)
        found.sort(key=lambda entry: entry.sequence)
        return found


def follows(entries: list[Entry], position: int) -> bool:
    """Whether they go on at a position, with none missing."""
    for entry in entries:
        if entry.first != position:
            return False
        position = entry.stop
    return True


def left(path: Path, salt: int, sequence: int, position: int) -> list[Entry]:
    """The batches above `sequence` that an earlier owner left, of which the first begins at `position`.

    Raises Damage if one of them cannot be read.
    """
    found = [entry for entry in Tip(path, lambda: salt).unmoved() if entry.sequence > sequence]
    newest = found[-1].sequence if found else sequence
    if not follows(found, position) or newest < _newest_anywhere(path, salt):
        raise Damage(f"{path.name}, a batch after {newest}")
    return found


class Half:
    """One half as its owner knows it."""

    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop = start, stop
        self.at = start  # where the next batch goes
        self.entries: list[Entry] = []  # that are not in the tables yet
        self.rows = Rows()  # of these, made as they come: whoever moves them needs Python's lock for less
        self._gone: list[Entry] = []  # that are, to be freed bit by bit

    def add(self, entry: Entry, size: int) -> None:
        """A batch was put here, as so many bytes."""
        self.entries.append(entry)
        self.rows.add(entry)
        del self._gone[-FREED_AT_ONCE:]
        self.at += -(-size // ALIGNED) * ALIGNED

    def clear(self) -> None:
        """All of it is in the tables, durably."""
        self._gone, self.entries, self.rows = self.entries, [], Rows()
        self.at = self.start


class Head:
    """The head as its owner writes it. What an earlier one has `left` is in the tables by now."""

    def __init__(self, path: Path, disk: Disk, salt: int, size: int = HEAD_BYTES) -> None:
        self.region: Region = disk.region(path, size)
        self._salt = salt
        half = size // 2
        self._limit = half // ENTRIES_LEAST
        self._filled, self.full = Half(ALIGNED, half), Half(half, 2 * half)
        self._is_in_doubt = False

    def takes(self, size: int) -> bool:
        """Whether a batch of so many bytes may stand here; none may while one is there or not."""
        return size <= self._limit and not self._is_in_doubt

    def doubt(self) -> None:
        """Take no batch before all of it is in the tables: one may be there or not, here or in the tables."""
        self._is_in_doubt = True

    def has_room(self, size: int) -> bool:
        """Whether a batch of so many bytes goes into the half that is filled."""
        return self._filled.at + _FRONT.size + size <= self._filled.stop

    def add(self, entry: Entry, payload: bytes) -> None:
        """Make a batch durable. OSError if it cannot be: then it is to go into the tables, with all that is here."""
        half = self._filled
        front = _FRONT.pack(_checksum(payload, half.at, self._salt), len(payload))
        try:
            self.region.write(half.at, front + payload)
            self.region.sync()
        except OSError:
            self.doubt()
            with suppress(OSError):
                self.region.write(half.at, bytes(_FRONT.size))  # so that nobody reads it meanwhile
            raise
        half.add(entry, _FRONT.size + len(payload))

    def unmoved(self) -> list[Entry]:
        """All that is not in the tables yet."""
        return self.full.entries + self._filled.entries

    def clear(self) -> None:
        """All of it is in the tables now, durably."""
        self.full.clear()
        self._filled.clear()
        self._is_in_doubt = False

    def turn_over(self) -> None:
        """From now on the other half is filled, which is clear; this one is `full`, to be moved and cleared."""
        self._filled, self.full = self.full, self._filled

    def mark(self) -> bytes:
        """What stands in front: it is another once something was posted."""
        return self.region.read(0, _MARK.size)

    def close(self) -> None:
        """Let go of the file."""
        self.region.close()


def set_mark(path: Path, number: int) -> None:
    """Let the owner know that records up to this number were posted; it would notice later, too."""
    with suppress(OSError), path.open("r+b") as head:
        head.write(_MARK.pack(number))


def packed(entry: Entry) -> bytes:
    """A batch as bytes."""
    return _pack(entry)


def packed_limit(entry: Entry) -> int:
    """As how many bytes it is packed at most."""
    return 64 + len(entry.runs) + sum(40 + len(piece[3]) for piece in entry.pieces)


def _whole(data: bytes, at: int, stop: int, salt: int) -> Iterator[tuple[int, int, bytes]]:
    """The batches that stand in a row from `at` on, up to the first that is not whole: where, checksum, bytes."""
    while (payload := _payload(data, at, stop, salt)) is not None:
        yield at, _FRONT.unpack_from(data, at)[0], payload
        at += -(-(_FRONT.size + len(payload)) // ALIGNED) * ALIGNED


def _payload(data: bytes, at: int, stop: int, salt: int) -> bytes | None:
    if at + _FRONT.size > stop:
        return None
    checksum, length = _FRONT.unpack_from(data, at)
    if not 0 < length <= stop - at - _FRONT.size:
        return None
    payload = data[at + _FRONT.size : at + _FRONT.size + length]
    return payload if checksum == _checksum(payload, at, salt) else None


def _newest_anywhere(path: Path, salt: int) -> int:
    """The highest sequence of all batches that can be read, wherever they stand; 0 of nothing."""
    data = path.read_bytes() if path.exists() else b""
    payloads = (_payload(data, at, len(data), salt) for at in range(ALIGNED, len(data), ALIGNED))
    return max((_unpack(payload).sequence for payload in payloads if payload is not None), default=0)


def _checksum(payload: bytes, at: int, salt: int) -> int:
    return xxhash.xxh3_64_intdigest(payload, (at * _ODD ^ salt * _ODD) & _64_BITS)
