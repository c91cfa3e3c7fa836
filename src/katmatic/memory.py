"""What halts a Python process, kept short: its collector of cycles, and threads that wait for Python's lock.

A full look at all objects takes longer the more there are. Ten times a second cycles among what is new go, and what is
alive is set aside and not looked at again: the rest goes as ever once nothing refers to it. Cycles among it go with a
full collection, which waits for a quiet moment.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from katmatic.clock import monotonic_seconds

NEVER = 2**31 - 1  # collections of what is new, until what was looked at once would be looked at again
ASIDE_SECONDS = 0.1  # between two times that what is alive is set aside: 0.4 ms at 2,000 events a second
QUIET_SECONDS = 5.0  # without work before a full collection,
FULL_SECONDS = 600.0  # which comes no more often than that,
FULL_SECONDS_MOST = 6 * 3600.0  # and at the latest after so long, quiet or not: it halts a large process for some 0.1 s
# Until a thread that computes lets another one have Python's lock: with 5 ms, as it is otherwise, whoever answers waits
# so long for a thread beside it. In a probe, two threads that encode JSON all the time got no less done.
SWITCH_SECONDS = 0.0001


@contextmanager
def quick_switches() -> Iterator[None]:
    """Within it, threads wait for each other as short as may be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@contextmanager
def no_collections() -> Iterator[None]:
    """Within it nothing is collected: for what makes much, and little garbage; an eighth of the time of imports."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def only_new() -> Iterator[None]:
    """Within it, the collector looks only at what was made since."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class Collector:
    """Told of each turn of a loop that must not be halted, on its thread. After a `with` all is as it was."""

    def __init__(self) -> None:
        self._worked = self._aside = monotonic_seconds()
        self._before = gc.get_threshold()
        gc.set_threshold(self._before[0], NEVER, NEVER)
        self.collect()

    def __enter__(self) -> Collector:
        return self

    def __exit__(self, kind: object, error: object, at: object) -> None:
        gc.unfreeze()
        gc.set_threshold(*self._before)

    def collect(self) -> None:
        """A full collection now."""
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        self._full = monotonic_seconds()

    def turn(self, *, worked: bool) -> None:
        """A turn is over, in which something was done or not."""
        now = monotonic_seconds()
        if worked:
            self._worked = now
        since = now - self._full
        if since >= FULL_SECONDS_MOST or (since >= FULL_SECONDS and now - self._worked >= QUIET_SECONDS):
            self.collect()
        elif now - self._aside >= ASIDE_SECONDS:
            gc.collect(1)
            gc.freeze()
            self._aside = now
