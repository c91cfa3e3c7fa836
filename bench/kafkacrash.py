"""SIGKILL of the worker and of Apache Kafka's broker in turns, in mid-stream: `kills, lost, duplicated, different`.

A producer posts on while they fall. In the end every event that the broker has acknowledged must have been applied
once, and predictions and label versions must be those of one undisturbed life, which the journal gives: `different`
counts rows that are not. `--kills` says how often. The broker is always one of its own.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterable
from contextlib import closing
from datetime import UTC
from itertools import zip_longest
from pathlib import Path
from typing import Any

from confluent_kafka import Producer
from sklearn.ensemble import HistGradientBoostingClassifier

from bench.report import report
from katmatic.clock import SystemClock, monotonic_seconds, sleep, to_datetime
from katmatic.engine.plan import compile
from katmatic.engine.step import State, step
from katmatic.log.codec import decode_labels, decode_predictions
from katmatic.log.kafka import KafkaHistory
from katmatic.measure import declared
from katmatic.records import LABELS, PREDICTIONS, LabelBlock, PredictionBlock
from tests.kafka_broker import Broker

KILLS = 20
SEED = 11
NEW_EVENTS = 100  # applied after a kill before the next one comes
PAUSE_SECONDS = 0.5  # and at most so much later
PATIENCE_SECONDS = 90.0
ROOT = Path(__file__).parents[1]
APP = "from sklearn.ensemble import HistGradientBoostingClassifier\n\nfrom katmatic.measure import declared\n\n"


class Worker:
    """`katmatic run`, to be killed and started again."""

    def __init__(self, folder: Path, log: str) -> None:
        app = folder / "app.py"
        app.write_text(f"{APP}app = declared(HistGradientBoostingClassifier())\n", "utf-8")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._command = [sys.executable, "-m", "katmatic", "run", str(app), "--data", str(folder / "data")]
        self._command += ["--log", log, "--port", str(self._port), "--no-training"]
        self._env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        self._said = folder / "said.txt"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(self._command, env=self._env, stderr=said)

    def end(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        code = self._process.wait(PATIENCE_SECONDS)
        assert code in (0, -number), self._said.read_text("utf-8", "replace")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE_SECONDS)

    def events(self, at_least: int) -> dict[str, int]:
        """What became of the events, as soon as there are so many."""
        deadline = monotonic_seconds() + PATIENCE_SECONDS
        found: dict[str, int] = {}
        while found.get("events", -1) < at_least:
            assert monotonic_seconds() < deadline, f"it never came to {at_least} events: {found}"
            assert self._process is not None
            assert self._process.poll() is None, self._said.read_text("utf-8", "replace")
            sleep(0.02)
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/v1/status", timeout=10) as answer:
                    found = json.load(answer)["events"]
            except OSError:
                continue
        return found


class Post(threading.Thread):
    """A careful producer: it sends again what the broker has not acknowledged, and nothing twice."""

    def __init__(self, servers: str) -> None:
        super().__init__(daemon=True)
        options: dict[str, Any] = {"bootstrap.servers": servers, "enable.idempotence": True, "log_level": 0}
        self._producer = Producer({**options, "linger.ms": 1, "reconnect.backoff.max.ms": 500})
        self.sent = 0
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.wait(0.002):
            now = to_datetime(SystemClock().now()).astimezone(UTC).isoformat()
            event = {"card": f"C{self.sent % 50}", "category": "K1", "amount": float(self.sent), "at": now}
            self._producer.produce("payment", json.dumps(event).encode())
            self._producer.poll(0)
            self.sent += 1
        assert self._producer.flush(PATIENCE_SECONDS) == 0


def measure() -> dict[str, Any]:
    """The figures; all but `kills` and `events` must be 0."""
    kills = int(sys.argv[sys.argv.index("--kills") + 1]) if "--kills" in sys.argv else KILLS
    with tempfile.TemporaryDirectory() as folder:
        broker = Broker(Path(folder) / "broker")
        broker.start()
        worker, post = Worker(Path(folder), f"kafka://{broker.address}"), Post(broker.address)
        worker.start()
        try:
            worker.events(0)
            post.start()
            _kill(kills, worker, broker)
            post.stop.set()
            post.join(PATIENCE_SECONDS)
            counts = worker.events(post.sent)
            worker.end(signal.SIGTERM)
            found = _judged(f"kafka://{broker.address}", post.sent, counts)
        except BaseException:
            worker.kill()
            raise
        finally:
            broker.kill()
    return {"kills": kills, "events": post.sent, **found}


def _kill(kills: int, worker: Worker, broker: Broker) -> None:
    rng = random.Random(SEED)
    for turn in range(kills):
        worker.events(worker.events(0)["events"] + NEW_EVENTS)
        sleep(rng.random() * PAUSE_SECONDS)
        if turn % 2:
            broker.kill()
            broker.start()
        else:
            worker.end(signal.SIGKILL)
            worker.start()


def _judged(log: str, sent: int, counts: dict[str, int]) -> dict[str, int]:
    app = declared(HistGradientBoostingClassifier())
    plan = compile(app)
    state, amounts = State(plan), list[int]()
    predictions, labels = list[str](), list[str]()
    with closing(KafkaHistory(log, app.name)) as history:
        for batch in history.batches():
            amounts += [int(json.loads(v)["amount"]) for s in batch.slices if s.topic == "payment" for v in s.values]
            changes = step(plan, state, batch)
            predictions += _rows(block for block, _ in changes.predictions)
            labels += _rows(block for block, _ in changes.labels)
        predicted = _rows(decode_predictions(value) for _, value in history.scan(PREDICTIONS))
        labelled = _rows(decode_labels(value) for _, value in history.scan(LABELS))
    assert counts["events"] == counts["applied"] + counts["late"] + counts["dead"] + counts["duplicate"]
    return {
        "lost": len(set(range(sent)) - set(amounts)),
        "duplicated": len(amounts) - len(set(amounts)),
        "different": sum(a != b for a, b in zip_longest(predicted + labelled, predictions + labels)),
    }


def _rows(blocks: Iterable[PredictionBlock | LabelBlock]) -> list[str]:
    return [repr(block.row(i)) for block in blocks for i in range(len(block))]


if __name__ == "__main__":
    report(measure)
