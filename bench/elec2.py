"""The electricity market of New South Wales, online: River's logistic regression beside repeating the last label.

Accuracy test-then-train, as on River's benchmark page (0.822144; last class 0.853303). Source of the data: M. Harries,
"Splice-2 comparative evaluation: Electricity pricing", 1999.
"""

from __future__ import annotations

import csv
import gzip
import json
from typing import Any

import numpy as np
from river import linear_model, optim, preprocessing

from bench.data import data
from bench.report import report
from katmatic import App, Event, Id, Key, Time, future, past
from katmatic.clock import ManualClock, process_seconds, to_datetime
from katmatic.log.memory import MemoryLog
from katmatic.pipeline import Pipeline, Turn

HALF_HOUR = 1_800_000_000
START = 1_000_000_000_000_000

app = App("elec2")


class Market(Event):
    """Half an hour of the market."""

    slot: Id
    state: Key
    at: Time
    date: float
    day: float
    period: float
    nswprice: float
    nswdemand: float
    vicprice: float
    vicdemand: float
    transfer: float


class Rose(Event):
    """In this half hour the price rose above its mean of the last 24 hours."""

    slot: Key
    at: Time


rose = future.any(Rose, per=Market, within="30m")
FIELDS = ("date", "day", "period", "nswprice", "nswdemand", "vicprice", "vicdemand", "transfer")

price = app.predict(
    "price",
    rose,
    features={name: getattr(Market, name) for name in FIELDS},
    model=preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.SGD(0.005)),
)
last = app.predict(
    "last",
    rose,
    features={"last": past.last(rose, by=Market.state)},
    model=linear_model.LogisticRegression(),  # never asked: its feature is the answer
)


def experiment() -> dict[str, Any]:
    """Accuracy of the model and of the rule, each row answered before its label is known."""
    with gzip.open(data("drift_elec2") / "elec2.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    began = process_seconds()
    log, clock = MemoryLog(), ManualClock(START)
    answers, labels = Answers(), np.array([int(row["class"]) for row in rows])
    pipeline = Pipeline(app, log, clock, watchers=[answers])
    for i, row in enumerate(rows):
        moment = START + i * HALF_HOUR
        clock.move_to(moment)
        values = {name: float(row[name]) for name in FIELDS}
        event = {"slot": str(i), "state": "NSW", "at": to_datetime(moment).isoformat(), **values}
        log.append("market", [json.dumps(event).encode()])
        pipeline.turn()
        if row["class"] == "1":
            end = to_datetime(moment + HALF_HOUR - 1).isoformat()
            clock.move_to(moment + HALF_HOUR - 1)
            log.append("rose", [json.dumps({"slot": str(i), "at": end}).encode()])
            pipeline.turn()
    model = np.array(answers.scores) > 0.5
    rule = [value == label for value, label in zip(answers.last, labels, strict=True) if value is not None]
    return {
        "rows": len(rows),
        "lr": round(float((model == labels).mean()), 6),
        "last": round(sum(rule) / len(rule), 6),
        "published": {"lr": 0.822144, "last": 0.853303},
        "events_per_cpu_s": round(answers.events / (process_seconds() - began)),
    }


class Answers:
    """Keeps what was answered."""

    def __init__(self) -> None:
        self.scores: list[float] = []
        self.last: list[float | None] = []
        self.events = 0

    def turn(self, turn: Turn) -> None:
        """The scores of the model, and the last label as it was served."""
        self.events += len(turn.batch)
        for block in turn.predictions:
            if block.predictor == "price":  # before its first label it says nothing: counted as "down", as River does
                self.scores += [float("nan")] * len(block) if block.score is None else block.score.tolist()
            elif block.predictor == "last":
                self.last += [None if value != value else value for value in block.values[:, 0].tolist()]


if __name__ == "__main__":
    report(experiment)
