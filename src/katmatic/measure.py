"""What this machine can do: from the JSON of an event to its logged prediction, through the whole durable path."""

from __future__ import annotations

import json
import tempfile
import threading
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from katmatic.clock import ManualClock, SystemClock, monotonic_seconds, process_seconds, sleep
from katmatic.log.base import Log
from katmatic.log.codec import encode
from katmatic.log.sqlite import SqliteLog
from katmatic.memory import Collector, quick_switches
from katmatic.pipeline import BATCH_LIMIT, Pipeline, Turn
from katmatic.records import MODELS, ModelVersion, PredictionBlock
from katmatic.spec import future, past
from katmatic.spec.app import App
from katmatic.spec.event import Event, Key, Time

CARDS, CATEGORIES = 50_000, 12
ZIPF = 1.05  # how unequal the cards are
FIRST = 1_700_000_000_000_000  # the moment of the first payment
SPACING = 1_000_000  # microseconds between two of them
WARM_EVENTS = 20_000  # to learn a model from, before anything is measured
RATE = 1_000  # events a second, one at a time


class Payment(Event):
    """A card is asked to pay."""

    card: Key
    category: Key
    amount: float
    at: Time


class Dispute(Event):
    """A payment was disputed."""

    card: Key
    at: Time


def declared(model: Any) -> App:
    """Card payments with 15 exact features over 1 h, 24 h and 7 d, and whether they will be disputed."""
    app = App("cards")
    app.source(Payment, lateness="10m", horizon="2h", duplicates="10m")
    app.source(Dispute, horizon="10m")
    app.predict("disputed", future.any(Dispute, per=Payment, within="1m"), features=features(), model=model)
    return app


def features() -> dict[str, Any]:
    """The 15 features of a payment."""
    found: dict[str, Any] = {"amount": Payment.amount}
    for window in ("1h", "24h", "7d"):
        found[f"count_{window}"] = past.count(Payment, window, by=Payment.card)
        found[f"sum_{window}"] = past.sum(Payment.amount, window, by=Payment.card)
        found[f"mean_{window}"] = past.mean(Payment.amount, window, by=Payment.card)
        found[f"max_{window}"] = past.max(Payment.amount, window, by=Payment.card)
    found["since"] = past.since(Payment, by=Payment.card)
    found["category_24h"] = past.count(Payment, "24h", by=(Payment.card, Payment.category))
    return found


def payments(events: int, first: int, spacing: int, seed: int = 1) -> tuple[list[bytes], NDArray[np.int64]]:
    """Payments as JSON, and their times: `spacing` microseconds apart from `first` on."""
    random = np.random.default_rng(seed)
    weight = 1 / np.arange(1, CARDS + 1) ** ZIPF
    cards = random.choice(CARDS, events, p=weight / weight.sum()).tolist()
    categories = random.integers(0, CATEGORIES, events).tolist()
    amounts = np.round(random.lognormal(3, 1, events), 2).tolist()
    times = first + np.arange(events, dtype=np.int64) * spacing
    values = [
        json.dumps({"card": f"C{card:06}", "category": f"K{category}", "amount": amount, "at": time / 1e6}).encode()
        for card, category, amount, time in zip(cards, categories, amounts, times.tolist(), strict=True)
    ]
    return values, times


def throughput(events: int, *, trees: int = 0) -> dict[str, Any]:
    """Events per second of CPU (all threads) and of the clock, in batches: JSON, log, features, score, log.

    The model is linear, or so many boosted trees.
    """
    warm, warm_times = payments(WARM_EVENTS, FIRST, SPACING)
    values, times = payments(events, FIRST + WARM_EVENTS * SPACING, SPACING, seed=2)
    clock = ManualClock(FIRST)
    with tempfile.TemporaryDirectory() as folder, ready(Path(folder), clock, warm, warm_times, trees=trees) as pipeline:
        predictions = 0
        began, cpu = monotonic_seconds(), process_seconds()
        for start in range(0, events, BATCH_LIMIT):
            stop = min(start + BATCH_LIMIT, events)
            clock.move_to(int(times[stop - 1]))
            pipeline.log.append("payment", values[start:stop])
            predictions += sum(int(is_scored(block).sum()) for block in pipeline.turn().predictions)
        cpu, seconds = process_seconds() - cpu, monotonic_seconds() - began
        counts = pipeline.state.store.counts
        assert counts["events"] == counts["applied"] == events + WARM_EVENTS
        assert predictions == events
    return {
        "events": events,
        "predictions": predictions,
        "events_per_cpu_s": round(events / cpu),
        "events_per_s": round(events / seconds),
    }


def latency(seconds: float, rate: int = RATE) -> dict[str, Any]:
    """Milliseconds from the moment an event was due to arrive until its prediction is durable, one event at a time.

    It counts from the moment the schedule says, so that a wait that delays the next events is counted for these, too.
    """
    events = max(1, round(seconds * rate))
    clock = SystemClock()
    spacing = 1_000_000 // rate
    warm, warm_times = payments(WARM_EVENTS, clock.now() - WARM_EVENTS * spacing, spacing)
    with tempfile.TemporaryDirectory() as folder, ready(Path(folder), clock, warm, warm_times) as pipeline:
        values, _ = payments(events, clock.now(), spacing, seed=2)
        durable = Durable()
        pipeline.watchers.append(durable)
        with turning(pipeline):
            due = monotonic_seconds() + 0.05 + np.arange(events) / rate
            appended = []
            for moment, value in zip(due.tolist(), values, strict=True):
                sleep(moment - monotonic_seconds())
                appended.append(pipeline.log.append("payment", [value]))
            places = [future.result(60).start for future in appended]
            pipeline.log.append("payment", [values[-1]]).result(60)  # so that the turn before it has been told
    moments = durable.at
    took = np.array([moments[place] for place in places]) - due
    p50, p99, p999 = (1000 * np.quantile(took, (0.5, 0.99, 0.999))).round(3).tolist()
    return {"rate": rate, "p50_ms": p50, "p99_ms": p99, "p999_ms": p999}


@contextmanager
def turning(pipeline: Pipeline) -> Iterator[None]:
    """Within it, a thread takes the pipeline's turns, as that of a runtime does."""
    stop = threading.Event()

    def work() -> None:
        with Collector() as collector, quick_switches():
            while not stop.is_set():
                turn = pipeline.turn(0.1)
                collector.turn(worked=len(turn.batch) > 0)

    worker = threading.Thread(target=work, name="pipeline")
    worker.start()
    try:
        yield
    finally:
        stop.set()
        worker.join()


class Durable:
    """A watcher that notes when the prediction of each event was durable, at little cost to what is measured."""

    def __init__(self) -> None:
        self._places, self._moments = array("q"), array("d")

    def __len__(self) -> int:
        return len(self._places)

    @property
    def at(self) -> dict[int, float]:
        """The moment of each, by the position of its event."""
        return dict(zip(self._places, self._moments, strict=True))

    def turn(self, turn: Turn) -> None:
        """Note the predictions of a turn."""
        now = monotonic_seconds()
        for block in turn.predictions:
            if block.score is not None:
                found = zip(block.anchors(), block.score.tolist(), strict=True)
                places = [place for place, score in found if score == score]
                self._places.extend(places)
                self._moments.extend([now] * len(places))


@contextmanager
def ready(
    folder: Path, clock: Any, warm: list[bytes], times: NDArray[np.int64], log: Log | None = None, *, trees: int = 0
) -> Iterator[Pipeline]:
    """A pipeline on a durable log; its model (linear, or so many trees) has learnt from the first payments."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from katmatic.training.dataset import Dataset
    from katmatic.training.export import export

    model = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression())
    if trees:
        model = HistGradientBoostingClassifier(max_iter=trees, early_stopping=False)
    log = log or SqliteLog(folder / "log.db", moves_beside=True)
    pipeline = Pipeline(declared(model), log, clock)
    blocks: list[PredictionBlock] = []
    for start in range(0, len(warm), BATCH_LIMIT):
        if isinstance(clock, ManualClock):
            clock.move_to(int(times[min(start + BATCH_LIMIT, len(warm)) - 1]))
        log.append("payment", warm[start : start + BATCH_LIMIT])
        blocks += pipeline.turn().predictions
    n = sum(len(block) for block in blocks)
    label = (np.random.default_rng(3).random(n) < 0.1).astype(np.float64)
    rows = Dataset(
        columns=blocks[0].columns,
        anchor=np.concatenate([block.anchor for block in blocks]),
        key=[key for block in blocks for key in block.key],
        at=np.concatenate([block.at for block in blocks]),
        values=np.concatenate([block.values for block in blocks]),
        texts={},
        label=label,
        label_now=np.zeros(n, np.int64),
        weight=np.ones(n),
        score=np.full(n, np.nan),
        tables={},
    )
    model.fit(rows.matrix(), label)
    kind = export(model, rows, folder / "model", is_binary=True, about={})
    assert kind == ("trees" if trees else "linear")
    version = ModelVersion(
        predictor="disputed", version=1, action="promoted", reason="", now=clock.now(), artifact=str(folder / "model")
    )
    log.append(MODELS, [encode(version)])
    pipeline.turn()
    try:
        yield pipeline
    finally:
        log.close()


def is_scored(block: PredictionBlock) -> NDArray[np.bool_]:
    """Which rows have a score; none before there is a model."""
    found: NDArray[np.bool_] = np.zeros(len(block), np.bool_) if block.score is None else np.isfinite(block.score)
    return found
