"""Checkpoints: the engine's state as bytes, with the log sequence that it stands for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Checkpoints(Protocol):
    """Keeps the newest states. Recovery is: the latest checkpoint, then the batches after its sequence."""

    def save(self, name: str, sequence: int, state: bytes) -> None:
        """Keep `state` as it was after batch `sequence`; atomic."""
        ...

    def latest(self, name: str) -> tuple[int, bytes | memoryview] | None:
        """The newest intact checkpoint, or None."""
        ...

    def drop(self, name: str, before: int) -> None:
        """Forget the checkpoints of sequences below `before`, but never the newest."""
        ...


@dataclass(frozen=True)
class Borrowed:
    """Another's checkpoints, for a copy that begins with the latest and keeps none."""

    checkpoints: Checkpoints

    def save(self, name: str, sequence: int, state: bytes) -> None:
        """Keep nothing: the owner does."""

    def latest(self, name: str) -> tuple[int, bytes | memoryview] | None:
        """The newest intact checkpoint, or None."""
        return self.checkpoints.latest(name)

    def drop(self, name: str, before: int) -> None:
        """Forget nothing: the owner does."""
