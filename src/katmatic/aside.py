"""Work beside the process, of low priority: in a copy of it, or in another program.

A copy sees all memory as it was at one moment, while the process itself goes on. The system copies the tables of pages
at once (some 10 ms for half a gigabyte), and a page once one of the two writes to it. The copy has the one thread that
made it, and none of the files; it must take no lock that another thread may have held.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import IO, TypeVar

from katmatic.clock import monotonic_seconds

SECONDS_LIMIT = 600.0  # that a piece of work may take; then it is killed
NICENESS = 10
SAID_BYTES = 4_000  # of what went wrong, the last
LOOK_SECONDS = 2.0  # between two looks whether a core is free
FREE_PART = 0.01  # of a core, and of that time: if anything is left, whoever goes last had what it wanted
QUIET = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
GOES_WITH_PARENT = sys.platform == "linux"  # whether who gives way does
_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_T = TypeVar("_T")


def is_possible() -> bool:
    """Whether a process with threads can be copied here: on Linux."""
    return sys.platform == "linux"


class Aside:
    """One piece of work at a time. For one thread."""

    def __init__(self, seconds_limit: float = SECONDS_LIMIT) -> None:
        self._seconds_limit = seconds_limit
        self._process = 0
        self._said: IO[bytes] | None = None  # a file: a pipe that nobody reads would stop who says much
        self._began = 0.0

    @property
    def is_busy(self) -> bool:
        """Whether work is being done that `ended` has not told of."""
        return self._process > 0

    def start(self, work: Callable[[], None]) -> None:
        """Have `work` done by a copy of this process, as it is now. OSError if there can be none."""
        self._begin(lambda said: _copied(work, said))

    def run(self, command: list[str]) -> None:
        """Have it done by another program, which gives way by itself (`give_way`). OSError if it cannot be started."""
        nowhere = os.open(os.devnull, os.O_RDWR)
        try:
            files = [(os.POSIX_SPAWN_DUP2, nowhere, 0), (os.POSIX_SPAWN_DUP2, nowhere, 1)]
            self._begin(
                lambda said: os.posix_spawn(
                    command[0],
                    command,
                    {**QUIET, **os.environ},
                    file_actions=[*files, (os.POSIX_SPAWN_DUP2, said, 2)],
                    setpgroup=0,  # what the terminal sends is for the parent
                )
            )
        finally:
            os.close(nowhere)

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
        assert self._said is not None
        self._said.seek(max(0, self._said.seek(0, os.SEEK_END) - SAID_BYTES))
        said = self._said.read().decode(errors="replace").strip()
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

    def _begin(self, begin: Callable[[int], int]) -> None:
        if self.is_busy:
            raise RuntimeError("one piece of work at a time")
        said = tempfile.TemporaryFile()  # noqa: SIM115 (closed when the work has ended)
        try:
            self._process = begin(said.fileno())
        except BaseException:
            said.close()
            raise
        self._said, self._began = said, monotonic_seconds()

    def _let_go(self) -> None:
        if self._said is not None:
            self._said.close()
        self._process, self._said = 0, None


def give_way(niceness: int = NICENESS) -> None:
    """For a process that works aside: others go first, also where memory ends; and it goes with its parent's thread."""
    os.nice(niceness)
    if GOES_WITH_PARENT:
        ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000", "ascii")


def last_of_all(steps: Iterator[_T]) -> Iterator[_T]:
    """The same, each step made only when nobody else wants the core; where no core is free, beside the others.

    Linux lets a process end its slice of some 3 ms, however nice it is, but for one of the class `SCHED_IDLE`. Where
    all cores are busy that class is given next to nothing, and without privileges it is never left again. So it is a
    thread that enters it, and makes the steps while a core is free; whoever asks for them makes the others.
    """
    cores = _Cores()
    with ThreadPoolExecutor(1, "katmatic-last", _go_last) as last:
        while found := (last.submit(_next, steps).result() if cores.is_one_free() else _next(steps)):
            yield found[0]


def _next(steps: Iterator[_T]) -> list[_T]:
    """The next one; none if there are no more."""
    return list(islice(steps, 1))


def _go_last() -> None:
    with contextlib.suppress(OSError):  # where it may not, it is nice at least
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))  # 0: this thread


class _Cores:
    """Whether one of the machine's cores had nothing to do for a while; where the system does not say, none had."""

    def __init__(self) -> None:
        self._is_free, self._looked, self._idle = False, monotonic_seconds(), _idle_seconds()

    def is_one_free(self) -> bool:
        """As it was when that was last looked at."""
        passed = monotonic_seconds() - self._looked
        if passed >= LOOK_SECONDS:
            before, self._idle = self._idle, _idle_seconds()
            self._looked += passed
            self._is_free = self._idle - before >= FREE_PART * passed
        return self._is_free


def _idle_seconds() -> float:
    """How long the cores had nothing to do, all of them together."""
    try:
        _, _, _, _, idle, waiting, *_ = Path("/proc/stat").read_text("ascii").split("\n", 1)[0].split()
    except (OSError, ValueError):
        return 0.0
    return (int(idle) + int(waiting)) / os.sysconf("SC_CLK_TCK")


def _copied(work: Callable[[], None], writing: int) -> int:
    """Copy this process to do some work; the copy's id. In the copy it does not return."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: see above
        process = os.fork()
    if not process:
        _work(work, writing)
    return process


def _work(work: Callable[[], None], writing: int) -> None:
    """What the copy does; it does not return."""
    code = 1
    try:
        gc.disable()  # it would write to every object, and have all memory copied
        give_way()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # the parent ends it
        os.closerange(3, writing)  # locks and connections are the parent's
        os.closerange(writing + 1, os.sysconf("SC_OPEN_MAX"))
        work()
        code = 0
    except BaseException as error:
        os.write(writing, str(error).encode()[:SAID_BYTES])
    finally:
        os._exit(code)
