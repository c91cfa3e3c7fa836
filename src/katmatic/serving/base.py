"""What the web application is given: the running pipeline behind one Protocol, safe to call from any thread."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from katmatic.errors import KatmaticError
from katmatic.metrics import Metrics
from katmatic.monitoring.board import Board
from katmatic.monitoring.quality import Report
from katmatic.monitoring.vitals import Vitals
from katmatic.records import Alert, DeadLetter, ModelVersion, Prediction, SkewReport
from katmatic.spec.app import App

RETRY_SECONDS = 1

KINDS = ("prediction", "alert", "label", "status")  # what a subscription tells of


class QueueFull(KatmaticError):
    """So much waits to be read that no more is taken in now; HTTP 503."""

    def __init__(
        self, where: str, *, found: str, expected: str, do: str = "send it again", retry_seconds: int = RETRY_SECONDS
    ) -> None:
        super().__init__(where, found=found, expected=expected, do=do)
        self.retry_seconds = retry_seconds


@dataclass(frozen=True)
class ModelCard:
    """Who answers for one predictor, and how it came to that."""

    predictor: str
    version: int  # 0: nobody yet, it is learning
    since: int | None  # the moment when it began to answer
    history: tuple[ModelVersion, ...] = ()  # every change, newest first
    waiting: str = ""  # while learning: for what

    @property
    def is_learning(self) -> bool:
        """Whether there is no model yet."""
        return self.version == 0

    @property
    def current(self) -> ModelVersion | None:
        """The record of the version that answers, as it was promoted; None while learning."""
        mine = [change for change in self.history if change.version == self.version]
        return next((change for change in mine if change.action == "promoted"), mine[-1] if mine else None)

    @property
    def earlier(self) -> tuple[int, ...]:
        """Versions that answered before, newest first: what one can go back to."""
        answered = [change.version for change in self.history if change.action in ("promoted", "rolled-back")]
        return tuple(dict.fromkeys(version for version in answered if version not in (0, self.version)))


@dataclass(frozen=True)
class Status:
    """The whole pipeline at the moment `now`."""

    now: int
    ready: bool
    reason: str = ""  # why it is not ready
    vitals: Vitals = field(default_factory=Vitals)
    models: Mapping[str, ModelCard] = field(default_factory=dict)  # by predictor
    quality: Mapping[str, Report] = field(default_factory=dict)  # by predictor; none without a live model
    silent: tuple[str, ...] = ()  # topics whose silence holds labels open
    firing: tuple[Alert, ...] = ()  # alerts that began and did not end
    skew: SkewReport | None = None  # what the proof of the served features has come to; None: none is made


class Subscription(Protocol):
    """Messages from now on: an async iterator of (kind, data), kinds as in `KINDS` or "dropped" ({"messages": n})."""

    def __aiter__(self) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Itself."""
        ...

    async def __anext__(self) -> tuple[str, dict[str, Any]]:
        """The next message, when there is one."""
        ...

    def only_counts(self) -> None:
        """From now on messages are counted, not kept: the iterator gives nothing more, and ends when it is closed."""
        ...

    def counts(self) -> dict[str, int]:
        """How many messages of each kind came since this was asked last."""
        ...

    def close(self) -> None:
        """No more is wanted."""
        ...


class Pipeline(Protocol):
    """What a running application can be asked. Every method may be called from any thread."""

    @property
    def app(self) -> App:
        """The declaration."""
        ...

    @property
    def metrics(self) -> Metrics:
        """Where everything is counted."""
        ...

    def submit(self, topic: str, values: list[bytes]) -> Future[range]:
        """Hand in events; the future gives their positions once they are durable. Raises `QueueFull`."""
        ...

    def latest(self, predictor: str, key: tuple[str, ...]) -> Prediction | None:
        """The newest prediction about `key` (see `Board.latest`); from memory, without waiting."""
        ...

    def predict(self, predictor: str, anchors: list[dict[str, Any]]) -> list[Prediction]:
        """What would be answered now if these anchor events came; nothing is logged. Raises `InputError`."""
        ...

    def reasons(self, predictor: str, key: tuple[str, ...]) -> list[tuple[str, float]]:
        """How much each feature raised or lowered the newest answer about `key`, the largest effect first."""
        ...

    def status(self) -> Status:
        """How all of it is; from memory, without waiting."""
        ...

    def board(self) -> Board:
        """The newest of every predictor."""
        ...

    def models(self, predictor: str) -> list[ModelVersion]:
        """Every change of who answers, newest first."""
        ...

    def rollback(self, predictor: str, version: int | None) -> ModelVersion:
        """Let `version` answer again (None: the one before). Raises `ModelError` if there is no such version."""
        ...

    def review(self, predictor: str, why: str) -> str:
        """Have a predictor's model trained again, or an earlier one put in its place; why not, or nothing."""
        ...

    def alerts(self, limit: int) -> Sequence[Alert]:
        """The newest alerts, newest first."""
        ...

    def dead(self, limit: int) -> Sequence[DeadLetter]:
        """The newest dead letters, newest first."""
        ...

    def subscribe(self) -> Subscription:
        """Messages from now on; called inside a running event loop."""
        ...
