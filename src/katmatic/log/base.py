"""The log: all that happens is a record in it, time included. Everything else is a function of a prefix of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
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

    sequence: int  # of the batch in the log: 1, 2, 3, ...
    now: int  # microseconds since 1970 UTC
    slices: Sequence[Slice] = ()

    def __len__(self) -> int:
        return sum(len(piece.values) for piece in self.slices)


class Log(Protocol):
    """One ordered log. `commit` is the single place where exactly-once is decided.

    Records come in two ways. Those that are **read** (appended, or fed) share one numbering, in the order in which
    batches give them out, over all topics: that position is an event's identity everywhere. Those that are **written**
    by a commit (predictions, labels, ...) are numbered per topic, from 0.
    """

    def append(self, topic: str, values: Sequence[bytes]) -> Future[range]:
        """Hand in records; the future gives their positions once they are durable. Callable from any thread."""
        ...

    def read(self, now: int, *, limit: int) -> Batch:
        """The next batch, at most `limit` records; a tick if nothing waits. It is durable, and gone, once committed."""
        ...

    def commit(
        self, batch: Batch, written: Mapping[str, Sequence[bytes]], fed: Mapping[str, Sequence[bytes]] = {}
    ) -> None:
        """Make `batch` (its moment, its order, its records) and what was made of it durable: together or not at all.

        `written` goes to the end of its topics; `fed` waits to be read, before all that was appended later.
        An empty tick (no slices, nothing written or fed) need not be kept if nothing depends on it; pass it anyhow.
        """
        ...

    def batches(self, after: int = 0) -> Iterator[Batch]:
        """The committed batches with a sequence above `after`, in order: the log once more."""
        ...

    def scan(self, topic: str, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Committed records of one topic with their positions, from `start` up to but without `stop`."""
        ...

    def close(self) -> None:
        """Let go of files and connections; what was appended and not committed was never acknowledged."""
        ...
