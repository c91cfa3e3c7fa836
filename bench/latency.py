"""From the event to its durable prediction at 2,000 events a second, in a running pipeline: `p50_ms, p99_ms, p999_ms`.

The runtime of `katmatic run` with its log, checkpoints, live quality, proof and trainer, and card payments that come,
each at its moment: JSON in, 15 exact features, the prediction logged, the commit synced. It counts from the moment the
schedule says, so that a wait that delays the next events is counted for these, too, until the commit that holds the
prediction is durable and the sender is told so; afterwards the log is read to see that each is there. A first model has
been learnt before. `while_training`: the same while one training follows the other, each in a process beside it, and
the new model answers next (`swaps`).

A payment is there from its moment on, when the thread that answers asks for what came, as in the buffer of a client
that is polled, like Kafka's: who sends is never late. With `--threaded` a thread of the same process hands them in, as
one that serves HTTP does: it needs a core and Python's lock for each, and how late it is itself counts, too.
`--seconds` says how long each of the two parts takes (600), `--rate` how many a second. `p99_ms_by_minute` says whether
it takes longer the longer it runs.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from bench.report import report
from katmatic.clock import monotonic_seconds, sleep
from katmatic.log.base import Batch, Log
from katmatic.log.codec import decode_predictions
from katmatic.log.sqlite import open_readonly
from katmatic.measure import payments
from katmatic.pipeline import Turn
from katmatic.records import PREDICTIONS
from katmatic.runtime import Runtime, load_app
from katmatic.settings import Settings

SECONDS, RATE = 600.0, 2_000
SETTLED_SECONDS = 3.0  # after a first model has begun to answer
EVERY = "10s"  # between two trainings, which take longer
KINDS = 100_000  # of payments, made ahead, which come again and again
PATIENCE_SECONDS = 300.0
PREDICTOR = "disputed"
DISPUTED = 0.05  # of the payments, the largest: so a model has something to learn, and the next one takes over
APP = """from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from katmatic import App, Promote, Retrain, future
from katmatic.measure import Dispute, Payment, features

app = App("cards")
app.source(Payment, lateness="1s", horizon="2h", duplicates="10m")
app.source(Dispute, lateness="1s", horizon="10m")
app.predict(
    "disputed",
    future.any(Dispute, per=Payment, within="2s"),
    features=features(),
    model=make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()),
    retrain=Retrain(rows=5_000, history="2m", every=EVERY),
    promote=Promote(margin=-10.0),  # whatever comes answers next
)
"""


class Swaps:
    """A watcher that notes when another version began to answer."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def turn(self, turn: Turn) -> None:
        """Note who was promoted in a turn."""
        self.at += [monotonic_seconds() for record in turn.models if record.action == "promoted"]


class Load:
    """Hands in payments, each at its moment, and disputes of some of them; when each was due, and kept."""

    def __init__(self, runtime: Runtime, rate: int) -> None:
        self._log, self._rate = runtime.log, rate
        made = [json.loads(value) for value in payments(KINDS, 0, 0)[0]]  # all but their times
        large = float(np.quantile([each["amount"] for each in made], 1 - DISPUTED))
        self._kinds = [
            (_untimed(each, "card", "category", "amount"), _untimed(each, "card") if each["amount"] > large else None)
            for each in made
        ]
        self._spacing = 1_000_000 // rate
        self._began, self._offset = monotonic_seconds() + 1.0, runtime.clock.now() + 1_000_000
        self.due: list[float] = []
        self.kept: list[tuple[int, float]] = []  # the position of each, and when it and its prediction were durable
        self.is_over = False

    @property
    def next_due(self) -> float:
        """When the next payment is to come."""
        return self._began + len(self.due) / self._rate

    def hand_in(self) -> None:
        """The next payment comes."""
        i, moment = len(self.due), self.next_due
        payment, dispute = self._kinds[i % KINDS]
        at = self._offset + i * self._spacing
        self.due.append(moment)
        self._log.append("payment", [payment % divmod(at, 10**6)]).add_done_callback(
            lambda done: self.kept.append((done.result().start, monotonic_seconds()))
        )
        if dispute is not None:
            self._log.append("dispute", [dispute % divmod(at + 1, 10**6)])

    def run(self) -> None:
        """Hand them in, each at its moment, until it `is_over`."""
        while not self.is_over:
            sleep(self.next_due - monotonic_seconds())
            self.hand_in()


class Buffer:
    """In front of the log, as the client of a source would be: what has come is there when the log is read."""

    def __init__(self, load: Load, log: Log) -> None:
        self._load, self._wait, self._read = load, log.wait, log.read

    def wait(self, timeout: float) -> bool:
        """Until the next payment is due."""
        if self._load.is_over:
            return self._wait(timeout)
        sleep(min(timeout, self._load.next_due - monotonic_seconds()))
        return True

    def read(self, now: int, *, limit: int) -> Batch:
        """The log, once it has got what was due."""
        while not self._load.is_over and self._load.next_due <= monotonic_seconds():
            self._load.hand_in()
        return self._read(now, limit=limit)


def _untimed(event: dict[str, Any], *names: str) -> bytes:
    """An event as JSON, its time to be filled in: seconds and microseconds."""
    return json.dumps({name: event[name] for name in names}).encode()[:-1] + b', "at": %d.%06d}'


def run(seconds: float, rate: int, every: str | None, *, is_threaded: bool = False) -> tuple[dict[str, Any], int]:
    """Quantiles over so many seconds in which a model answers, and how often another one began to."""
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "app.py"
        file.write_text(APP.replace("EVERY", repr(every)), "utf-8")
        swaps, stop = Swaps(), threading.Event()
        with Runtime(load_app(file), file, Settings(data=f"{name}/data"), proves=True) as runtime:
            runtime.pipeline.watchers.append(swaps)
            load = Load(runtime, rate)
            threads = [threading.Thread(target=runtime.work, args=(stop,), name="pipeline")]
            if is_threaded:
                threads.append(threading.Thread(target=load.run, name="load"))
            else:
                buffer = Buffer(load, runtime.log)
                vars(runtime.log).update(wait=buffer.wait, read=buffer.read)
            for thread in threads:
                thread.start()
            try:
                deadline = monotonic_seconds() + PATIENCE_SECONDS
                while not swaps.at:
                    assert monotonic_seconds() < deadline, "no model was learnt"
                    sleep(0.1)
                sleep(SETTLED_SECONDS)
                first, swapped = len(load.due), len(swaps.at)
                sleep(seconds)
                last, swapped = len(load.due), len(swaps.at) - swapped
            finally:
                load.is_over = True
                sleep(SETTLED_SECONDS)
                stop.set()
                for thread in threads:
                    thread.join()
        assert len(load.kept) == len(load.due)
        places, at = zip(*load.kept[first:last], strict=True)
        assert answered(Path(name) / "data" / "log.db") >= set(places)
        took = 1000 * (np.array(at) - np.array(load.due[first:last]))
    p50, p99, p999 = np.quantile(took, (0.5, 0.99, 0.999)).round(3).tolist()
    minutes = [took[i : i + 60 * rate] for i in range(0, len(took), 60 * rate)]
    return {
        "events": last - first,
        "p50_ms": p50,
        "p99_ms": p99,
        "p999_ms": p999,
        "max_ms": round(took.max(), 1),
        "p99_ms_by_minute": [round(float(np.quantile(minute, 0.99)), 2) for minute in minutes],
    }, swapped


def answered(log: Path) -> set[int]:
    """The positions of the events of which a log holds an answer of a model's."""
    found: set[int] = set()
    with closing(open_readonly(log)) as history:
        for _, value in history.scan(PREDICTIONS):
            block = decode_predictions(value)
            if block.score is not None:
                found.update(block.anchor[~np.isnan(block.score)].tolist())
    return found


def measure() -> dict[str, Any]:
    """Quantiles while nothing is trained, and while trainings follow each other."""
    seconds, rate, is_threaded = given("--seconds", SECONDS), int(given("--rate", RATE)), "--threaded" in sys.argv
    calm, _ = run(seconds, rate, None, is_threaded=is_threaded)
    busy, swaps = run(seconds, rate, EVERY, is_threaded=is_threaded)
    return {"rate": rate, "threaded": is_threaded, **calm, "while_training": {**busy, "swaps": swaps}}


def given(name: str, default: float) -> float:
    """A number from the command line."""
    return float(sys.argv[sys.argv.index(name) + 1]) if name in sys.argv else default


if __name__ == "__main__":
    report(measure)
