"""The image, built by a real Docker Engine and run as it should be: sealed, watched, stopped, killed, started again."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path

import pytest

from tests.components import need_docker, need_kafka
from tests.docker_engine import BASE
from tests.program import free_port

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
IMAGE = "katmatic:test"
OURS_BYTES_LIMIT = 900e6  # above its base; three quarters are LLVM, Arrow, SciPy and scikit-learn
START_SECONDS = 30.0  # it takes 1.3; to compile the loops would take 20 more
STOP_SECONDS = 10.0  # it takes 0.5
PATIENCE_SECONDS = 90.0
TOKEN = "a-token-of-the-tests"
SEALED = (
    *("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--memory", "1g", "--cpus", "1.5", "--pids-limit", "256"),
)
GATE = """
from sklearn.linear_model import LogisticRegression

from katmatic import App, Event, Id, Key, Time, future, past

app = App("gate")


class Read(Event):
    card: Key
    number: Id
    at: Time


app.predict(
    "back",
    future.any(Read, per=Read, within="1h"),
    features={"reads": past.count(Read, None, by=Read.card)},
    model=LogisticRegression(),
)
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """A Docker Engine that has built the image."""
    engine = need_docker(tmp_path_factory.mktemp("docker"))
    try:
        engine.run("build", "--tag", IMAGE, str(ROOT))
        yield engine
    finally:
        engine.stop()


class Container:
    """A pipeline in a container, asked from outside."""

    def __init__(self, engine, name, *arguments, options=(), of_the_host=False):
        """On the network of the host it reaches what listens on loopback, and needs a port of its own."""
        self._engine, self.name, self._port = engine, name, free_port()
        at = ("--network", "host") if of_the_host else ("--publish", f"127.0.0.1:{self._port}:8000")
        arguments = (*arguments, "--host", "127.0.0.1", "--port", str(self._port)) if of_the_host else arguments
        engine.run("rm", "--force", "--volumes", name, check=False)
        engine.run(
            *("run", "--detach", "--name", name, *SEALED, "--env", f"KATMATIC_TOKEN={TOKEN}"),
            *(*at, *options, IMAGE, *arguments),
        )

    def do(self, command, *arguments):
        return self._engine.run(command, *arguments, self.name)

    def inside(self, *command, check=True):
        return self._engine.run("exec", self.name, *command, check=check)

    def seen(self, field):
        return json.loads(self._engine.run("inspect", "--format", f"{{{{json {field}}}}}", self.name).stdout)

    def said(self):
        ran = self._engine.run("logs", self.name, check=False)
        return ran.stdout + ran.stderr

    def ask(self, path, body=None, *, token=TOKEN):
        headers = {"content-type": "application/json", **({"authorization": f"Bearer {token}"} if token else {})}
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}{path}", body, headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def until_ready(self):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, HTTPException):
                if self.ask("/readyz", token="")["ready"]:
                    return
            time.sleep(0.05)
        raise AssertionError(f"it does not become ready: {self.said()}")

    def until_applied(self, count):
        """What became of the events, once at least so many were applied and none waits."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            status = self.ask("/v1/status")
            if not status["waiting"] and status["events"]["applied"] + status["events"]["late"] >= count:
                return status["events"]
            time.sleep(0.05)
        raise AssertionError(f"not {count}: {status}")


@contextlib.contextmanager
def running(*given, **more):
    container = Container(*given, **more)
    try:
        container.until_ready()
        yield container
    finally:
        container.do("rm", "--force", "--volumes")


class Sender(threading.Thread):
    """Posts one event after the other, each as often as it takes until it is acknowledged."""

    def __init__(self, container, number):
        super().__init__(daemon=True)
        self._container, self.number = container, number
        self.acknowledged, self.ended = 0, threading.Event()

    def run(self):
        while not self.ended.is_set():
            number = f"{self.number}-{self.acknowledged}"
            at = datetime.now(UTC).isoformat()
            event = json.dumps({"number": number, "card": f"card{self.number}", "at": at}).encode()
            while not self.ended.is_set():
                with contextlib.suppress(OSError, HTTPException):  # also an answer that breaks off
                    self._container.ask("/v1/events/read", event)
                    self.acknowledged += 1
                    break
                time.sleep(0.02)

    def until_more(self, count=20):
        """Until it was acknowledged `count` more events."""
        wanted, deadline = self.acknowledged + count, time.monotonic() + PATIENCE_SECONDS
        while self.acknowledged < wanted:
            assert time.monotonic() < deadline, self._container.said()
            time.sleep(0.01)


@pytest.fixture
def gate(tmp_path):
    """The options that put an application's file into a container."""
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "gate.py").write_text(GATE, "utf-8")
    for path in (tmp_path, folder, folder / "gate.py"):
        path.chmod(0o755)
    return ("--volume", f"{folder}:/app:ro")


def test_the_image_is_as_large_as_what_it_is_made_of(engine):
    size, base = (int(engine.run("image", "inspect", "--format", "{{.Size}}", name).stdout) for name in (IMAGE, BASE))
    print(f"image: {size / 1e6:.0f} MB, of these the base {base / 1e6:.0f}")
    assert size - base < OURS_BYTES_LIMIT


def test_it_runs_sealed_is_soon_ready_and_becomes_healthy(engine):
    began = time.monotonic()
    with running(engine, "katmatic-sealed") as container:
        took = time.monotonic() - began
        assert took < START_SECONDS, "nothing is compiled when it starts"
        assert container.inside("id", "-u").stdout.strip() == "10001"
        assert container.inside("touch", "/app/x", check=False).returncode != 0, "the root is read-only"
        held = container.inside("grep", "-E", "^(CapEff|CapBnd|NoNewPrivs)", "/proc/1/status").stdout.split()
        assert held == ["CapEff:", "0" * 16, "CapBnd:", "0" * 16, "NoNewPrivs:", "1"]
        assert container.inside("which", "gcc", "cc", check=False).returncode != 0
        with pytest.raises(urllib.error.HTTPError, match="401"):
            container.ask("/v1/status", token="")
        found = container.inside("katmatic", "doctor", "--json", check=False).stdout.splitlines()[-1]
        loops = next(one for one in json.loads(found)["findings"] if one["what"] == "compiled loops")
        assert loops["is_well"]
        deadline = time.monotonic() + PATIENCE_SECONDS
        while container.seen(".State.Health.Status") != "healthy":
            assert time.monotonic() < deadline, container.seen(".State.Health")
            time.sleep(0.2)


def test_without_a_token_it_says_what_to_do(engine):
    ran = engine.run("run", "--rm", *SEALED, IMAGE, check=False)
    assert ran.returncode == 2
    assert "KATMATIC_TOKEN" in ran.stderr


def test_it_trains_where_it_runs(engine):
    ran = engine.run("run", "--rm", *SEALED, IMAGE, "demo", "--days", "6", "--speed", "max", "--json")
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["versions"] >= 1
    assert found["auc"] > found["auc_rule"]


def test_stopped_and_killed_under_load_it_loses_and_doubles_nothing(engine, gate):
    with running(engine, "katmatic-gate", "run", "gate.py", options=gate) as container:
        senders = [Sender(container, number) for number in range(2)]
        for sender in senders:
            sender.start()
        try:
            for end in ("stop", "kill", "stop", "kill"):
                for sender in senders:
                    sender.until_more()
                began = time.monotonic()
                container.do(end)
                if end == "stop":
                    assert time.monotonic() - began < STOP_SECONDS
                    assert container.seen(".State.ExitCode") == 0, container.said()
                container.do("start")
                container.until_ready()
            for sender in senders:
                sender.until_more()
        finally:
            for sender in senders:
                sender.ended.set()
            for sender in senders:
                sender.join(PATIENCE_SECONDS)
        sent = sum(sender.acknowledged for sender in senders)
        counts = container.until_applied(sent)
        assert counts["conserved"]
        # The last event of each sender may have arrived while it was told to end.
        assert sent <= counts["applied"] + counts["late"] <= sent + len(senders)
        assert counts["dead"] == 0
        for sender in senders:
            newest = container.ask(f"/v1/predictions/back/card{sender.number}?reasons=0")
            assert sender.acknowledged - 1 <= newest["features"]["reads"] <= sender.acknowledged


def test_a_worker_and_a_copy_share_a_log_on_kafka(engine, gate):
    given = {"options": gate, "of_the_host": True}
    where = ("gate.py", "--log", f"kafka://{need_kafka()}")
    with (
        running(engine, "katmatic-worker", "run", *where, **given) as worker,
        running(engine, "katmatic-copy", "serve", *where, **given) as copy,
    ):
        sender = Sender(copy, 7)
        sender.start()
        sender.until_more()
        sender.ended.set()
        sender.join(PATIENCE_SECONDS)
        for one in (worker, copy):
            one.until_applied(sender.acknowledged)
        path = "/v1/predictions/back/card7?reasons=0"
        told = copy.ask(path)
        assert told == worker.ask(path)
        worker.do("stop")
        assert worker.seen(".State.ExitCode") == 0, worker.said()
        assert copy.ask(path) == told, "while the worker is away, copies answer"
        worker.do("start")
        worker.until_ready()
        assert worker.ask(path) == told
