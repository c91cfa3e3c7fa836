"""Stories: what came in at which second, and what came out; each is told to the oracle as well."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from katmatic import App, Event
from katmatic.log.codec import encode
from katmatic.records import DECISIONS, Decision, LabelState, LabelVersion, Prediction
from katmatic.spec.event import schema
from tests.engine.running import Running, answered, assert_equal

SECOND = 1_000_000
BEGIN = 1_700_000_000 * SECOND


class Story(Running):
    """An application whose moments are seconds since it began."""

    def __init__(self, app: App) -> None:
        super().__init__(app)
        self.app = app
        self.told: list[tuple[int, list[tuple[str, bytes]]]] = []

    def at(self, second: float, *records: tuple[type[Event], Any]) -> list[Any]:
        """What follows from these records, read together at a moment: predictions, and (state, value) of labels."""
        found = [(kind if isinstance(kind, str) else schema(kind).topic, _bytes(kind, what)) for kind, what in records]
        moment = (moment_of(second), found)
        self.told.append(moment)
        before = len(self.outcomes)
        self.apply([moment])
        return self.outcomes[before:]

    @property
    def fates(self) -> dict[str, int]:
        """What became of the records so far."""
        return dict(+self.counts)

    def features(self, second: float, *records: tuple[type[Event], Any]) -> dict[str, Any]:
        """The features of the last prediction that follows from these records."""
        return [row for row in self.at(second, *records) if isinstance(row, Prediction)][-1].features

    def labels(self, second: float, *records: tuple[type[Event], Any]) -> list[tuple[str, float | None]]:
        """State and value of each label version that follows from these records."""
        found = [row for row in self.at(second, *records) if isinstance(row, LabelVersion)]
        return [(LabelState(row.state).name, row.value) for row in found]

    def asked(self, second: float, *records: tuple[type[Event], Any]) -> list[tuple[str, float]]:
        """The predictors that are asked, and about which second."""
        found = [row for row in self.at(second, *records) if isinstance(row, Prediction)]
        return [(row.predictor, (row.at - BEGIN) / SECOND) for row in found]


def moment_of(second: float) -> int:
    """Microseconds since 1970."""
    return BEGIN + round(second * SECOND)


def decision(predictor: str, anchor: int, *key: str, censored: bool = True) -> tuple[str, bytes]:
    """An action on the prediction about the anchor at this position was taken."""
    return DECISIONS, encode(
        Decision(predictor=predictor, anchor=anchor, key=key, action="do", score=1.0, now=0, censored=censored)
    )


def _bytes(kind: type[Event] | str, what: Any) -> bytes:
    if isinstance(what, bytes):
        return what
    assert not isinstance(kind, str)
    time = schema(kind).time
    return msgspec.json.encode({**what, time: moment_of(what[time])})


@pytest.fixture
def story() -> Iterator[Callable[[App], Story]]:
    """Begins stories; at the end each has to equal what the oracle says of it."""
    stories: list[Story] = []

    def begin(app: App) -> Story:
        stories.append(Story(app))
        return stories[-1]

    yield begin
    for told in stories:
        assert_equal(told, answered(told.app, told.told))
