"""THE WIRING: settings -> backends -> pipeline, and all that stands around it. The only file that knows every part."""

from __future__ import annotations

import gc
import importlib.util
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from katmatic.actor import Actor
from katmatic.aside import Aside
from katmatic.clock import Clock, SystemClock
from katmatic.disk import SystemDisk
from katmatic.engine.plan import Plan
from katmatic.errors import DeclarationError, KatmaticError, LogError, LogLost, SettingsError
from katmatic.live import Live
from katmatic.log.base import Log
from katmatic.log.follow import Followed
from katmatic.log.sqlite import SqliteHistory, SqliteLog, open_readonly
from katmatic.memory import Collector, no_collections, only_new, quick_switches
from katmatic.metrics import Metrics
from katmatic.pipeline import Pipeline, Turn, short_fingerprint
from katmatic.prover import Prover, prove_command
from katmatic.records import DECISIONS, MODELS, PREDICTIONS, Alert
from katmatic.settings import Settings
from katmatic.sources.calendar import Calendars
from katmatic.spec.app import App
from katmatic.spec.event import schema
from katmatic.state.checkpoint import Borrowed, Checkpoints
from katmatic.state.files import FileCheckpoints
from katmatic.trainer import Trainer, tell_command, train_command

if TYPE_CHECKING:
    from katmatic.log.kafka import KafkaHistory

DAY = 86_400_000_000
CALENDAR_RETRY = 60_000_000  # microseconds until a calendar that failed is asked again
COMMIT_RETRY_SECONDS = 1.0  # until a commit that failed is tried again
REST = 2.0  # times as long as its disk has worked, a checkpoint that is made beside the pipeline lets it be
DUE_SECONDS = 0.005  # what falls due waits so long for an event to come with: in a flood it needs no turns of its own


def load_app(path: Path) -> App:
    """The application that a file declares; its folder can be imported from while it is read.

    Raises DeclarationError if there is no such file, it cannot be run, or there is not one application in it.
    """
    if not path.is_file():
        raise DeclarationError(
            str(path), found="no such file", expected="the file that declares the application", do="name it"
        )
    sys.path.insert(0, str(path.parent.resolve()))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # so that the annotations of its events can be looked up
    try:
        with no_collections():
            spec.loader.exec_module(module)
    except KatmaticError:
        raise
    except Exception as error:  # the file is the user's
        raise DeclarationError(
            _place(path, error),
            found=f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}",
            expected="a file that Python can run",
            do="correct the line",
        ) from error
    apps = [value for value in vars(module).values() if isinstance(value, App)]
    if len(apps) != 1:
        raise DeclarationError(str(path), found=f"{len(apps)} applications", expected="one App(...)", do="declare one")
    return apps[0]


def _place(path: Path, error: Exception) -> str:
    """The line of the user's file in which an error came up, the deepest."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    if isinstance(error, SyntaxError) and error.filename == str(path) and error.lineno:
        lines.append(error.lineno)
    return f"{path}:{lines[-1]}" if lines else str(path)


def open_log(app: App, settings: Settings) -> tuple[Log, Checkpoints]:
    """The application's log, owned from now on, and the checkpoints of its state."""
    if not settings.log:
        return SqliteLog(settings.folder / "log.db", moves_beside=True), FileCheckpoints(
            settings.folder / "checkpoints"
        )
    _check_kafka(settings.log)
    from katmatic.log.kafka import KafkaLog
    from katmatic.state.kafka import KafkaCheckpoints

    log = KafkaLog(settings.log, app.name, [*(schema(event).topic for event in app.events), DECISIONS, MODELS])
    return log, KafkaCheckpoints(*log.checkpoints())


def open_copy(app: App, settings: Settings) -> tuple[Log, Checkpoints]:
    """A log that another process owns, to be followed, and its checkpoints to begin with; LogError if there is none."""
    history = open_history(app, settings)
    if not settings.log:
        return Followed(history), Borrowed(FileCheckpoints(settings.folder / "checkpoints"))
    from katmatic.log.kafka import KafkaHistory
    from katmatic.state.kafka import KafkaCheckpoints

    assert isinstance(history, KafkaHistory)
    return Followed(history), Borrowed(KafkaCheckpoints(*history.checkpoints()))


def open_history(app: App, settings: Settings) -> SqliteHistory | KafkaHistory:
    """What is committed in the application's log, whose owner may be at work; LogError if there is none."""
    if not settings.log:
        return open_readonly(settings.folder / "log.db")
    _check_kafka(settings.log)
    from katmatic.log.kafka import KafkaHistory

    return KafkaHistory(settings.log, app.name)


def _check_kafka(address: str) -> None:
    if not address.startswith("kafka://"):
        raise SettingsError(
            "setting log",
            found=address,
            expected="kafka://host:port, or nothing",
            do="e.g. --log kafka://localhost:9092",
        )
    if importlib.util.find_spec("confluent_kafka") is None:
        raise SettingsError(
            f"setting log: {address}",
            found="no confluent-kafka",
            expected="Kafka's client library",
            do="install it: pip install 'katmatic[kafka]'",
        )


def checkpoint_command(app: Path, folder: Path, plan: Plan) -> list[str]:
    """The command line that saves the state of the application in file `app`, as its embedded log says it is."""
    command = [sys.executable, "-m", "katmatic", "checkpoint", str(app), "--data", str(folder)]
    return [*command, "--plan", short_fingerprint(plan)]


def save_checkpoint(app: App, folder: Path, plan: str) -> int:
    """Save the state as the embedded log says it is, for the pipeline, which goes on; how many records were read.

    LogError unless `app` keeps the state of this plan: a file may have been changed since it was started.
    """
    with closing(Followed(open_readonly(folder / "log.db"))) as log:
        pipeline = Pipeline(
            app, log, SystemClock(), checkpoints=FileCheckpoints(folder / "checkpoints", disk=SystemDisk(rest=REST))
        )
        if short_fingerprint(pipeline.plan) != plan:
            raise LogError(
                f"a checkpoint of {app.name}",
                found="a declaration that has changed since the pipeline was started",
                expected="the one that runs",
                do="restart the pipeline; until then it saves its state by itself",
            )
        with only_new():
            records = pipeline.recover()
        pipeline.save()
    return records


def stopped_by_signals() -> threading.Event:
    """An event that is set by Ctrl-C and by SIGTERM from now on."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


def keep_for_good() -> None:
    """Spare what has been loaded from the collector of cycles: looking through all of it halts answers for 0.1 s."""
    gc.collect()
    gc.freeze()


class Runtime:
    """One application with its log, its state, its models and its page.

    `clock` and `waits` are for simulated time. One that `follows` is a copy: the log is another's, who trains and acts.
    One that `proves` has a process beside it that computes served features again.
    Use it in a `with`: leaving saves the state and lets go of the files.
    """

    def __init__(
        self,
        app: App,
        path: Path,
        settings: Settings,
        *,
        clock: Clock | None = None,
        waits: bool = False,
        acts: bool = True,
        follows: bool = False,
        proves: bool = False,
        progress: Callable[[int], None] = lambda records: None,
    ) -> None:
        self.app, self.settings, self.clock = app, settings, clock or SystemClock()
        folder = settings.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(
                "setting data",
                found=f"{folder}: {error.strerror or error}",
                expected="a folder to write to",
                do="choose another: --data FOLDER",
            ) from error
        self.metrics = Metrics()
        self.log, checkpoints = open_copy(app, settings) if follows else open_log(app, settings)
        # In simulated time, and where a client has threads of its own, the state is saved by a turn itself.
        self._aside = Aside() if clock is None and isinstance(checkpoints, FileCheckpoints) else None
        self.pipeline = Pipeline(
            app,
            self.log,
            self.clock,
            checkpoints=checkpoints,
            aside=self._aside,
            metrics=self.metrics,
        )
        self.pipeline.saver = checkpoint_command(path, folder, self.pipeline.plan)
        self.live = Live(self.pipeline)
        self.calendars = Calendars(app)
        with only_new():
            self.replayed = self.pipeline.recover(progress)
            self.live.rebuild()
        self.pipeline.watchers.append(self.live)
        self.actor = Actor(self.pipeline, self.live.acted) if acts and not follows else None
        if self.actor is not None:
            self.pipeline.watchers.append(self.actor)
        self.trainer: Trainer | None = None
        if not follows:
            self.trainer = Trainer(
                self.pipeline,
                train_command(path, folder, settings.registry, settings.log, settings.models),
                rows=self.live.rows,
                has_drifted=lambda name: any(shift.has_moved for shift in self.live.shifts(name)),
                has_declined=self.live.has_declined,
                told=tell_command(path, folder, settings.registry),
                by_itself=settings.training,
                waits=waits,
            )
            self.live.reviewer = self.trainer.review
            for name in app.predictors:
                for record in reversed(self.live.models(name)):
                    self.trainer.know(record)
            self.pipeline.watchers.append(self.trainer)
        self.prover: Prover | None = None
        if proves and not follows and app.predictors:
            self.prover = Prover(
                prove_command(path, folder, settings.log),
                lambda: self.log.end(PREDICTIONS),
                told=self.live.proved,
                ended=self._warn,
            )
            self.prover.start()
        self.live.ready = True

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End trainings, finish actions, keep the state, let go of the log."""
        if self.prover is not None:
            self.prover.stop()
        if self.trainer is not None:
            self.trainer.stop()
        if self.actor is not None:
            self.actor.stop()
        if self._aside is not None:
            self._aside.stop()
        try:
            self.pipeline.save()
        finally:
            self.log.close()

    def said(self, after: int, until: int) -> list[tuple[int, str, list[bytes]]]:
        """What the calendars say of the time after `after` and up to `until`; what fails is an alert."""
        found = list(self.calendars.due(after, until))
        self._tell()
        return found

    def work(self, stop: threading.Event) -> None:
        """Take turns until `stop`, with what the calendars say; for a thread of its own.

        While nothing can be committed (the disk is full), it tries again and again, and the page says why. It ends
        by itself if another process has taken the log over.
        """
        published = self.clock.now() - DAY  # what a restart says again counts once
        asked = self.clock.now()

        def take() -> Turn:
            nonlocal published, asked
            now = self.clock.now()
            wait = min(self.settings.tick, max(DUE_SECONDS, (self.pipeline.state.next_due - now) / 1e6))
            if now - asked >= CALENDAR_RETRY:
                self._append(self.calendars.again())
                asked = now
            self._append(self.said(published, now))
            published = now
            return self.pipeline.turn(wait, limit=self.settings.batch)

        self._loop(stop, take)

    def follow(self, stop: threading.Event) -> None:
        """Apply what the owner commits until `stop`; for a thread of its own.

        While the log cannot be read, it tries again and again, and the page says why.
        """
        self._loop(stop, lambda: self.pipeline.turn(self.settings.tick))

    def _loop(self, stop: threading.Event, take: Callable[[], Turn]) -> None:
        with Collector() as collector, quick_switches():
            while not stop.is_set():
                worked = False
                try:
                    worked = len(take().batch) > 0
                except LogLost as error:  # of an owner: another process has taken it over
                    self.live.trouble = str(error)
                    return
                except LogError as error:
                    self.live.trouble = str(error)
                    stop.wait(COMMIT_RETRY_SECONDS)
                else:
                    self.live.trouble = ""
                collector.turn(worked=worked)

    def _warn(self, text: str) -> None:
        self.pipeline.raise_alert(Alert(name="proof-ended", severity="warning", text=text, now=self.clock.now()))

    def _append(self, said: Iterable[tuple[int, str, list[bytes]]]) -> None:
        for _, topic, values in said:
            self.log.append(topic, values)
        self._tell()

    def _tell(self) -> None:
        for alert in self.calendars.take_alerts():
            self.pipeline.raise_alert(alert)
