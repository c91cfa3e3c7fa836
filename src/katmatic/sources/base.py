"""What comes from outside: records and the moments at which they arrive."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Arrival:
    """A record and the moment at which it reaches the pipeline, in microseconds since 1970."""

    now: int
    topic: str
    value: bytes
