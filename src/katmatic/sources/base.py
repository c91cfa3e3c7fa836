"""Where events come from: the interface of what can be read again, and the message that arrives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Row = tuple[int | None, bytes]  # an event's own time in microseconds since 1970 UTC, if it can be read; and its bytes


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message that reaches the system at the moment `now`, in microseconds since 1970 UTC."""

    now: int
    topic: str
    value: bytes


class Source(Protocol):
    """Recorded events, read in order; `seek` to an earlier `position` gives the same ones again."""

    def read(self, limit: int) -> Sequence[Row]:
        """The next events, at most `limit`; none at the end."""
        ...

    @property
    def position(self) -> int:
        """How many events were read."""
        ...

    def seek(self, position: int) -> None:
        """Go to where `position` events were read."""
        ...
