"""The application of `bench.crash`: who rings at a gate, and whether it is opened. It starts fast, and learns at once.

Its model learns row by row, so that its answers depend on everything that ever happened, and in which order.
"""

import math
from typing import Any

from katmatic import App, Event, Key, Time, future, past

app = App("gate")


class Ring(Event):
    """Somebody rings."""

    visitor: Key
    at: Time
    number: int


class Opened(Event):
    """Somebody opens."""

    visitor: Key
    at: Time
    number: int


class Logistic:
    """A logistic regression that learns row by row."""

    def __init__(self) -> None:
        self.weights: dict[str, float] = {}

    def predict_proba_one(self, row: dict[str, float]) -> dict[bool, float]:
        """The chance."""
        total = sum(self.weights.get(name, 0.0) * math.tanh(value) for name, value in row.items())
        chance = 1 / (1 + math.exp(-max(-30.0, min(30.0, total))))
        return {True: chance, False: 1 - chance}

    def learn_one(self, row: dict[str, float], truth: bool) -> None:
        """Move a step towards the truth."""
        off = float(truth) - self.predict_proba_one(row)[True]
        for name, value in row.items():
            self.weights[name] = self.weights.get(name, 0.0) + 0.1 * off * math.tanh(value)


app.source(Ring, lateness="1s", horizon="1h")
app.source(Opened, lateness="1s", horizon="1h")
opened = future.any(Opened, per=Ring, within="2s")
door = app.predict(
    "open",
    opened,
    features={
        "rings": past.count(Ring, "10s", by=Ring.visitor),
        "mean": past.mean(Ring.number, "10s", by=Ring.visitor),
        "opened": past.mean(opened, "20s", by=Ring.visitor),
        "since": past.since(Opened, "1h", by=Ring.visitor),
    },
    model=Logistic(),
)


@door.when(above=0.6)
def greet(likely: Any) -> None:
    """Nothing is done about it; the decision is on the log."""
