"""The real program on a real Apache Kafka, fed by a producer that knows nothing of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tests.components import need_kafka

ROOT = Path(__file__).parents[2]
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
    """`katmatic run FILE --log kafka://...`."""

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
