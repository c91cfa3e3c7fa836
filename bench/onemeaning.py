"""One meaning: the same events embedded, on Apache Kafka with one partition, and backfilled, with equal hashes.

Card payments and disputes, with repeats, late ones and what cannot be read. `hashes` has for each way one hash of all
predictions with their features, of all label versions, and of the training rows; the cut into blocks is not in them.
Backfilled means: from the journal on Kafka, thousands of batches in one step. `--events` says how many payments.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Producer
from sklearn.ensemble import HistGradientBoostingClassifier

from bench.report import report
from katmatic.clock import ManualClock, SystemClock
from katmatic.engine.plan import compile
from katmatic.engine.step import State, step
from katmatic.log.base import History, Log
from katmatic.log.codec import decode_labels, decode_predictions, encode_labels, encode_predictions
from katmatic.log.kafka import KafkaHistory, KafkaLog
from katmatic.log.memory import MemoryLog
from katmatic.log.sqlite import SqliteLog
from katmatic.measure import FIRST, declared, payments
from katmatic.pipeline import Pipeline
from katmatic.records import LABELS, PREDICTIONS
from katmatic.spec.app import App
from katmatic.training.dataset import read
from tests.kafka_broker import address

EVENTS = 200_000
SPACING = 20_000  # microseconds between two payments
CHUNK = 2_000  # payments that arrive at one moment
HOUR = 3_600_000_000
STEPPED = 2_000  # batches in one step of the backfill

Arrivals = list[tuple[int, str, list[bytes]]]
Send = Callable[[str, list[bytes]], object]


def measure() -> dict[str, Any]:
    """The hashes, and whether they are equal."""
    events = int(sys.argv[sys.argv.index("--events") + 1]) if "--events" in sys.argv else EVENTS
    arrivals, broker = list(_arrivals(events)), address()
    app, name = declared(HistGradientBoostingClassifier()), f"onemeaning{SystemClock().now()}."
    hashes: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as folder, closing(SqliteLog(Path(folder) / "log.db")) as log:
        _run(app, log, arrivals, log.append)
        hashes["embedded"] = _hashes(app, log)
    with closing(KafkaLog(f"kafka://{broker}/{name}", app.name, ("payment", "dispute"))) as kafka:
        producer = Producer({"bootstrap.servers": broker})

        def post(topic: str, values: list[bytes]) -> None:
            for value in values:
                producer.produce(f"{name}{topic}", value)
            assert producer.flush(60) == 0

        _run(app, kafka, arrivals, post)
        hashes["kafka"] = _hashes(app, kafka)
    with closing(KafkaHistory(f"kafka://{broker}/{name}", app.name)) as history:
        hashes["backfilled"] = _hashes(app, _backfilled(app, history))
    return {
        "events": sum(len(values) for _, _, values in arrivals),
        "hashes": hashes,
        "equal": all(found == hashes["embedded"] for found in hashes.values()),
    }


def _arrivals(events: int) -> Iterator[tuple[int, str, list[bytes]]]:
    """(now, topic, values): payments, then the disputes that came with them."""
    random = np.random.default_rng(5)
    values, times = payments(events, FIRST, SPACING)
    for start in range(0, len(values), CHUNK):
        chunk = values[start : start + CHUNK]
        now = int(times[min(start + CHUNK, len(values)) - 1])
        disputed = [value for value in chunk if random.random() < 0.05]
        sent = [again for value in chunk for again in [value] * (2 if random.random() < 0.03 else 1)]
        late = [values[i] for i in random.integers(0, max(start, 1), 20)] if start else []
        yield now, "payment", [*sent, *late, b"{nothing", b""]
        card = [value.split(b",", 1)[0] + b', "at": %f}' % (now / 1e6) for value in disputed]
        yield now, "dispute", card
    yield int(times[-1]) + HOUR, "payment", [b""]


def _run(app: App, log: Log, arrivals: Arrivals, send: Send) -> None:
    clock = ManualClock(FIRST)
    pipeline = Pipeline(app, log, clock)
    for now, topic, values in arrivals:
        clock.move_to(now)
        send(topic, values)
        left = len(values)
        while left > 0:
            left -= len(pipeline.turn(5.0).batch)
    pipeline.turn()


def _backfilled(app: App, history: History) -> MemoryLog:
    """A log with what comes of the batches of another, in a few large steps."""
    plan, made = compile(app), MemoryLog()
    state, batches = State(plan), history.batches()
    while some := list(islice(batches, STEPPED)):
        changes = step(plan, state, *some)
        predictions = [encode_predictions(block) for block, _ in changes.predictions]
        labels = [encode_labels(block) for block, _ in changes.labels]
        made.commit(made.read(some[-1].now, limit=1), {PREDICTIONS: predictions, LABELS: labels})
    return made


def _hashes(app: App, log: History) -> dict[str, str]:
    predictor = next(iter(app.predictors.values()))
    predictions = (decode_predictions(value) for _, value in log.scan(PREDICTIONS))
    labels = (decode_labels(value) for _, value in log.scan(LABELS))
    rows = read(log, app, predictor, 2**62)
    return {
        "predictions": _hash(predictions, ("anchor", "key", "time", "at", "now", "lead", "values", "failed")),
        "labels": _hash(labels, ("anchor", "key", "time", "version", "state", "value", "now", "evidence")),
        "training_rows": rows.digest()[:32] if rows else "",
    }


def _hash(blocks: Iterable[Any], columns: tuple[str, ...]) -> str:
    """Of the columns one after the other, each over all blocks."""
    found = {name: hashlib.sha256() for name in columns}
    for block in blocks:
        for name in columns:
            column = getattr(block, name)
            found[name].update(
                column.tobytes() if isinstance(column, np.ndarray) else "".join(map(repr, column)).encode()
            )
    return hashlib.sha256(b"".join(each.digest() for each in found.values())).hexdigest()[:32]


if __name__ == "__main__":
    report(measure)
