"""The log: all that happens is a record in it, time included. Everything else is a function of a prefix of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Slice:
    """Consecutive records of one topic: positions `first`, `first + 1`, ..."""

    topic: str
    first: int
    values: Sequence[bytes]


@dataclass(frozen=True)
class Batch:
    """What was waiting when the log was read at the moment `now`: slices in the order in which they are applied.

    A batch without slices is a tick: nothing came, and time passed.
    """

    sequence: int  # of the batch in the log: it rises, with a gap where empty ticks were not kept
    now: int  # microseconds since 1970 UTC
    slices: Sequence[Slice] = ()
    came: Sequence[tuple[str, int, int]] = field(default=(), compare=False)
    """Of records that others have put into the log: the topic, a moment, and how many came then. Known once, when they
    are read: to measure with, and for nothing else."""

    def __len__(self) -> int:
        count = 0
        for piece in self.slices:  # as a sum, it would take four times as long, and is asked for often
            count += len(piece.values)
        return count


class History(Protocol):
    """What was committed, to be read again, also by other processes while the owner goes on.

    Records come in two ways. Those that are **read** (appended, or fed) share one numbering over all topics, in the
    order in which batches give them out: that position is an event's identity everywhere. Those that are **written** by
    a commit (predictions, labels, ...) are numbered per topic, from 0. A topic holds records of one of the two ways.
    """

    def batches(self, after: int = 0) -> Iterator[Batch]:
        """The committed batches with a sequence above `after`, in order: the log once more."""
        ...

    def scan(self, topic: str, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Committed records of one topic with their positions, from `start` up to but without `stop`."""
        ...

    def end(self, topic: str) -> int:
        """The position after the topic's last committed record; 0 of nothing."""
        ...

    def pending(self, topic: str) -> list[bytes]:
        """Records of one topic that are durable and wait to be read: fed by a commit, or posted by another process."""
        ...

    def close(self) -> None:
        """Let go of files and connections; what was appended and not committed was never acknowledged."""
        ...


class Log(History, Protocol):
    """One ordered log with one owner. `commit` is the single place where exactly-once is decided."""

    @property
    def waiting(self) -> int:
        """How many records were taken in, and wait to be read or committed."""
        ...

    def append(self, topic: str, values: Sequence[bytes]) -> Future[range]:
        """Hand in records; the future gives their positions once they are durable. Callable from any thread.

        Raises LogFull when too much waits: whoever can wait then waits for the future of an earlier append.
        """
        ...

    def wait(self, timeout: float) -> bool:
        """True as soon as something waits to be read; False if nothing came within `timeout` seconds."""
        ...

    def read(self, now: int, *, limit: int) -> Batch:
        """The next batch, at most `limit` records; a tick if nothing waits. It is durable, and gone, once committed.

        Its moment is `now`, or that of the batch before it if the clock has gone back. Read again before the commit, it
        gives the same records, and those that came meanwhile.
        """
        ...

    def commit(
        self,
        batch: Batch,
        written: Mapping[str, Sequence[bytes]],
        fed: Mapping[str, Sequence[bytes]] = {},
        *,
        keep: bool = False,
    ) -> None:
        """Make `batch` (its moment, its order, its records) and what was made of it durable: together or not at all.

        `batch` is the one that was read last. `written` goes to the end of its topics; `fed` waits to be read, before
        all that was appended later. An empty tick (no slices, nothing written or fed) is passed too; it is not kept
        unless `keep` says that something depends on its moment. Raises LogError if it cannot be made durable; it may
        then be tried again.
        """
        ...

    def sequence(self) -> int:
        """The sequence of the last batch that was committed, kept or not; 0 at first. A checkpoint stands for it."""
        ...
