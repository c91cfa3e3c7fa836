"""An application in a test: send events, let time pass, and look at what it predicted, learnt and refused."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec

from katmatic.clock import ManualClock, to_micros
from katmatic.drive import pass_until
from katmatic.log.memory import MemoryLog
from katmatic.pipeline import Pipeline, Turn
from katmatic.records import Alert, DeadLetter, Decision, LabelVersion, Prediction
from katmatic.spec.app import App
from katmatic.spec.event import Event, schema


class Story:
    """An application on a log in memory, whose clock stands still until it is told to move.

    `predictions`, `labels` (each version), `decisions`, `dead` (letters) and `alerts` are all that was made so far, in
    all lives. docs/testing.md tells one.
    """

    def __init__(self, app: App, now: str | datetime) -> None:
        self.app = app
        self.clock = ManualClock(self._micros(now))
        self.log = MemoryLog()
        self.pipeline = Pipeline(app, self.log, self.clock, watchers=[self])
        self.predictions: list[Prediction] = []
        self.labels: list[LabelVersion] = []
        self.decisions: list[Decision] = []
        self.dead: list[DeadLetter] = []
        self.alerts: list[Alert] = []

    @property
    def counts(self) -> Mapping[str, int]:
        """What became of all events: events = applied + duplicate + late + dead."""
        return self.pipeline.state.store.counts

    def send(self, event: type[Event] | str, /, raw: bytes | None = None, **fields: Any) -> None:
        """One event arrives now, by its class or topic; `raw` bytes are sent as they are."""
        topic = event if isinstance(event, str) else schema(event).topic
        self.log.append(topic, [msgspec.json.encode(fields) if raw is None else raw])
        self.pipeline.turn()

    def wait(self, span: timedelta) -> None:
        """Let `span` pass, with all that is due in it."""
        pass_until(self.pipeline, self.clock, self.clock.now() + span // timedelta(microseconds=1))

    def wait_until(self, moment: str | datetime) -> None:
        """Let time pass until `moment`; one without an offset is in the application's time zone."""
        pass_until(self.pipeline, self.clock, self._micros(moment))

    def kill(self) -> None:
        """The process ends in the middle, and another begins: it knows what the log says, and nothing else.

        What was made before is not made again, and no action is taken again.
        """
        self.log.close()
        self.log = MemoryLog(self.log)
        self.pipeline = Pipeline(self.app, self.log, self.clock, watchers=[self])
        self.pipeline.recover()

    def turn(self, turn: Turn) -> None:
        """Take note: the pipeline calls it."""
        self.predictions += [block.row(i) for block in turn.predictions for i in range(len(block))]
        self.labels += [block.row(i) for block in turn.labels for i in range(len(block))]
        self.decisions += turn.decisions
        self.dead += turn.changes.dead
        self.alerts += turn.alerts

    def _micros(self, moment: str | datetime) -> int:
        found = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
        return to_micros(found if found.tzinfo else found.replace(tzinfo=self.app.timezone))
