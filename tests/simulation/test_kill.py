"""The real program, ended by SIGKILL at any moment under load: nothing is lost, nothing is doubled, nothing differs."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path

import pytest

from katmatic.engine.plan import compile
from katmatic.engine.step import State, step
from katmatic.log.sqlite import open_readonly
from katmatic.records import LABELS, PREDICTIONS
from tests.apps import door
from tests.test_pipeline import rows

ROOT = Path(__file__).parents[2]
ROUNDS = 5
SEED = 7
SENDERS = 2
PATIENCE_SECONDS = 60

pytestmark = pytest.mark.slow


class Program:
    """`katmatic run`, to be killed and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        app = folder / "app.py"
        app.write_text("from tests.apps import door\n\napp = door()\n", "utf-8")
        self._command = [sys.executable, "-m", "katmatic", "run", str(app), "--data", str(folder / "data")]
        self._command += ["--port", str(self.port), "--no-training"]
        self._env = {
            **os.environ,
            "PYTHONFAULTHANDLER": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]),
        }

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, env=self._env, cwd=ROOT, stderr=subprocess.PIPE)

    def end(self, number: int) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        _, said = self.process.communicate(timeout=PATIENCE_SECONDS)
        assert number == signal.SIGKILL or self.process.returncode == 0, said.decode()
        return self.process.returncode

    def ask(self, path: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(self.url + path, body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read()


class Sender(threading.Thread):
    """Sends rings one after the other, each again and again until it is acknowledged, as a careful card reader does."""

    def __init__(self, program: Program, number: int) -> None:
        super().__init__(daemon=True)
        self._program, self._number = program, number
        self.acknowledged: list[dict[str, object]] = []
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.is_set():
            n = len(self.acknowledged)
            event = {"visitor": f"{self._number}-{n % 20}", "at": datetime.now(UTC).isoformat(), "loudness": n}
            body = json.dumps(event).encode()
            while not self.stop.is_set():
                with contextlib.suppress(OSError, HTTPException):  # also an answer that breaks off
                    self._program.ask("/v1/events/ring", body)
                    self.acknowledged.append(event)
                    break
                time.sleep(0.02)


def wait_until_it_works(program, senders):
    """Until each sender was acknowledged something new."""
    before = [len(sender.acknowledged) for sender in senders]
    deadline = time.monotonic() + PATIENCE_SECONDS
    while any(len(sender.acknowledged) < n + 10 for sender, n in zip(senders, before, strict=True)):
        assert program.process.poll() is None, program.process.communicate()[1].decode()
        if time.monotonic() > deadline:
            program.process.send_signal(signal.SIGABRT)  # it says where it stands
            pytest.fail(f"it does not take anything in: {program.process.communicate()[1].decode()}")
        time.sleep(0.01)


def test_killed_at_any_moment_it_goes_on_where_it_was(tmp_path):
    rng = random.Random(SEED)
    program = Program(tmp_path)
    program.start()
    senders = [Sender(program, number) for number in range(SENDERS)]
    for sender in senders:
        sender.start()
    try:
        for _ in range(ROUNDS):
            wait_until_it_works(program, senders)
            time.sleep(rng.random() * 0.5)
            program.end(signal.SIGKILL)
            program.start()
        wait_until_it_works(program, senders)
    except BaseException:
        program.end(signal.SIGKILL)
        raise
    finally:
        for sender in senders:
            sender.stop.set()
        for sender in senders:
            sender.join(PATIENCE_SECONDS)
    assert not any(sender.is_alive() for sender in senders)
    status = json.loads(program.ask("/v1/status"))
    assert program.end(signal.SIGTERM) == 0

    sent = sum(len(sender.acknowledged) for sender in senders)
    counts = status["events"]
    assert counts["conserved"]
    assert counts["applied"] + counts["late"] == sent, "each once, also those that were sent again"
    assert counts["dead"] == 0

    with contextlib.closing(open_readonly(tmp_path / "data" / "log.db")) as log:
        plan = compile(door())
        state, predictions, labels = State(plan), [], []
        for batch in log.batches():
            changes = step(plan, state, batch)
            predictions += [repr(block.row(i)) for block, _ in changes.predictions for i in range(len(block))]
            labels += [repr(block.row(i)) for block, _ in changes.labels for i in range(len(block))]
        assert len(predictions) == sent
        assert rows(log, PREDICTIONS) == predictions, "as in one undisturbed life"
        assert rows(log, LABELS) == labels
