"""Work in a copy of the process: it sees all memory as it was at one moment, while the process itself goes on.

The system copies a page of memory once one of the two writes to it, so the moment costs next to nothing. The copy has
the one thread that made it, and none of the files; it must take no lock that another thread may have held.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import sys
import warnings
from collections.abc import Callable

from katmatic.clock import monotonic_seconds

SECONDS_LIMIT = 600.0  # that a piece of work may take; then it is killed
NICENESS = 10
SAID_BYTES = 4_000  # of what went wrong
_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def is_possible() -> bool:
    """Whether a process with threads can be copied here: on Linux."""
    return sys.platform == "linux"


class Aside:
    """One piece of work at a time. For one thread."""

    def __init__(self, seconds_limit: float = SECONDS_LIMIT) -> None:
        self._seconds_limit = seconds_limit
        self._process = 0
        self._said = -1  # a pipe
        self._began = 0.0

    @property
    def is_busy(self) -> bool:
        """Whether work is being done that `ended` has not told of."""
        return self._process > 0

    def start(self, work: Callable[[], None]) -> None:
        """Have `work` done by a copy of this process, as it is now. OSError if there can be none."""
        if self.is_busy:
            raise RuntimeError("one piece of work at a time")
        reading, writing = os.pipe()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of threads: see above
                process = os.fork()
        except OSError:
            os.close(reading)
            os.close(writing)
            raise
        if not process:
            _work(work, writing)
        os.close(writing)
        self._process, self._said, self._began = process, reading, monotonic_seconds()

    def ended(self) -> str | None:
        """What went wrong with work that has ended, empty if nothing did; None if none has ended."""
        if not self.is_busy:
            return None
        if monotonic_seconds() - self._began > self._seconds_limit:
            self.stop()
            return f"it took more than {self._seconds_limit:g} s"
        process, status = os.waitpid(self._process, os.WNOHANG)
        if not process:
            return None
        said = os.read(self._said, SAID_BYTES).decode(errors="replace")
        self._let_go()
        code = os.waitstatus_to_exitcode(status)
        return (said or f"it ended with code {code}") if code else ""

    def stop(self) -> None:
        """End what is being done; it may be half done."""
        if self.is_busy:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process, signal.SIGKILL)
            os.waitpid(self._process, 0)
            self._let_go()

    def _let_go(self) -> None:
        os.close(self._said)
        self._process, self._said = 0, -1


def _work(work: Callable[[], None], writing: int) -> None:
    """What the copy does; it does not return."""
    code = 1
    try:
        gc.disable()  # it would write to every object, and have all memory copied
        ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # the parent ends it
        os.nice(NICENESS)
        os.closerange(3, writing)  # locks and connections are the parent's
        os.closerange(writing + 1, os.sysconf("SC_OPEN_MAX"))
        work()
        code = 0
    except BaseException as error:
        os.write(writing, str(error).encode()[:SAID_BYTES])
    finally:
        os._exit(code)
