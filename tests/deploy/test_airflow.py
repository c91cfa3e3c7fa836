"""Trainings by a real Apache Airflow: on their schedule, on demand, retried, refused and for the past."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from katmatic import App, Retrain, future
from katmatic.deploy import airflow as deploy
from katmatic.deploy.airflow import STAGES
from katmatic.runtime import load_app
from katmatic.steps import STAGES as COMMANDS
from tests.apps import NOON, door
from tests.components import need_airflow
from tests.learning import CheckIn, Expected
from tests.program import ENVIRONMENT, Program

APP = """
from katmatic import Promote, Retrain
from tests.apps import door

app = door(retrain=Retrain(rows=50, every="1m"), promote=Promote(margin=0.05))
"""
FAILS_ONCE = """#!/bin/sh
# katmatic, of which `fit` fails the first time after somebody has asked for it.
export PYTHONPATH={path}
if [ "$2" = fit ] && [ -e {flag} ]; then rm {flag}; echo "the machine was taken away" >&2; exit 7; fi
exec {python} -m katmatic "$@"
"""
DAG = "door_open"
PAST = 40 * 60_000_000  # of the 66 minutes that were recorded


def test_its_stages_are_those_of_the_command():
    assert STAGES == COMMANDS


def test_each_predictor_that_is_trained_has_its_dag():
    from river import linear_model

    app = App("two")
    later = future.any(CheckIn, per=Expected, within="1h")
    for name, more in (("a", {"retrain": Retrain(every="36h")}), ("c", {})):
        app.predict(name, later, features={"one": lambda: 1.0}, model=door().predictors["open"].model, **more)
    app.predict("online", later, features={"one": lambda: 1.0}, model=linear_model.LogisticRegression())
    found = deploy.files(app, Path("app.py"), command="katmatic", data=Path("/data"), log="kafka://k:1", registry="")
    assert set(found) == {"two_a.py", "two_c.py"}
    assert "EVERY = timedelta(seconds=129600)" in found["two_a.py"]
    assert "EVERY = None" in found["two_c.py"]
    assert "--predictor a --data /data --log kafka://k:1" in found["two_a.py"]
    for name, text in found.items():
        compile(text, name, "exec")


def test_a_task_finds_its_folder_whatever_that_is_named(tmp_path):
    """Found by running: an apostrophe made a file that Python could not read, a dollar another folder."""
    data = tmp_path / "o'neil's $HOME of \"data\""
    (text,) = deploy.files(door(), Path("app.py"), command="x", data=data, log="", registry="").values()
    found = {}
    exec("\n".join(line for line in text.splitlines() if line.startswith(("WHERE", "NOW"))), found)
    called = f"{found['WHERE']} {found['NOW']}".replace("{{ run_id }}", "run 1")
    said = subprocess.run(["bash", "-c", f"printf '%s\\n' {called}"], capture_output=True, text=True, check=True).stdout
    assert {str(data), str(data / "work" / "run 1")} < set(said.splitlines())


@pytest.mark.slow
def test_a_scheduler_trains_retries_refuses_and_looks_back(tmp_path, katmatic, recorded):
    (tmp_path / "app.py").write_text(APP, "utf-8")
    assert katmatic("replay", "app.py", *recorded)[0] == 0
    flag, command = tmp_path / "fails", tmp_path / "katmatic"
    command.write_text(FAILS_ONCE.format(path=ENVIRONMENT["PYTHONPATH"], flag=flag, python=sys.executable), "utf-8")
    command.chmod(0o755)
    airflow = need_airflow(tmp_path / "airflow")
    written = deploy.files(
        load_app(tmp_path / "app.py"),
        tmp_path / "app.py",
        command=str(command),
        data=tmp_path / ".katmatic",
        log="",
        registry="",
        retry_seconds=1,
    )
    for name, text in written.items():
        (airflow.dags / name).write_text(text, "utf-8")
    arguments = ("--data", str(tmp_path / ".katmatic"), "--no-training")
    program = Program("run", tmp_path / "app.py", *arguments, said=tmp_path / "said")
    airflow.start()
    try:
        program.start().until(lambda found: found["ready"])
        airflow.wait_until_ready()

        # On its schedule, every minute: the first version, and the running pipeline answers with it.
        rings(program)
        first = airflow.until(lambda: airflow.dag_runs(DAG), 240)[0]
        assert airflow.errors() == []
        states = airflow.ended(DAG, first["dag_run_id"])
        if states["validate"] == "skipped":  # it began before somebody rang
            first = airflow.until(lambda: airflow.dag_runs(DAG)[1:], 240)[0]
            states = airflow.ended(DAG, first["dag_run_id"])
        airflow.pause(DAG, is_paused=True)
        assert first["run_type"] == "scheduled"
        assert states == dict.fromkeys(STAGES, "success"), airflow.said(DAG, first["dag_run_id"], "fit")
        program.until(lambda found: found["models"]["open"]["version"] == 1)
        rings(program)
        program.until(lambda found: found["version"] == 1, "/v1/predictions/open/v1")

        # On demand: a stage that fails is tried again, and a gate that refuses stops the promotion.
        for run in airflow.dag_runs(DAG):  # one that was waiting for its turn
            airflow.ended(DAG, run["dag_run_id"])
        airflow.pause(DAG, is_paused=False)
        flag.touch()
        rings(program)
        asked = airflow.trigger(DAG)
        states = airflow.ended(DAG, asked)
        assert states == {**dict.fromkeys(STAGES[:4], "success"), "gate": "skipped", "promote": "skipped"}
        assert airflow.tasks(DAG, asked)["fit"]["try_number"] == 2
        assert "the machine was taken away" in airflow.said(DAG, asked, "fit", 1)
        history = program.ask("/v1/models/open")
        assert [each["action"] for each in history] == ["refused", "promoted"]

        # For the past: what was known then; and who knows of less does not take the place of who knows of more.
        begin, end = (datetime.fromtimestamp((NOON + micros) / 1e6, UTC) for micros in (PAST, PAST + 60_000_000))
        airflow.backfill(DAG, begin.isoformat(), end.isoformat())
        back = airflow.until(lambda: [run for run in airflow.dag_runs(DAG) if run["run_type"] == "backfill"], 120)
        states = airflow.ended(DAG, back[0]["dag_run_id"])
        assert states["evaluate"] == "success", states
        assert states["promote"] == "skipped"
        found = program.until(lambda found: any("knows of more" in each["reason"] for each in found), "/v1/models/open")
        then = next(each for each in found if "knows of more" in each["reason"])  # the schedule goes on beside it
        assert then["action"] == "refused"
        assert then["rows"] < history[0]["rows"]
        assert program.ask("/v1/status")["models"]["open"]["version"] == 1
    finally:
        airflow.stop()
        program.end()


def rings(program):
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    program.ask("/v1/events/ring", [{"visitor": f"v{i}", "at": now} for i in range(5)])
