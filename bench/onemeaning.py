"""One meaning: the same events embedded, on Apache Kafka with one partition and with four, and backfilled.

Card payments and disputes, with repeats, late ones and what cannot be read. `hashes` has for each way one hash of all
predictions with their features, of all label versions, and of the training rows, whatever the order in which the cards
came: with four partitions, that is not decided before. `positions` has hashes with the order and each anchor's
position, for the ways that have one order. Backfilled means: from the journal of the topics with four partitions,
thousands of batches in one step. `--events` says how many payments.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from numpy.typing import NDArray
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
from tests.poster import Poster

EVENTS = 200_000
SPACING = 20_000  # microseconds between two payments
CHUNK = 2_000  # payments that arrive at one moment
HOUR = 3_600_000_000
STEPPED = 2_000  # batches in one step of the backfill
TOPICS = ("payment", "dispute")

Arrivals = list[tuple[int, str, list[bytes]]]
Send = Callable[[str, list[bytes]], object]


def measure() -> dict[str, Any]:
    """The hashes, and whether they are equal."""
    events = int(sys.argv[sys.argv.index("--events") + 1]) if "--events" in sys.argv else EVENTS
    arrivals, broker = list(_arrivals(events)), address()
    app, name = declared(HistGradientBoostingClassifier()), f"onemeaning{SystemClock().now()}."
    hashes: dict[str, dict[str, str]] = {}
    positions: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder, closing(SqliteLog(Path(folder) / "log.db")) as log:
        _run(app, log, arrivals, log.append)
        hashes["embedded"] = _hashes(app, log)
        positions["embedded"] = _positions(log)
    for way, partitions in (("kafka", 1), ("kafka, four partitions", 4)):
        place = f"kafka://{broker}/{name}{partitions}."
        _make_topics(broker, [f"{name}{partitions}.{topic}" for topic in TOPICS], partitions)
        with closing(KafkaLog(place, app.name, TOPICS)) as kafka:
            _run(app, kafka, arrivals, _Producer(broker, f"{name}{partitions}."))
            hashes[way] = _hashes(app, kafka)
            if partitions == 1:
                positions[way] = _positions(kafka)
            else:
                mixed = _positions(kafka)
    with closing(KafkaHistory(place, app.name)) as history:
        backfilled = _backfilled(app, history)
    hashes["backfilled"] = _hashes(app, backfilled)
    return {
        "events": sum(len(values) for _, _, values in arrivals),
        "hashes": hashes,
        "positions": positions,
        "equal": all(found == hashes["embedded"] for found in hashes.values())
        and positions["kafka"] == positions["embedded"]
        and _positions(backfilled) == mixed,
    }


def _make_topics(broker: str, names: Sequence[str], partitions: int) -> None:
    client = AdminClient({"bootstrap.servers": broker})
    for future in client.create_topics([NewTopic(name, partitions, 1) for name in names]).values():
        future.result()


class _Producer:
    """Posts as a user's producer does: by card, which decides the partition."""

    def __init__(self, broker: str, prefix: str) -> None:
        self._poster, self._prefix = Poster(broker), prefix

    def __call__(self, topic: str, values: list[bytes]) -> None:
        for value in values:
            self._poster.post(f"{self._prefix}{topic}", value, key=value.partition(b",")[0])
        self._poster.flush()


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
    """Of what was made, in an order of its own: by moment, key and time."""
    rows = read(log, app, next(iter(app.predictors.values())), 2**62)
    assert rows is not None
    ordered = rows.take(np.lexsort((np.array(rows.key)[:, 0], rows.at)))
    return {
        "predictions": _hash(
            ("now", "key", "time", "at", "lead", "values", "failed"), map(_columns, _predictions(log)), is_sorted=True
        ),
        "labels": _hash(
            ("now", "key", "time", "version", "state", "value", "evidence"), map(_columns, _labels(log)), is_sorted=True
        ),
        "training_rows": replace(ordered, anchor=np.zeros_like(ordered.anchor)).digest()[:32],
    }


def _positions(log: History) -> str:
    """Of the order in which all of it was made, with the position of each anchor."""
    columns = ("anchor", "key", "now")
    return _hash(columns, map(_columns, chain(_predictions(log), _labels(log))), is_sorted=False)


def _predictions(log: History) -> Iterator[Any]:
    return (decode_predictions(value) for _, value in log.scan(PREDICTIONS))


def _labels(log: History) -> Iterator[Any]:
    return (decode_labels(value) for _, value in log.scan(LABELS))


def _hash(names: tuple[str, ...], blocks: Iterable[dict[str, NDArray[Any]]], *, is_sorted: bool) -> str:
    """Of the columns one after the other, each over all blocks; sorted by the first four."""
    made = list(blocks)
    columns = {name: np.concatenate([block[name] for block in made]) for name in names}
    order = np.arange(len(columns["now"]))
    if is_sorted:
        order = np.lexsort([columns[name] for name in reversed(names[:4])])
    return hashlib.sha256(b"".join(np.ascontiguousarray(c[order]).tobytes() for c in columns.values())).hexdigest()[:32]


def _columns(block: Any) -> dict[str, NDArray[Any]]:
    keys = np.array(["/".join(key) for key in block.key], dtype="U32")
    return {**{name: value for name, value in vars(block).items() if isinstance(value, np.ndarray)}, "key": keys}


if __name__ == "__main__":
    report(measure)
