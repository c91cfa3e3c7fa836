"""The proof of zero skew beside the pipeline: a process of its own that reads the log, and gives way by itself."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from katmatic.aside import QUIET
from katmatic.records import Skew, SkewReport

START_SECONDS = 3.0  # after the pipeline, whose start comes first
AGAIN_SECONDS = 10.0  # until a proof that has ended by itself is started again; if it came to nothing, twice as long
AGAIN_SECONDS_MOST = 3600.0
STOP_SECONDS = 5.0  # until a proof that was asked to end is killed


class Prover:
    """Keeps a proof running, and hands on what it reports, from a thread of its own.

    `command` gives the command line of a proof that begins at a block of rows, and `end` tells how many blocks there
    are. What several processes came to is added up.
    """

    def __init__(
        self,
        command: Callable[[int], list[str]],
        end: Callable[[], int],
        *,
        told: Callable[[SkewReport], None],
        ended: Callable[[str], None],
        start_seconds: float = START_SECONDS,
    ) -> None:
        self._command, self._end, self._told, self._ended = command, end, told, ended
        self._start_seconds = start_seconds
        self._start = end()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._work, name="katmatic-prover", daemon=True)

    @property
    def process(self) -> int | None:
        """The id of the process that proves, if one does."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._stop.set()
        with self._lock:
            process = self._process
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def _work(self) -> None:
        before: tuple[Skew, ...] = ()
        pause, again, start = self._start_seconds, AGAIN_SECONDS / 2, self._start
        while not self._stop.wait(pause):
            report = self._prove(start, before)
            before = report.skews if report is not None else before
            again = AGAIN_SECONDS if report is not None else min(2 * again, AGAIN_SECONDS_MOST)
            pause = again
            if self._stop.is_set():
                return
            self._ended(f"the proof of the features has ended, and is started again in {again:g} s")
            with contextlib.suppress(Exception):  # a log that cannot be read just now
                start = self._end()

    def _prove(self, start: int, before: tuple[Skew, ...]) -> SkewReport | None:
        """Run one process to its end; its last report."""
        with self._lock:
            if self._stop.is_set():
                return None
            try:
                process = subprocess.Popen(
                    self._command(start),
                    stdout=subprocess.PIPE,
                    stdin=subprocess.DEVNULL,
                    env={**QUIET, **os.environ},
                )
            except OSError:  # no memory for another process
                return None
            self._process = process
        newest = None
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                with contextlib.suppress(msgspec.MsgspecError):  # a user's file may print, too
                    newest = _added(msgspec.json.decode(line, type=SkewReport), before)
                    self._told(newest)
        process.wait()
        self._process = None
        return newest


def _added(report: SkewReport, before: tuple[Skew, ...]) -> SkewReport:
    """A report with what earlier processes came to."""
    if not before:
        return report
    known = {skew.predictor: skew for skew in before}
    counts = ("rows", "values", "mismatches", "unprovable", "skipped")
    skews = []
    for skew in report.skews:
        old = known.get(skew.predictor, Skew(predictor=skew.predictor))
        more = {name: getattr(skew, name) + getattr(old, name) for name in counts}
        skews.append(msgspec.structs.replace(skew, **more))
    return msgspec.structs.replace(report, skews=tuple(skews))


def prove_command(app: Path, folder: Path, log: str = "") -> Callable[[int], list[str]]:
    """The command line that proves what is served by the application in file `app`, and goes on."""

    def command(start: int) -> list[str]:
        found = [sys.executable, "-m", "katmatic", "prove", str(app), "--data", str(folder)]
        found += ["--log", log] if log else []
        return [*found, "--record", "--start", str(start)]

    return command
