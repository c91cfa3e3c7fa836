"""Carries out the user's functions, live, on a thread of its own: actions on predictions, listeners of labels."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any

from katmatic.clock import monotonic_seconds
from katmatic.pipeline import Pipeline, Turn
from katmatic.records import Alert, Decision, LabelBlock
from katmatic.spec.event import Event

WAITING_LIMIT = 10_000  # turns whose actions wait; then the pipeline waits for the actions, unless one of them hangs
HANGS_SECONDS = 30.0  # after which a function of the user's is said to hang
STOP_SECONDS = 10.0  # that an end waits for what is still to be done


class Actor:
    """Runs actions in the order of their decisions, once their rows are durable; what raises is told, and is done.

    An action is carried out at most once: what was not yet done when the process ended is not done after a restart.
    While one hangs, those after it wait, as many as there is room for; the pipeline goes on.
    """

    def __init__(self, pipeline: Pipeline, done: Callable[[Decision], None]) -> None:
        self._pipeline, self._done = pipeline, done
        self._listeners = {
            label: [f for known, f in pipeline.app.listeners if known is label]
            for label in {id(known): known for known, _ in pipeline.app.listeners}.values()
        }
        self._names = dict(pipeline.plan.labels)
        self._queue: queue.Queue[tuple[list[tuple[Decision, Event]], list[LabelBlock]] | None] = queue.Queue(
            WAITING_LIMIT
        )
        self._began: float | None = None  # when the function that runs now was called
        self._hanging: float | None = None  # the one of which it was told
        self._thread = threading.Thread(target=self._run, name="katmatic-actions", daemon=True)
        self._thread.start()

    def turn(self, turn: Turn) -> None:
        """Have the actions of a turn carried out."""
        decided = [(decision, turn.changes.event(decision.anchor)) for decision in turn.decisions]
        heard = [block for block in turn.labels if self._names[block.label] in self._listeners]
        hangs = self._watch(turn.batch.now)
        if decided or heard:
            try:
                self._queue.put((decided, heard), timeout=0.001 if hangs else HANGS_SECONDS)
            except queue.Full:
                text = f"{len(decided)} actions were not carried out: {WAITING_LIMIT} turns wait for one that hangs"
                self._warn("actions-dropped", text, turn.batch.now, ())

    def stop(self) -> None:
        """Return when all that was decided is done, or after `STOP_SECONDS`: then the rest is not done."""
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=STOP_SECONDS)
            self._thread.join(STOP_SECONDS)

    def _watch(self, now: int) -> bool:
        """Does a function of the user's hang? It is told once."""
        began = self._began
        if began is None or monotonic_seconds() - began < HANGS_SECONDS:
            return False
        if began != self._hanging:
            self._hanging = began
            text = f"an action, or a listener, has been running for {HANGS_SECONDS:g} s; those after it wait"
            self._warn("action-hangs", text, now, ())
        return True

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            decided, heard = work
            for decision, event in decided:
                self._began = monotonic_seconds()
                for done in self._pipeline.actions[decision.predictor].run([decision], [event]):
                    self._tell(done)
            for block in heard:
                for i in range(len(block)):
                    for function in self._listeners[self._names[block.label]]:
                        self._began = monotonic_seconds()
                        self._call(function, block, i)
            self._began = None

    def _tell(self, done: Decision) -> None:
        try:
            self._done(done)
        except Exception as error:  # a listener's mistake is its own: the next action is carried out
            self._warn("watcher-failed", f"told of {done.action}: {error!r}", done.now, done.key)

    def _call(self, function: Callable[[Any], Any], block: LabelBlock, i: int) -> None:
        version = block.row(i)
        try:
            function(version)
        except (Exception, SystemExit) as error:  # the user's function may raise anything
            name = getattr(function, "__name__", type(function).__name__)
            text = f"{name}, which listens to {block.label}, raised {error!r}"
            self._warn("listener-failed", text, version.now, version.key)

    def _warn(self, name: str, text: str, now: int, key: tuple[str, ...]) -> None:
        self._pipeline.raise_alert(Alert(name=name, severity="warning", text=text, now=now, key=key))
