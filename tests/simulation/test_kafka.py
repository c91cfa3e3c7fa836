"""The real program on a real Apache Kafka: the beginner's producer, and SIGKILL of worker and broker in mid-stream."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from katmatic.engine.plan import compile
from katmatic.engine.step import State, step
from katmatic.log.kafka import KafkaHistory
from katmatic.records import LABELS, PREDICTIONS
from tests.apps import door
from tests.components import need, need_kafka
from tests.kafka_broker import Broker, BrokerError
from tests.test_pipeline import rows

ROOT = Path(__file__).parents[2]
SEED = 11
ROUNDS = 4
BEGINNER = """
import json
from kafka import KafkaProducer
producer = KafkaProducer(bootstrap_servers='localhost:9092', value_serializer=lambda v: json.dumps(v).encode('utf-8'))
producer.send('attendance-topic', EVENT)
producer.flush()
"""
PATIENCE_SECONDS = 90

pytestmark = pytest.mark.slow


class Program:
    """`katmatic run FILE --log kafka://...`, to be killed and started again."""

    def __init__(self, file: Path, log: str, folder: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._command = [sys.executable, "-m", "katmatic", "run", str(file), "--data", str(folder), "--log", log]
        self._command += ["--port", str(port), "--no-training"]
        self._env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
        self._folder = folder

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, env=self._env, cwd=self._folder.parent, stderr=subprocess.PIPE)

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=PATIENCE_SECONDS)
        assert number == signal.SIGKILL or self.process.returncode == 0, said.decode()
        return self.process.returncode

    def ask(self, path: str) -> dict:
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return json.load(answer)

    def until(self, is_so, path: str = "/v1/status") -> dict:
        """The first answer that `is_so`."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        found = None
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.process.communicate()[1].decode()
            try:
                found = self.ask(path)
            except OSError:
                found = None
            if found is not None and is_so(found):
                return found
            time.sleep(0.02)
        pytest.fail(f"{path}: it never came to that; the last answer: {found}")


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def broker(tmp_path):
    try:
        broker = Broker(tmp_path / "broker")
    except BrokerError as error:
        need("Apache Kafka", None, str(error))
        raise
    broker.start()
    yield broker
    broker.kill()


def test_the_producer_of_any_beginner(tmp_path, free_port):
    for name in ("attendance.py", "school.py"):
        shutil.copy(ROOT / "examples" / name, tmp_path / name)
    address = need_kafka()
    log = f"kafka://{address}"
    program = Program(tmp_path / "attendance.py", log, tmp_path / "data", free_port)
    program.start()
    try:
        beginner(address, '{"student_id": "A123", "timestamp": "2025-04-21 08:02:00", "status": "present"}')
        before = program.until(lambda found: found["events"]["events"] > 0)["events"]
        now = datetime.now(ZoneInfo("Asia/Kathmandu")).strftime("%Y-%m-%d %H:%M:%S")
        beginner(address, f'{{"student_id": "A123", "timestamp": "{now}", "status": "present"}}')
        sent = time.monotonic()
        after = program.until(lambda found: found["events"]["events"] > before["events"])["events"]
        assert time.monotonic() - sent < 1.0
        assert after["applied"] == before["applied"] + 1
        assert after["conserved"]
        if (datetime.now(ZoneInfo("Asia/Kathmandu"))).isoweekday() != 6:  # there is no school on Saturdays
            assert program.ask("/v1/predictions/absence/A123")["key"]["student_id"] == "A123"
    finally:
        program.end(signal.SIGTERM)


def beginner(address: str, event: str) -> None:
    """Run the beginner's script, which knows nothing of us."""
    text = BEGINNER.replace("localhost:9092", address).replace("EVENT", event)
    subprocess.run([sys.executable, "-c", text], check=True, timeout=PATIENCE_SECONDS)


class Post(threading.Thread):
    """A careful producer: idempotent, it sends again what the broker has not acknowledged."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self._address = address
        self.acknowledged = 0
        self.stop = threading.Event()

    def run(self) -> None:
        from confluent_kafka import Producer

        producer = Producer(
            {"bootstrap.servers": self._address, "enable.idempotence": True, "log_level": 0, "linger.ms": 1,
             "reconnect.backoff.max.ms": 500}
        )  # fmt: skip

        def told(error, _):
            assert error is None, error
            self.acknowledged += 1

        n = 0
        while not self.stop.is_set():
            event = {"visitor": f"{n % 20}", "at": datetime.now(UTC).isoformat(), "loudness": n}
            producer.produce("ring", json.dumps(event).encode(), on_delivery=told)
            producer.poll(0)
            n += 1
            self.stop.wait(0.002)
        assert producer.flush(PATIENCE_SECONDS) == 0


def test_worker_and_broker_killed_at_any_moment_lose_and_double_nothing(tmp_path, broker, free_port):
    rng = random.Random(SEED)
    app = tmp_path / "app.py"
    app.write_text("from tests.apps import door\n\napp = door()\n", "utf-8")
    log = f"kafka://{broker.address}"
    program = Program(app, log, tmp_path / "data", free_port)
    program.start()
    post = Post(broker.address)
    try:
        program.until(lambda found: True)
        post.start()
        for turn in range(ROUNDS):
            done = program.until(lambda found: found["events"]["events"] > 0)["events"]["events"]
            program.until(lambda found, done=done: found["events"]["events"] > done + 50)
            time.sleep(rng.random() * 0.5)
            if turn % 2:
                broker.kill()
                broker.start()
            else:
                program.end(signal.SIGKILL)
                program.start()
        post.stop.set()
        post.join(PATIENCE_SECONDS)
        sent = post.acknowledged
        counts = program.until(lambda found: found["events"]["events"] >= sent)["events"]
    except BaseException:
        program.end(signal.SIGKILL)
        raise
    finally:
        post.stop.set()
    assert program.end(signal.SIGTERM) == 0
    assert counts["conserved"]
    assert (counts["events"], counts["dead"], counts["duplicate"]) == (sent, 0, 0)
    with closing(KafkaHistory(log, "door")) as history:
        plan = compile(door())
        state, predictions, labels = State(plan), [], []
        for batch in history.batches():
            changes = step(plan, state, batch)
            predictions += [repr(block.row(i)) for block, _ in changes.predictions for i in range(len(block))]
            labels += [repr(block.row(i)) for block, _ in changes.labels for i in range(len(block))]
        assert len(predictions) == sent
        assert rows(history, PREDICTIONS) == predictions, "as in one undisturbed life"
        assert rows(history, LABELS) == labels
