"""The image in a real Docker Engine: as a user of its own, locked down, stopped and killed without loss."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time
import urllib.error
import urllib.request
from http.client import HTTPException

import pytest

from katmatic.log.kafka import KafkaHistory
from katmatic.log.sqlite import open_readonly
from tests.components import need_docker, need_kafka, topics_of
from tests.program import ROOT, free_port

TOKEN = "a-token-of-the-tests-0123"
MEGABYTES_LIMIT = 1_300  # of the image, of which the base is 250
PATIENCE_SECONDS = 120
LOCKED = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
LIMITS = ("--memory", "1500m", "--cpus", "2", "--pids-limit", "300")
RUN = ("run", "attendance.py", "--no-training")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def engine():
    with need_docker() as found:
        found.build()
        yield found


@pytest.fixture
def app(tmp_path):
    """A folder with an application, as the user of the image sees it."""
    folder = tmp_path / "app"
    folder.mkdir()
    for name in ("attendance.py", "school.py"):
        shutil.copy(ROOT / "examples" / name, folder / name)
    return folder


class Container:
    """One pipeline in a container, with a volume that outlives it."""

    def __init__(self, engine, app, name, *more, local=False, command=RUN, data=None):
        self.engine, self.name = engine, name
        network = ("--network", "host", "-e", "KATMATIC_HOST=127.0.0.1") if local else ("-p", "127.0.0.1::8000")
        engine.run("rm", "--force", "--volumes", name, check=False)
        engine.run("volume", "rm", "--force", name, check=False)
        mounts = ("-v", f"{app}:/app:ro", "-v", data or f"{name}:/data")
        environment = ("-e", f"KATMATIC_TOKEN={TOKEN}", *more)
        engine.run(
            *("create", "--name", name, *LOCKED, *LIMITS, *network, *mounts, *environment, "katmatic:test", *command)
        )
        self.local = local

    def start(self, port=8000):
        self.engine.run("start", self.name)
        at = f"127.0.0.1:{port}" if self.local else self.engine.run("port", self.name, "8000/tcp")
        self.url = f"http://{at.splitlines()[0]}"
        self.until(lambda: self.ask("/readyz")["ready"])
        return self

    def ask(self, path, body=None):
        headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def state(self):
        return self.engine.inspect(self.name)["State"]

    def until(self, check):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            assert self.state()["Running"], self.engine.run("logs", self.name)
            with contextlib.suppress(OSError, HTTPException):
                if found := check():
                    return found
            time.sleep(0.1)
        raise AssertionError(f"not within {PATIENCE_SECONDS} s: {self.engine.run('logs', self.name)}")

    def ended(self):
        """Its code, once it has ended."""
        return int(self.engine.run("wait", self.name))


class Sender(threading.Thread):
    """Sends check-ins one after the other, each again and again until it is acknowledged."""

    def __init__(self, container):
        super().__init__()
        self.container, self.sent, self.stopping = container, 0, threading.Event()

    def run(self):
        while not self.stopping.is_set():
            now = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
            event = {"student_id": f"S{self.sent:05}", "timestamp": now, "status": "present"}
            while not self.stopping.is_set():
                with contextlib.suppress(OSError, HTTPException):
                    self.container.ask("/v1/events/attendance-topic", [event])
                    self.sent += 1
                    break
                time.sleep(0.02)


def test_it_runs_locked_down_and_is_stopped_and_killed_without_loss(engine, app, tmp_path):
    image = engine.inspect("katmatic:test")
    megabytes = image["Size"] / 1e6
    print(f"the image has {megabytes:,.0f} MB")
    assert megabytes < MEGABYTES_LIMIT
    assert image["Config"]["User"] == "10001:10001"
    container = Container(engine, app, "katmatic-test").start()
    sender = Sender(container)
    sender.start()
    try:
        assert engine.run("exec", container.name, "id", "-u") == "10001"
        touched = engine.run("exec", container.name, "sh", "-c", "touch /opt/x /app/x; echo $?", check=False)
        assert touched == "1", "its root is read-only"
        capabilities = engine.run("exec", container.name, "grep", "CapEff", "/proc/1/status")
        assert capabilities.split()[1] == "0000000000000000"
        container.until(lambda: container.state()["Health"]["Status"] == "healthy")
        for stop in (("stop", "--time", "30"), ("kill", "--signal", "KILL"), ("stop", "--time", "30")):
            before = sender.sent
            container.until(lambda before=before: sender.sent > before + 50)
            began = time.monotonic()
            engine.run(*stop, container.name)
            assert container.ended() == (137 if stop[0] == "kill" else 0), engine.run("logs", container.name)
            assert time.monotonic() - began < 20
            container.start()
        sender.stopping.set()
        sender.join(PATIENCE_SECONDS)
        status = container.ask("/v1/status")["events"]
        assert status["conserved"]
        engine.run("stop", container.name)
    finally:
        sender.stopping.set()
        sender.join(PATIENCE_SECONDS)
        engine.run("kill", container.name, check=False)
    engine.run("cp", f"{container.name}:/data/.", str(tmp_path / "data"))
    with contextlib.closing(open_readonly(tmp_path / "data" / "log.db")) as log:
        students = [json.loads(value)["student_id"] for _, value in log.scan("attendance-topic")]
    assert set(students) >= {f"S{i:05}" for i in range(sender.sent)}, "all that was acknowledged is there"
    assert len(students) - len(set(students)) <= 3, "only what was not acknowledged is there again"
    assert sender.sent > 150


def test_without_a_token_it_refuses_to_be_reached_by_others(engine, app):
    said = engine.run(
        "run", "--rm", *LOCKED, "-v", f"{app}:/app:ro", "katmatic:test", "run", "attendance.py", check=False
    )
    done = engine.run("run", "--rm", *LOCKED, "katmatic:test", "--help")
    assert "A real-time machine-learning pipeline" in done
    assert said == "", "it is said on standard error"
    logs = engine.run(
        "run", "--rm", *LOCKED, "-v", f"{app}:/app:ro", "--entrypoint", "sh", "katmatic:test",
        "-c", "katmatic run attendance.py 2>&1; echo code $?",
    )  # fmt: skip
    assert "no token" in logs
    assert logs.endswith("code 2")


def test_its_log_may_be_on_kafka(engine, app, tmp_path):
    log = f"kafka://{need_kafka()}/{topics_of(tmp_path)}"
    port = free_port()
    more = ("-e", f"KATMATIC_LOG={log}", "-e", f"KATMATIC_PORT={port}")
    container = Container(engine, app, "katmatic-kafka", *more, local=True).start(port)
    try:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        container.ask("/v1/events/attendance-topic", {"student_id": "A123", "timestamp": now})
        with contextlib.closing(KafkaHistory(log, "attendance")) as history:
            assert len(list(history.scan("attendance-topic"))) == 1, "what was acknowledged is on Kafka"
        before = container.ask("/v1/status")["events"]["applied"]
        engine.run("kill", "--signal", "KILL", container.name)
        container.ended()
        container.start(port)
        assert container.ask("/v1/status")["events"]["applied"] >= before > 0
    finally:
        engine.run("stop", container.name, check=False)
    assert container.state()["ExitCode"] == 0
