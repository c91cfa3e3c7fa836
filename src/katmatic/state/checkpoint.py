"""Checkpoints: the engine's state as bytes, with the log sequence that it stands for."""

from __future__ import annotations

from typing import Protocol


class Checkpoints(Protocol):
    """Keeps the newest states. Recovery is: the latest checkpoint, then the batches after its sequence."""

    def save(self, name: str, sequence: int, state: bytes) -> None:
        """Keep `state` as it was after batch `sequence`; atomic."""
        ...

    def latest(self, name: str) -> tuple[int, bytes] | None:
        """The newest intact checkpoint, or None."""
        ...

    def drop(self, name: str, before: int) -> None:
        """Forget the checkpoints of sequences below `before`, but never the newest."""
        ...
