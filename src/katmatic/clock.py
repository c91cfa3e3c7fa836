"""The only place that asks the machine for the time. Inside, a moment is microseconds since 1970 in UTC."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from katmatic.moment import EPOCH, to_datetime, to_micros

__all__ = [
    "EPOCH",
    "Clock",
    "ManualClock",
    "SystemClock",
    "monotonic_seconds",
    "process_seconds",
    "sleep",
    "to_datetime",
    "to_micros",
]


class Clock(Protocol):
    """Tells the time and waits. Given to whoever needs it; never looked up."""

    def now(self) -> int:
        """The present moment, in microseconds since 1970 UTC."""
        ...

    def wait(self, seconds: float) -> None:
        """Return when `seconds` have passed on this clock."""
        ...


class SystemClock:
    """The machine's clock, never going back: a step back of the machine's clock holds it still.

    `nanoseconds` is how the machine is asked.
    """

    def __init__(self, nanoseconds: Callable[[], int] = time.time_ns) -> None:
        self._latest, self._nanoseconds = 0, nanoseconds
        self._lock = threading.Lock()

    def now(self) -> int:
        """The present moment, at least as late as the one told before."""
        with self._lock:
            self._latest = max(self._latest, self._nanoseconds() // 1000)
            return self._latest

    def wait(self, seconds: float) -> None:
        """Sleep."""
        time.sleep(seconds)


class ManualClock:
    """A clock that stands still until it is told to move: for tests, replays and the demo.

    >>> from datetime import UTC, datetime
    >>> clock = ManualClock(to_micros(datetime(2025, 4, 21, 8, tzinfo=UTC)))
    >>> clock.wait(90); to_datetime(clock.now()).isoformat()
    '2025-04-21T08:01:30+00:00'
    """

    def __init__(self, now: int = 0) -> None:
        self._now = now

    def now(self) -> int:
        """The moment it was last moved to."""
        return self._now

    def wait(self, seconds: float) -> None:
        """Move forward by `seconds`."""
        self._now += round(seconds * 1_000_000)

    def move_to(self, moment: int) -> None:
        """Move forward to `moment`; never back."""
        self._now = max(self._now, moment)


def process_seconds() -> float:
    """CPU time that this process has used, in seconds: for benchmarks and metrics."""
    return time.process_time()


def monotonic_seconds() -> float:
    """Seconds on a clock that only measures distances: for waits and latencies."""
    return time.perf_counter()


def sleep(seconds: float) -> None:
    """Let `seconds` of the machine's time pass."""
    time.sleep(max(0.0, seconds))
