"""The log as a copy sees it: the batches that its owner commits, one after the other, and nothing made of them is kept.

A pipeline over it becomes what the owner's is, a moment later, and answers as it does. So answers scale: any number
of copies follow one owner.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from katmatic.clock import monotonic_seconds
from katmatic.log.base import Batch, History

POSTING_THREADS = 4


class Followable(History, Protocol):
    """A log whose owner is at work elsewhere."""

    def follow(self, after: int = 0) -> Iterator[Batch | None]:
        """The committed batches above `after`, and those to come, without end; None when none came for a moment."""
        ...

    def post(self, topic: str, values: Sequence[bytes]) -> None:
        """Hand records to the owner, who reads them next; they are durable when this returns."""
        ...


class Followed:
    """Another's log, for a pipeline that follows it: what it commits is passed over, what it appends goes to the owner.

    The positions of what is appended are the owner's to give: the promise is kept with `range(-n, 0)` for n records.
    """

    def __init__(self, history: Followable) -> None:
        self._history = history
        self._sequence = self._now = 0
        self._coming: Iterator[Batch | None] | None = None
        self._next: Batch | None = None
        self._posting = ThreadPoolExecutor(POSTING_THREADS, thread_name_prefix="katmatic-post")

    @property
    def waiting(self) -> int:
        """None: what waits is the owner's."""
        return 0

    def append(self, topic: str, values: Sequence[bytes]) -> Future[range]:
        """Hand records to the owner; the promise is kept when they are durable."""
        values = list(values)
        return self._posting.submit(self._post, topic, values)

    def wait(self, timeout: float) -> bool:
        """True as soon as the owner has committed something; False if it has not within `timeout` seconds."""
        until = monotonic_seconds() + timeout
        while self._next is None:
            if self._coming is None:
                self._coming = self._history.follow(self._sequence)
            try:
                self._next = next(self._coming)
            except BaseException:
                self._coming = None  # it has ended with that; the next call begins another
                raise
            if self._next is None and monotonic_seconds() >= until:
                return False
        return True

    def read(self, now: int, *, limit: int) -> Batch:
        """The owner's next batch, whole, with its moment; a tick of the moment before if it has committed none."""
        return self._next if self._next is not None else Batch(self._sequence, self._now)

    def commit(
        self,
        batch: Batch,
        written: Mapping[str, Sequence[bytes]],
        fed: Mapping[str, Sequence[bytes]] = {},
        *,
        keep: bool = False,
    ) -> None:
        """Go on to the batch after it."""
        self._sequence, self._now, self._next = batch.sequence, batch.now, None

    def batches(self, after: int = 0) -> Iterator[Batch]:
        """The committed batches with a sequence above `after`; where they end, `wait` goes on."""
        self._sequence = after
        for batch in self._history.batches(after):
            self._sequence, self._now = batch.sequence, batch.now
            yield batch

    def scan(self, topic: str, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Committed records of one topic with their positions."""
        return self._history.scan(topic, start, stop)

    def end(self, topic: str) -> int:
        """The position after the topic's last committed record."""
        return self._history.end(topic)

    def pending(self, topic: str) -> list[bytes]:
        """Records of one topic that wait to be read by the owner."""
        return self._history.pending(topic)

    def sequence(self) -> int:
        """The sequence of the last batch that was followed."""
        return self._sequence

    def close(self) -> None:
        """Let go of the owner's log."""
        self._posting.shutdown()
        self._coming = None
        self._history.close()

    def _post(self, topic: str, values: list[bytes]) -> range:
        self._history.post(topic, values)
        return range(-len(values), 0)
