"""When models are trained: each training is a process of its own, of low priority, so that answers never wait."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from katmatic import duration
from katmatic.log.codec import encode
from katmatic.pipeline import Pipeline, Turn
from katmatic.records import MODELS, ModelVersion
from katmatic.spec.app import Predictor

DRIFT_EVERY = 3_600_000_000  # microseconds of the log's time between two looks for drift
DRIFT_PAUSE = 3 * 86_400_000_000  # and between two trainings, if it is because of that
RETRY_GROWTH = 1.5  # before a first model: it is tried again with so many times the rows
NICENESS = 10  # and it leaves one core alone: threads that share it with the pipeline wait for each other, spinning


@dataclass
class _Course:
    """One predictor's trainings so far."""

    predictor: Predictor
    tried: int | None = None  # the moment of the last training
    rows: int = 0  # labelled rows then
    has_model: bool = False
    looked: int = 0


class Trainer:
    """A watcher that starts trainings when they are due, and hands their result to the log.

    `rows` and `has_drifted` are asked about a predictor. While `waits`, the pipeline stands still for a training: for
    simulated time, which would run ahead.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        command: Callable[[str, int], list[str]],
        *,
        rows: Callable[[str], int],
        has_drifted: Callable[[str], bool],
        waits: bool = False,
    ) -> None:
        self._pipeline, self._command, self._rows, self._has_drifted = pipeline, command, rows, has_drifted
        self.waits = waits
        self._courses = {name: _Course(pipeline.app.predictors[name]) for name in pipeline.scorers}
        self._running: tuple[str, int, subprocess.Popen[bytes]] | None = None

    def know(self, record: ModelVersion) -> None:
        """A training was done before."""
        course = self._courses.get(record.predictor)
        if course is not None and record.action != "rolled-back":
            course.tried = record.now
            course.has_model = course.has_model or record.action == "promoted"
            course.rows = max(course.rows, record.rows)

    def turn(self, turn: Turn) -> None:
        """See whether a training has ended, or is due."""
        for record in turn.models:
            self.know(record)
        self._collect()
        if self._running is None:
            for name, course in self._courses.items():
                reason = self._due(name, course, turn.batch.now)
                if reason:
                    self._start(name, course, turn.batch.now)
                    break

    def stop(self) -> None:
        """End a training that is under way."""
        if self._running is not None:
            self._running[2].terminate()
            self._running[2].wait()
            self._running = None

    def _due(self, name: str, course: _Course, now: int) -> str:
        policy = course.predictor.retrain
        rows = self._rows(name)
        if not course.has_model:
            return "the first model" if rows >= max(policy.rows, RETRY_GROWTH * course.rows) else ""
        assert course.tried is not None
        since = now - course.tried
        if policy.every is not None and since >= duration.micros(duration.parse(policy.every)):
            return f"every {policy.every}"
        if policy.labels is not None and rows - course.rows >= policy.labels:
            return f"{policy.labels} new labels"
        if policy.on_drift and since >= DRIFT_PAUSE and now - course.looked >= DRIFT_EVERY:
            course.looked = now
            return "drift" if self._has_drifted(name) else ""
        return ""

    def _start(self, name: str, course: _Course, now: int) -> None:
        course.tried, course.rows = now, self._rows(name)
        process = subprocess.Popen(
            self._command(name, now),
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            env={"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) - 1)), **os.environ},
        )
        with contextlib.suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
        self._running = (name, now, process)
        if self.waits:
            process.wait()
            self._collect()

    def _collect(self) -> None:
        if self._running is None or self._running[2].poll() is None:
            return
        name, now, process = self._running
        self._running = None
        assert process.stdout is not None
        lines = process.stdout.read().strip().splitlines()
        process.stdout.close()
        try:
            record = msgspec.json.decode(lines[-1], type=ModelVersion)
        except (IndexError, msgspec.MsgspecError):
            reason = f"the training ended with code {process.returncode} and said nothing"
            record = ModelVersion(predictor=name, version=0, action="failed", reason=reason, now=now)
        self._pipeline.log.append(MODELS, [encode(record)])


def train_command(app: Path, folder: Path, registry: str) -> Callable[[str, int], list[str]]:
    """The command line that trains a predictor of the application in file `app`."""

    def command(predictor: str, now: int) -> list[str]:
        found = [sys.executable, "-m", "katmatic", "train", str(app), "--predictor", predictor]
        found += ["--data", str(folder), "--now", str(now), "--record"]
        return [*found, "--registry", registry] if registry else found

    return command
