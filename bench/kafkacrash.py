"""SIGKILL of the worker and of Apache Kafka's broker in turns, in mid-stream: `kills, lost, duplicated, different`.

A producer posts on while they fall. In the end every event that the broker has acknowledged must have been applied
once, and predictions and label versions must be those of one undisturbed life, which the journal gives: `different`
counts rows that are not. `--kills` says how often. The broker is always one of its own.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import tempfile
import threading
from contextlib import closing
from datetime import UTC
from pathlib import Path
from typing import Any

from confluent_kafka import Producer
from sklearn.ensemble import HistGradientBoostingClassifier

from bench.report import report
from katmatic.clock import SystemClock, sleep, to_datetime
from katmatic.log.kafka import KafkaHistory
from katmatic.measure import declared
from tests.disturbed import judged
from tests.kafka_broker import Broker
from tests.program import Program

KILLS = 20
SEED = 11
NEW_EVENTS = 100  # applied after a kill before the next one comes
PAUSE_SECONDS = 0.5  # and at most so much later
AHEAD = 3_000  # events posted and not applied, at most: a slow machine is not to read ever more again
PATIENCE_SECONDS = 90.0
APP = """from sklearn.ensemble import HistGradientBoostingClassifier

from katmatic.measure import declared

app = declared(HistGradientBoostingClassifier())
"""


class Post(threading.Thread):
    """A careful producer: it sends again what the broker has not acknowledged, and nothing twice."""

    def __init__(self, servers: str) -> None:
        super().__init__(daemon=True)
        options: dict[str, Any] = {"bootstrap.servers": servers, "enable.idempotence": True, "log_level": 0}
        self._producer = Producer({**options, "linger.ms": 1, "reconnect.backoff.max.ms": 500})
        self.sent: list[tuple[str, dict[str, object]]] = []  # topic, event
        self.applied = 0  # of them, as far as is known
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.wait(0.002):
            if len(self.sent) - self.applied >= AHEAD:
                continue
            number, now = len(self.sent), to_datetime(SystemClock().now()).astimezone(UTC).isoformat()
            event = {"card": f"C{number % 50}", "category": "K1", "amount": float(number), "at": now}
            self._producer.produce("payment", json.dumps(event).encode())
            self._producer.poll(0)
            self.sent.append(("payment", event))
        assert self._producer.flush(PATIENCE_SECONDS) == 0


def measure() -> dict[str, Any]:
    """The figures; `lost`, `duplicated` and `different` must be 0."""
    kills = int(sys.argv[sys.argv.index("--kills") + 1]) if "--kills" in sys.argv else KILLS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "app.py").write_text(APP, "utf-8")
        broker = Broker(folder / "broker")
        broker.start()
        log = f"kafka://{broker.address}"
        worker = Program(
            "run", folder / "app.py", "--data", "data", "--log", log, "--no-training", said=folder / "said.txt",
            environment={"KATMATIC_PROOF": "false"},
        )  # fmt: skip
        post = Post(broker.address)
        worker.start()
        try:
            _events(worker, 0)
            post.start()
            _kill(kills, worker, broker, post)
            post.stop.set()
            post.join(PATIENCE_SECONDS)
            counts = _events(worker, len(post.sent))
            assert counts["conserved"]
            worker.end()
            app = declared(HistGradientBoostingClassifier())
            with closing(KafkaHistory(log, app.name)) as history:
                found = judged(app, history, post.sent)
        except BaseException:
            worker.end(signal.SIGKILL)
            raise
        finally:
            broker.kill()
    return {"kills": kills, **found}


def _events(worker: Program, at_least: int) -> dict[str, int]:
    """What became of the events, as soon as there are so many."""
    found: dict[str, int] = worker.until(lambda status: status["events"]["events"] >= at_least)["events"]
    return found


def _kill(kills: int, worker: Program, broker: Broker, post: Post) -> None:
    rng = random.Random(SEED)
    for turn in range(kills):
        before = post.applied = _events(worker, 0)["events"]
        post.applied = _events(worker, before + NEW_EVENTS)["events"]
        sleep(rng.random() * PAUSE_SECONDS)
        if turn % 2:
            broker.kill()
            broker.start()
        else:
            worker.end(signal.SIGKILL)
            worker.start()


if __name__ == "__main__":
    report(measure)
