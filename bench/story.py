"""The whole architecture once, every part real: the `steps` of its story (name, seconds, ok), and whether all is `ok`.

A producer as any beginner writes it sends check-ins to Apache Kafka. The pipeline predicts; Airflow's scheduler
trains, the gate promotes in MLflow, the answers carry the new version; Prometheus looks on. Then the school changes its
routine, the model fails, the alert fires, Alertmanager calls the pipeline, which trains again, or lets an earlier
version answer. The school is that of `bench.lessons`, whose lessons last five seconds. It takes about seven minutes.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from http.client import HTTPException
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from kafka import KafkaProducer

from bench.lessons import LESSON_SECONDS, app
from bench.report import report
from katmatic.deploy import airflow as dags
from katmatic.deploy.prometheus import UNACCOUNTED
from katmatic.registry.mlflow import MlflowRegistry
from tests.airflow import Airflow
from tests.kafka_broker import Broker
from tests.mlflow_server import mlflow_server
from tests.program import ENVIRONMENT, Program
from tests.watching import Watching

STUDENTS = 100
ZONE = ZoneInfo("Asia/Kathmandu")
BRIER = 'katmatic_model_quality{predictor="absence",metric="brier",who="%s"}'
ALERT = "KatmaticUnderBaseline_absence"
STEP_SECONDS = 420.0
LESSONS = Path(__file__).with_name("lessons.py")


class School(threading.Thread):
    """A school that goes on: who is expected is told before each bell, who comes checks in."""

    def __init__(self, broker: str) -> None:
        super().__init__(daemon=True)
        # As any beginner writes it, but for the address.
        self.producer = KafkaProducer(
            bootstrap_servers=broker, value_serializer=lambda v: json.dumps(v).encode("utf-8")
        )
        self.chances = (0.3, 0.7)  # of coming, by turn
        self.stopping = threading.Event()
        self._random = random.Random(7)

    def run(self) -> None:
        while not self.stopping.is_set():
            now = datetime.now(ZONE)
            bell = datetime.fromtimestamp((now.timestamp() // LESSON_SECONDS + 2) * LESSON_SECONDS, ZONE)
            self._wait_until(bell - timedelta(seconds=5))
            for student in range(STUDENTS):
                self.expect(f"A{100 + student}", bell)
            self.producer.flush()
            self._wait_until(bell - timedelta(seconds=2))
            lesson = int(bell.timestamp()) // LESSON_SECONDS
            for student in range(STUDENTS):
                if self._random.random() < self.chances[(lesson + 100 + student) % 2]:
                    self.check_in(f"A{100 + student}")
            self.producer.flush()

    def expect(self, student: str, bell: datetime) -> None:
        """Tell that a student is expected."""
        self.producer.send("expected", {"student_id": student, "bell": bell.isoformat()})

    def check_in(self, student: str) -> None:
        """A card is read."""
        timestamp = datetime.now(ZONE).strftime("%Y-%m-%d %H:%M:%S")
        self.producer.send("attendance-topic", {"student_id": student, "timestamp": timestamp, "status": "present"})

    def stop(self) -> None:
        """Let the lesson end, and close."""
        self.stopping.set()
        if self.ident is not None:
            self.join()
        self.producer.close()

    def _wait_until(self, moment: datetime) -> None:
        self.stopping.wait(max(0.0, (moment - datetime.now(ZONE)).total_seconds()))


class Reader(threading.Thread):
    """Asks about one student again and again, as an application does: how often, how often in vain, which versions."""

    def __init__(self, program: Program) -> None:
        super().__init__(daemon=True)
        self._program = program
        self.answers = self.failures = 0
        self.versions: list[int] = []
        self.stopping = threading.Event()

    def run(self) -> None:
        while not self.stopping.wait(0.05):
            try:
                found = self._program.ask("/v1/predictions/absence/A123")
            except (OSError, HTTPException):
                self.failures += 1
                continue
            self.answers += 1
            if found["version"] not in self.versions[-1:]:
                self.versions.append(found["version"])

    def stop(self) -> None:
        """Ask no more."""
        self.stopping.set()
        if self.ident is not None:
            self.join()


class Story:
    """Steps, each with its time; after one that fails no other is tried."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []
        self.failure = ""

    @contextmanager
    def step(self, name: str) -> Iterator[dict[str, Any]]:
        """Do a step; what is found is told with it."""
        began, found = time.monotonic(), dict[str, Any]()
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            yield found
        except BaseException as error:
            self.failure = f"{type(error).__name__}: {error}"[:2000]
            raise
        finally:
            seconds = round(time.monotonic() - began, 3)
            self.steps.append({"name": name, "seconds": seconds, "ok": not self.failure, **found})
            print(f"    {seconds:.1f} s {found or ''}{self.failure}", file=sys.stderr, flush=True)


def measure() -> dict[str, Any]:
    """The steps, and whether all went well."""
    story = Story()
    with tempfile.TemporaryDirectory(prefix="katmatic-story-") as folder:
        try:
            _tell(story, Path(folder))
        except Exception:
            print(_said(Path(folder)), file=sys.stderr)
    return {"steps": story.steps, "ok": not story.failure, "failure": story.failure}


def _tell(story: Story, folder: Path) -> None:
    with ExitStack() as undo:
        with story.step("Kafka, MLflow, the pipeline, Prometheus and Alertmanager start; Airflow begins to"):
            airflow = Airflow(folder / "airflow").start()
            undo.callback(airflow.stop)
            broker = Broker(folder / "kafka")
            broker.start()
            undo.callback(broker.stop)
            registry = undo.enter_context(mlflow_server(folder / "mlflow"))
            log, data = f"kafka://{broker.address}", folder / "data"
            where = ("--data", str(data), "--log", log, "--registry", registry)
            program = Program(
                "run",
                LESSONS,
                *where[:4],
                "--no-training",
                said=folder / "pipeline.log",
                environment={"KATMATIC_REGISTRY": registry},
            )
            program.start()
            undo.callback(program.end)
            program.until(lambda found: found["ready"])
            watching = Watching(app, f"127.0.0.1:{program.port}", folder / "watching").start()
            undo.callback(watching.stop)
            school = School(broker.address)
            undo.callback(school.stop)

        with story.step("a check-in is followed by an answer within a second") as found:
            school.expect("A123", datetime.now(ZONE) + timedelta(seconds=4))
            school.producer.flush()
            program.until(lambda found: "key" in found, "/v1/predictions/absence/A123")
            school.check_in("A123")
            school.producer.flush()
            sent = time.monotonic()
            program.until(lambda found: found["events"]["applied"] >= 2)
            answer = program.ask("/v1/predictions/absence/A123")
            found["milliseconds"] = round((time.monotonic() - sent) * 1000)
            assert answer["key"] == {"student_id": "A123"}
            assert found["milliseconds"] < 1000

        school.start()
        reader = Reader(program)
        undo.callback(reader.stop)
        reader.start()

        with story.step("version 1 is trained by hand, on a routine that is not settled yet") as found:
            _until(lambda: watching.value("sum(katmatic_events_total)"))
            time.sleep(40)  # lessons
            command = [sys.executable, "-m", "katmatic", "train", str(LESSONS), *where, "--json"]
            trained = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True, cwd=folder)
            found |= _short(json.loads(trained.stdout.splitlines()[-1]))
            assert found["action"] == "promoted"
            program.until(lambda found: found["version"] == 1, "/v1/predictions/absence/A123")
            school.chances = (0.05, 0.95)

        with story.step("Airflow's scheduler trains, and the gate promotes version 2 in MLflow") as found:
            airflow.wait_until_ready()
            time.sleep(45)  # lessons, in which the routine has settled
            for name, text in _dags(folder, data, log, registry).items():
                (airflow.dags / name).write_text(text, "utf-8")
            run = airflow.until(lambda: airflow.dag_runs("attendance_absence"), STEP_SECONDS)[0]
            states = airflow.ended("attendance_absence", run["dag_run_id"], STEP_SECONDS)
            airflow.pause("attendance_absence", is_paused=True)  # what comes now is the webhook's
            found |= {"run": run["run_type"], "tasks": states}
            assert set(states.values()) == {"success"}, program.ask("/v1/models/absence")
            champion = MlflowRegistry(registry).champion("absence")
            assert champion is not None
            assert champion.version == 2

        with story.step("answers carry version 2, and no request has failed") as found:
            program.until(lambda found: found["version"] == 2, "/v1/predictions/absence/A123")
            _until(lambda: reader.versions[-1:] == [2])
            found |= {"answers": reader.answers, "failures": reader.failures, "versions": list(reader.versions)}
            assert reader.failures == 0

        with story.step("Prometheus sees version 2, and that it is better than a simple rule") as found:
            _until(lambda: watching.value("katmatic_model_version") == 2)
            _until(lambda: _brier(watching) < 0.15 and (watching.value("katmatic_model_judged_rows") or 0) > 200)
            found["brier"] = round(_brier(watching), 4)
            assert watching.firing() == set()

        with story.step(
            "the school changes its routine, and the answers are no longer better than a simple rule"
        ) as found:
            school.chances = (0.95, 0.05)
            _until(lambda: _brier(watching) > 0.3)
            found["brier"] = round(_brier(watching), 4)

        with story.step("the alert fires"):
            _until(lambda: ALERT in watching.firing())

        with story.step("the webhook trains again, or lets an earlier version answer, until one does better") as found:
            before = len(program.ask("/v1/models/absence"))
            changes = program.until(
                lambda found: found[0]["action"] == "promoted" and found[0]["version"] > 2,
                "/v1/models/absence",
                seconds=STEP_SECONDS,
            )
            found["changes"] = [_short(change) for change in reversed(changes[:-before])]

        with story.step("the answers are better than a simple rule again"):
            _until(lambda: _brier(watching) < 0.2 and (watching.value("katmatic_model_judged_rows") or 0) > 200)

        with story.step("the alert has ended") as found:
            _until(lambda: ALERT not in watching.firing())
            found["brier"] = round(_brier(watching), 4)

        with story.step("every event is accounted for, and no request has failed") as found:
            school.stop()
            status = program.ask("/v1/status")["events"]
            reader.stop()
            found |= {"events": status["events"], "answers": reader.answers, "failures": reader.failures}
            found["versions"] = list(reader.versions)
            assert status["conserved"]
            assert reader.failures == 0
            assert watching.value(UNACCOUNTED) == 0


def _dags(folder: Path, data: Path, log: str, registry: str) -> dict[str, str]:
    command = folder / "katmatic"
    command.write_text(
        f'#!/bin/sh\nexport PYTHONPATH={ENVIRONMENT["PYTHONPATH"]}\nexec {sys.executable} -m katmatic "$@"\n', "utf-8"
    )
    command.chmod(0o755)
    return dags.files(app, LESSONS, command=str(command), data=data, log=log, registry=registry, retry_seconds=2)


def _brier(watching: Watching) -> float:
    found = watching.value(BRIER % "model")
    return 1.0 if found is None else found


def _until(check: Callable[[], object], seconds: float = STEP_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if check():
                return
        except urllib.error.HTTPError as error:
            with error:
                pass
        time.sleep(0.2)
    raise AssertionError(f"it did not come to that within {seconds:g} s")


def _short(change: dict[str, Any]) -> dict[str, Any]:
    return {name: change[name] for name in ("action", "version", "reason")}


def _said(folder: Path) -> str:
    files = (folder / "pipeline.log", folder / "watching" / "watching.log", folder / "airflow" / "airflow.log")
    return "\n".join(
        f"--- {file.name}\n{file.read_text('utf-8', 'replace')[-3000:]}" for file in files if file.exists()
    )


if __name__ == "__main__":
    report(measure)
