"""A training set of 1,000,000 rows of 10 features from a log of 10,000,000 raw events, as a training reads it.

Of ten million events on the embedded log nine are clicks and one in ten is a payment, about which the pipeline was
asked. The features are read as they were served, from the predictions in the log, and joined with the newest versions
of their labels, as known at the end: that is the product's own way, the same for `katmatic train`, and for a log that
was archived. Nothing is computed anew from the raw events, so there is no skew; they are in the log, and are not read.
`seconds` and `cpu_seconds` include the matrix that a model is fitted on; `peak_gb` is all of the process that reads,
which is a new one. `filled_seconds`, in which the log is made by the engine itself, is not part of it.

`equal` compares a sample of the rows with what was served, and `digest` names the whole.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from bench.report import report
from katmatic import App, Event, Key, Time, future, past
from katmatic.clock import ManualClock, monotonic_seconds, process_seconds
from katmatic.log.codec import decode_predictions
from katmatic.log.sqlite import SqliteLog, open_readonly
from katmatic.pipeline import Pipeline
from katmatic.records import PREDICTIONS
from katmatic.training.dataset import read

EVENTS, EACH = 10_000_000, 10  # one in so many is a payment
USERS = 100_000
BATCH = 20_000
START = 1_700_000_000_000_000
SPACING = 100_000  # microseconds between two events
SAMPLE = 50  # blocks


class Click(Event):
    """Somebody looks at something."""

    user: Key
    price: float
    at: Time


class Payment(Event):
    """Somebody pays."""

    user: Key
    price: float
    at: Time


class Model:
    """Never asked."""

    def fit(self, x: Any, y: Any) -> None:
        """Nothing to learn."""

    def predict_proba(self, x: Any) -> Any:
        """Nothing to say."""


app = App("trainingset")
app.source(Click, lateness="1m", horizon="1h", duplicates="1m")
app.source(Payment, lateness="1m", horizon="1h", duplicates="1m")
comes_back = future.any(Click, per=Payment, within="1h")
app.predict(
    "comes_back",
    comes_back,
    features={
        "price": Payment.price,
        **{f"clicks_{w}": past.count(Click, w, by=Payment.user) for w in ("1h", "6h", "24h")},
        **{f"seen_{w}": past.mean(Click.price, w, by=Payment.user) for w in ("1h", "6h", "24h")},
        "most_24h": past.max(Click.price, "24h", by=Payment.user),
        "since_click": past.since(Click, "24h", by=Payment.user),
        "since_payment": past.since(Payment, "24h", by=Payment.user),
    },
    model=Model(),
)


def fill(path: Path, events: int) -> int:
    """Let a pipeline live through so many events, and some hours after; the moment at which it ends."""
    random, clock = np.random.default_rng(1), ManualClock(START)
    with closing(SqliteLog(path)) as log:
        pipeline = Pipeline(app, log, clock)
        for first in range(0, events, BATCH):
            numbers = range(first, min(first + BATCH, events))
            users = random.integers(0, USERS, len(numbers)).tolist()
            prices = np.round(random.lognormal(3, 1, len(numbers)), 2).tolist()
            values: dict[str, list[bytes]] = {"click": [], "payment": []}
            for number, user, price in zip(numbers, users, prices, strict=True):
                at = (START + number * SPACING) / 1e6
                topic = "payment" if number % EACH == EACH - 1 else "click"
                values[topic].append(b'{"user": "U%06d", "price": %r, "at": %.1f}' % (user, price, at))
            clock.move_to(START + numbers[-1] * SPACING)
            for topic, some in values.items():
                log.append(topic, some)
            turn = pipeline.turn(limit=BATCH)
            assert turn.changes.counts["applied"] == len(numbers)
        clock.move_to(clock.now() + 7_200_000_000)
        pipeline.drain()
    return clock.now()


def gathered(path: str, now: int) -> dict[str, Any]:
    """Read the training set, and the matrix of it."""
    with closing(open_readonly(path)) as log:
        began, cpu = monotonic_seconds(), process_seconds()
        rows = read(log, app, app.predictors["comes_back"], now)
        assert rows is not None
        rows = rows.with_tables()
        matrix = rows.matrix()
        seconds, cpu = monotonic_seconds() - began, process_seconds() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        place = {anchor: i for i, anchor in enumerate(rows.anchor.tolist())}
        equal = True
        every = max(1, log.end(PREDICTIONS) // SAMPLE)
        for position, value in log.scan(PREDICTIONS):
            if position % every == 0:
                block = decode_predictions(value)
                mine = [place[anchor] for anchor in block.anchor.tolist()]
                equal = equal and np.array_equal(matrix[mine], block.values, equal_nan=True)
    return {
        "rows": len(rows),
        "features": matrix.shape[1],
        "positives": int(rows.label.sum()),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "peak_gb": round(peak, 2),
        "equal": equal,
        "digest": rows.digest()[:16],
    }


def measure() -> dict[str, Any]:
    """The figures."""
    events = int(sys.argv[sys.argv.index("--events") + 1]) if "--events" in sys.argv else EVENTS
    with tempfile.TemporaryDirectory() as folder:
        path, began = Path(folder) / "log.db", monotonic_seconds()
        now = fill(path, events)
        filled = round(monotonic_seconds() - began, 1)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found = pool.apply(gathered, (str(path), now))
    return {"events": events, **found, "filled_seconds": filled}


if __name__ == "__main__":
    report(measure)
