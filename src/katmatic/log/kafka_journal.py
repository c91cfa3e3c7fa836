"""The journal of a log on Kafka: one record for each batch that was committed, from which all of it is read again.

A batch is told by its moment, and by how many records it has of which topic from where on. What is remembered between
two batches stands in each record, too, so that the newest one is all that an owner needs to go on.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum

import msgspec
import xxhash

from katmatic.errors import LogError

FORM = 2
MARK_BYTES = struct.Struct(">BQII")  # kind, number, part, parts


class Kind(IntEnum):
    """How a record got into its topic."""

    POSTED = 0  # by somebody else: it has no mark, and its number is its offset in its partition
    APPENDED = 1  # handed in to the owner; its number is its position
    FED = 2  # by a commit, to be read; what is fed is numbered over all topics
    WRITTEN = 3  # by a commit; its number is its position in its topic
    END = 4  # of what hung: it holds nothing; its number is that of the next record which is written


class Run(msgspec.Struct, array_like=True, frozen=True):
    """Records of one topic, kind and partition that are read in a row: `first` and `last` are numbers of their kind."""

    topic: str
    kind: int
    count: int
    first: int
    last: int
    checksum: int  # of what was posted: somebody else may delete or compact it
    partition: int = 0  # what is ours is in the first one


class Place(msgspec.Struct, array_like=True, frozen=True):
    """Where a topic stands after a batch."""

    way: int
    end: int  # the position after its last record
    next: list[int] = []  # by partition: the offset from which on records that were posted were not read
    own: int = 0  # an offset that no record appended by this batch, or later, lies before
    fed: int = 0  # an offset that no record that was fed, and not read before this batch, lies before
    unread: int = 0  # records that were fed and not read yet


class Entry(msgspec.Struct, array_like=True, frozen=True):
    """One record of the journal: a batch, or an owner who begins."""

    number: int  # of the record in the journal: 0, 1, 2, ...
    sequence: int
    now: int
    first: int  # position of the first record of the batch
    runs: list[Run]
    is_batch: bool
    owner: str
    reserved: int  # no batch had a sequence above it
    fed: int  # records that were ever fed
    read: int  # of these, how many were read
    places: dict[str, Place]
    log: str = ""  # what tells this log from one that was begun under the same name before

    @property
    def end(self) -> int:
        """The position after the last record of the batch."""
        return self.first + sum(run.count for run in self.runs)


BEGINNING = Entry(-1, 0, 0, 0, [], False, "", 0, 0, 0, {})

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Entry).decode


def pack(entry: Entry) -> bytes:
    """The entry as bytes."""
    return FORM.to_bytes(1, "little") + _encode(entry)


def unpack(data: bytes, where: str) -> Entry:
    """The entry that was packed; LogError if the bytes are none."""
    try:
        if data[:1] == FORM.to_bytes(1, "little"):
            return _decode(memoryview(data)[1:])
        found = f"a record of form {data[0]}" if data else "a record of no bytes"
    except msgspec.DecodeError as error:
        found = f"a record that cannot be read: {error}"
    raise LogError(
        where,
        found=found,
        expected=f"the journal of a log, in form {FORM}",
        do="let nobody else write to this topic, and read it with the version of katmatic that wrote it",
    )


def checksum_of(values: Sequence[bytes]) -> int:
    """Of values in their order, and of where one ends and the next begins; 63 bits."""
    digest = xxhash.xxh3_64(b"".join(values))
    digest.update(struct.pack(f"<{len(values)}I", *map(len, values)))
    return digest.intdigest() >> 1
