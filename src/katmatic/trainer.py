"""When models are trained: each training is a process of its own, and gives way, so that answers never wait."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

from katmatic import duration
from katmatic.aside import GOES_WITH_PARENT
from katmatic.clock import monotonic_seconds
from katmatic.log.codec import encode
from katmatic.pipeline import Pipeline, Turn
from katmatic.records import MODELS, ModelVersion
from katmatic.spec.app import Predictor

DRIFT_EVERY = 3_600_000_000  # microseconds of the log's time between two looks for drift
DRIFT_PAUSE = 3 * 86_400_000_000  # and between two trainings, if it is because of that
PAUSES_IN_WINDOW = 4  # trainings because of a decline, in the time over which it is seen
RETRY_PAUSE = 3_600_000_000  # and between two trainings, if the first led to no model and did not say when one could
RETRY_DOUBLINGS = 7  # of that pause, with each failure for another reason than too few rows: to five days
RETRY_GROWTH = 1.1  # and by how much the rows must have grown, if they were too few
SECONDS_LIMIT = 6 * 3600.0  # that a training may take; then it is killed
TELL_PAUSE_SECONDS = 300.0  # until the registry is told again who answers, if it could not be told
READY_SECONDS = 5.0  # in which a training has begun to give way
STOP_SECONDS = 5.0  # until a training that was asked to end is killed
# Threads that share a core with answers wait for each other, and spin while they wait: one core is left alone.
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) - 1))}


@dataclass
class _Course:
    """One predictor's trainings so far."""

    predictor: Predictor
    every: int = 0  # microseconds between two trainings; 0: none is due by time
    window: int = 0  # in which a decline is seen; 0: none is looked for
    tried: int | None = None  # the moment of the last training
    rows: int = 0  # labelled rows then
    not_before: int = 0
    failures: int = 0  # one after the other, for other reasons than too few rows
    looked: int = 0
    asked: str = ""  # by whom a review was asked for, and not begun yet


@dataclass
class _Training:
    """A training that is under way."""

    name: str
    why: str
    now: int
    process: subprocess.Popen[bytes]
    said: IO[bytes]  # a file: a pipe that nobody reads would stop a model that tells of its progress
    began: float
    runs_until: float  # whatever is saved meanwhile
    halted: float | None = None  # since when it stands still; as all here, by the clock that only runs forward


class Trainer:
    """A watcher that starts trainings when they are due, and hands their result to the log.

    `rows`, `has_drifted` and `has_declined` are asked about a predictor; `told` is the command line that lets the
    registry know which version of a predictor answers again. Unless it works `by_itself`, it only does what
    it is asked for. While `waits`, the pipeline stands still for a training: for simulated time, which would run ahead.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        command: Callable[[str, int, bool], list[str]],
        *,
        rows: Callable[[str], int],
        has_drifted: Callable[[str], bool],
        has_declined: Callable[[str], bool],
        told: Callable[[str, int], list[str]] | None = None,
        by_itself: bool = True,
        waits: bool = False,
    ) -> None:
        self._pipeline, self._command, self._rows = pipeline, command, rows
        self._has_drifted, self._has_declined = has_drifted, has_declined
        self._told, self._by_itself, self.waits = told, by_itself, waits
        self._courses = {name: _course(pipeline.app.predictors[name]) for name in pipeline.scorers}
        self._running: _Training | None = None
        self._unread = ""  # the predictor whose training has ended, and did not come back from the log yet
        self._telling: tuple[str, int, subprocess.Popen[bytes]] | None = None  # the registry, who answers again
        self._untold: dict[str, int] = {}  # predictor -> version
        self._tell_after = -math.inf  # by the clock that only runs forward

    @property
    def process(self) -> int | None:
        """The id of the process that trains, if one does."""
        return self._running.process.pid if self._running is not None else None

    def review(self, predictor: str, why: str) -> str:
        """Train a predictor soon, and let an earlier version answer if it does better; why not, or nothing.

        Callable from any thread.
        """
        course = self._courses.get(predictor)
        if course is None:
            return "it learns from every event, and is not trained"
        if course.asked or (self._running is not None and self._running.name == predictor):
            return "it is being reviewed already"
        course.asked = why
        return ""

    def know(self, record: ModelVersion) -> None:
        """A training was done, now or in an earlier life."""
        course = self._courses.get(record.predictor)
        if course is not None and record.action != "rolled-back":
            course.tried, course.not_before = record.now, record.not_before
            course.failures = course.failures + 1 if record.is_failure else 0
            # After a restart, fewer rows may be known of than were trained on.
            course.rows = min(max(course.rows, record.rows), self._rows(record.predictor))

    def turn(self, turn: Turn) -> None:
        """See whether a training has ended, or is due."""
        for record in turn.models:
            self.know(record)
            if record.predictor == self._unread:
                self._unread = ""
            if record.action == "rolled-back":
                self._untold[record.predictor] = record.version
            elif record.action == "promoted":  # who promotes tells it
                self._untold.pop(record.predictor, None)
        self._tell()
        self._collect()
        self._halt_or_go_on()
        if self._running is None and not self._unread:  # until then it would be due again
            for name, course in self._courses.items():
                now, asked = turn.batch.now, course.asked
                course.asked = ""
                has_declined = not asked and self._declines(name, course, now)
                why = asked or (has_declined and "decline") or self._due(name, course, now)
                if why:
                    self._start(name, why, course, now, is_review=bool(asked) or has_declined)
                    break

    def stop(self) -> None:
        """End a training that is under way."""
        if self._telling is not None:
            *_, process = self._telling
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            _end(process)
        if self._running is not None:
            _end(self._running.process)
            self._running.said.close()
            self._running = None

    def _tell(self) -> None:
        """Let the registry know who answers again; it is asked for by a process of its own, as trainings are."""
        if self._telling is not None and self._telling[2].poll() is not None:
            name, version, process = self._telling
            self._telling = None
            if process.returncode:  # it said why; what has been decided since goes before it
                self._untold.setdefault(name, version)
                self._tell_after = monotonic_seconds() + TELL_PAUSE_SECONDS
        if self._telling is not None or not self._untold or self._told is None:
            return
        if monotonic_seconds() >= self._tell_after:
            name, version = self._untold.popitem()
            with contextlib.suppress(OSError):
                process = subprocess.Popen(self._told(name, version), stdin=subprocess.DEVNULL)
                self._telling = name, version, process

    def _due(self, name: str, course: _Course, now: int) -> str:
        """Why a model is to be trained now; empty if it is not."""
        if not self._by_itself:
            return ""
        policy = course.predictor.retrain
        since = RETRY_PAUSE + DRIFT_PAUSE if course.tried is None else now - course.tried
        has_model = self._pipeline.scorers[name].version > 0
        is_wanted = course.every or policy.labels or policy.on_drift or not has_model
        pause = RETRY_PAUSE * 2 ** min(course.failures - 1, RETRY_DOUBLINGS)
        if course.failures and is_wanted and since >= pause and self._rows(name) >= policy.rows:
            return "the last one failed"
        if not has_model:
            rows = self._rows(name)
            is_more = rows >= policy.rows and rows > course.rows * RETRY_GROWTH
            is_much_more = rows >= 2 * course.rows
            is_time = now >= course.not_before if course.not_before else is_much_more or since >= RETRY_PAUSE
            return "the first model" if is_more and is_time else ""
        if course.every and since >= course.every:
            return f"every {policy.every}"
        if policy.labels is not None and self._rows(name) - course.rows >= policy.labels:
            return f"{policy.labels} new labels"
        if policy.on_drift and since >= DRIFT_PAUSE and now - course.looked >= DRIFT_EVERY:
            course.looked = now
            return "drift" if self._has_drifted(name) else ""
        return ""

    def _declines(self, name: str, course: _Course, now: int) -> bool:
        if not course.window or not self._by_itself or not self._pipeline.scorers[name].version:
            return False
        pause = course.window // PAUSES_IN_WINDOW
        return (course.tried is None or now - course.tried >= pause) and self._has_declined(name)

    def _start(self, name: str, why: str, course: _Course, now: int, *, is_review: bool) -> None:
        course.tried, course.rows = now, self._rows(name)
        command = [*self._command(name, now, is_review), *(["--waited"] if self.waits else [])]
        said = tempfile.TemporaryFile()  # noqa: SIM115 (closed when the training has ended)
        try:
            process = subprocess.Popen(
                command,
                stdout=said,
                stdin=subprocess.DEVNULL,
                env={**ENVIRONMENT, **os.environ},
            )
        except OSError as error:  # no memory for another process
            said.close()
            self._broken(name, f"the training ({why}) could not be started: {error}", now)
            return
        began = monotonic_seconds()
        self._running = _Training(name, why, now, process, said, began, began + READY_SECONDS)
        if self.waits:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_LIMIT)
            self._collect()

    def _halt_or_go_on(self) -> None:
        """Let a training stand still while the state is saved, lest two work beside answers; half the time at most."""
        training, now = self._running, monotonic_seconds()
        if training is None:
            return
        if training.halted is None:
            # One that did not go with its parent would stand still for ever, if that was killed.
            if GOES_WITH_PARENT and self._pipeline.is_saving and now >= training.runs_until:
                training.process.send_signal(signal.SIGSTOP)
                training.halted = now
        elif not self._pipeline.is_saving:
            training.process.send_signal(signal.SIGCONT)
            training.runs_until, training.halted = now + (now - training.halted), None

    def _collect(self) -> None:
        """Hand on what a training that has ended came to."""
        training = self._running
        if training is None:
            return
        is_over = monotonic_seconds() - training.began >= SECONDS_LIMIT
        if is_over:
            _end(training.process)
        elif training.process.poll() is None:
            return
        self._running = None
        with training.said as said:
            said.seek(0)
            record = _record(said.read(), training.name)
        if record is not None:
            self._hand_on(record)
            return
        ended = f"took more than {SECONDS_LIMIT:g} s" if is_over else f"ended with code {training.process.returncode}"
        self._broken(training.name, f"the training ({training.why}) {ended} and said nothing", training.now)

    def _broken(self, name: str, reason: str, now: int) -> None:
        self._hand_on(ModelVersion(predictor=name, version=0, action="failed", reason=reason, now=now))

    def _hand_on(self, record: ModelVersion) -> None:
        self._pipeline.log.append(MODELS, [encode(record)])
        self._unread = record.predictor


def _course(predictor: Predictor) -> _Course:
    every, window = (
        duration.micros(duration.parse(text)) if text else 0
        for text in (predictor.retrain.every, predictor.retrain.on_decline)
    )
    return _Course(predictor, every, window)


def _record(said: bytes, predictor: str) -> ModelVersion | None:
    """The record that a training printed; a model may print before and after it."""
    for line in reversed(said.splitlines()):
        with contextlib.suppress(msgspec.MsgspecError):
            record = msgspec.json.decode(line, type=ModelVersion)
            if record.predictor == predictor:
                return record
    return None


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.send_signal(signal.SIGCONT)  # one that stands still would not hear of it
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def train_command(
    app: Path, folder: Path, registry: str, log: str = "", models: str = ""
) -> Callable[[str, int, bool], list[str]]:
    """The command line that trains, or reviews, a predictor of the application in file `app`."""

    def command(predictor: str, now: int, is_review: bool) -> list[str]:
        found = [sys.executable, "-m", "katmatic", "train", str(app), "--predictor", predictor]
        found += ["--data", str(folder), "--now", str(now), "--record"]
        found += ["--log", log] if log else []
        found += ["--models", models] if models else []
        found += ["--review"] if is_review else []
        return [*found, "--registry", registry] if registry else found

    return command


def tell_command(app: Path, folder: Path, registry: str) -> Callable[[str, int], list[str]]:
    """The command line that makes a version the champion in the registry, and nothing else."""

    def command(predictor: str, version: int) -> list[str]:
        found = [sys.executable, "-m", "katmatic", "promote", str(app), "--predictor", predictor]
        found += ["--data", str(folder), "--version", str(version), "--registry-only", "--json"]
        return [*found, "--registry", registry] if registry else found

    return command
