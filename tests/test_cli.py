"""The commands: each teaches, does what it says, and answers a mistake with what to do instead of a traceback."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import msgspec
import pytest

from katmatic.demo import EXAMPLES
from katmatic.log.codec import decode, encode
from katmatic.log.sqlite import open_readonly
from katmatic.predictions.artifact import load
from katmatic.records import MODELS, ModelVersion
from katmatic.registry.base import Run
from katmatic.registry.mlflow import MlflowRegistry
from katmatic.runtime import Runtime, load_app
from katmatic.settings import Settings
from tests.apps import NOON
from tests.object_store import CREDENTIALS, object_store

COMMANDS = (
    "init",
    "run",
    "serve",
    "demo",
    "replay",
    "train",
    "step",
    "backtest",
    "models",
    "rollback",
    "deploy",
    "doctor",
    "bench",
)


def last_line(printed):
    return json.loads(printed.rstrip("\n").rpartition("\n")[2])


def test_the_help_names_every_command(katmatic):
    code, printed, _ = katmatic("--help")
    assert code == 0
    assert all(name in printed for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_teaches(katmatic, command):
    code, printed, _ = katmatic(command, "--help")
    assert code == 0
    assert len(printed.split()) > 20
    assert "Usage: katmatic" in printed
    if command not in ("init", "run", "serve"):
        assert "--json" in printed


@pytest.mark.parametrize("example", EXAMPLES)
def test_what_init_writes_can_be_examined(katmatic, tmp_path, example):
    code, _, said = katmatic("init", tmp_path / "new", "--example", example)
    assert code == 0
    assert f"katmatic run {tmp_path / 'new' / example}.py" in said
    assert (tmp_path / "new" / f"{example}.py").exists()


def test_init_never_writes_over_a_file(katmatic, tmp_path):
    (tmp_path / "attendance.py").write_text("mine", "utf-8")
    code, _, said = katmatic("init", tmp_path)
    assert code == 2
    assert "choose another folder" in said
    assert (tmp_path / "attendance.py").read_text("utf-8") == "mine"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nothing.py"], "nothing.py: found no such file"),
        (["run", "app.py", "--host", "0.0.0.0"], "KATMATIC_TOKEN"),
        (["replay", "app.py", "nothing.csv", "--topic", "ring"], "nothing.csv"),
        (["replay", "app.py", "app.py"], "--topic"),
        (["replay", "app.py", "app.py", "--topic", "ring", "--map", "visitor"], "field=column"),
        (["replay", "app.py", "app.py", "--topic", "ring", "--speed", "fast"], "--speed: found fast"),
        (["demo", "--speed", "-1"], "--speed: found -1"),
        (["demo", "--speed", "nan"], "--speed: found nan"),
        (["init", "--example", "bank"], "attendance, shop, fraud"),
        (["models", "app.py", "--predictor", "close"], "one of open"),
        (["models", "app.py"], "log.db"),
        (["deploy", "ship", "app.py"], "one of airflow, docker, grafana, kubernetes, prometheus"),
        (["rollback", "app.py"], "log.db"),
        (["train", "app.py"], "log.db"),
        (["train", "app.py", "--from", "nowhere"], "nothing of door in nowhere"),
        (["serve", "app.py"], "start the pipeline first"),
        (["archive", "app.py", "--to", "s3://x"], "log.db"),
        (["promote", "app.py"], "train it first"),
        (["doctor", "nothing.py", "--data", "app.py"], ""),
    ],
)
def test_a_mistake_is_answered_with_what_to_do(katmatic, arguments, words):
    code, printed, said = katmatic(*arguments)
    assert code in (1, 2)
    assert words in said + printed
    assert "Traceback" not in said + printed


def test_what_is_said_is_not_taken_for_markup(katmatic):
    code, _, said = katmatic("run", "[/red]nothing[bold].py")
    assert code == 2
    assert "[/red]nothing[bold].py: found no such file" in said


def test_an_unknown_setting_is_a_mistake_too(katmatic, monkeypatch):
    monkeypatch.setenv("KATMATIC_PROT", "9000")
    code, _, said = katmatic("run", "app.py")
    assert code == 2
    assert "setting prot: found no such setting" in said


def test_a_life_in_commands(katmatic, recorded):
    """Replayed, trained, looked at, rolled back, examined."""
    code, printed, _ = katmatic("replay", "app.py", *recorded, "--json")
    assert code == 0
    found = last_line(printed)
    assert found["events"] == found["applied"] + found["duplicate"] + found["late"] + found["dead"] > 400
    for _ in range(2):
        code, printed, _ = katmatic("train", "app.py", "--json")
        assert code == 0
        assert last_line(printed)["action"] in ("promoted", "refused")
    code, printed, _ = katmatic("models", "app.py", "--json")
    assert code == 0
    told = last_line(printed)
    assert told["predictor"] == "open"
    assert [record["version"] for record in told["versions"]] == [1, 2]
    assert told["versions"][0]["action"] == "promoted"
    code, printed, _ = katmatic("models", "app.py")
    assert "promoted" in printed
    code, _, said = katmatic("rollback", "app.py", "--version", "9")
    assert code == 2
    assert "version 9" in said
    code, printed, _ = katmatic("doctor", "app.py", "--json")
    assert code == 0, printed
    told = last_line(printed)
    assert told["well"]
    assert {"application door", "log"} <= {finding["what"] for finding in told["findings"]}


@pytest.mark.slow
def test_a_rollback_moves_the_champion_on_the_log_and_in_mlflow(katmatic, recorded, tmp_path):
    katmatic("replay", "app.py", *recorded)
    for _ in range(2):
        katmatic("train", "app.py")
    assert katmatic("rollback", "app.py")[0] == 2, "nobody answered before the first"
    registry = MlflowRegistry(f"sqlite:///{tmp_path / '.katmatic' / 'registry.db'}")
    registry.promote("open", 2)
    with contextlib.closing(open_readonly(tmp_path / ".katmatic" / "log.db")) as log:
        first, second = (decode(MODELS, value) for value in log.pending(MODELS))
        log.post(MODELS, [encode(msgspec.structs.replace(second, action="promoted"))])
    code, printed, _ = katmatic("rollback", "app.py", "--json")
    assert (code, last_line(printed)["version"], first.version) == (0, 1, 1)
    assert registry.champion("open").version == 1
    assert last_line(katmatic("models", "app.py", "--json")[1])["versions"][-1]["action"] == "rolled-back"


def test_a_rollback_counts_where_mlflow_cannot_be_told(katmatic, recorded, tmp_path, monkeypatch):
    """Found by running: it was on the log, and the command ended with a traceback."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    katmatic("replay", "app.py", *recorded)
    with contextlib.closing(open_readonly(tmp_path / ".katmatic" / "log.db")) as log:
        live = [ModelVersion(predictor="open", version=n, action="promoted", reason="", now=NOON + n) for n in (1, 2)]
        log.post(MODELS, [encode(record) for record in live])
    code, printed, said = katmatic("rollback", "app.py", "--registry", "http://127.0.0.1:9", "--json")
    assert (code, last_line(printed)["version"]) == (0, 1)
    assert "the alias in MLflow was not moved: MLflow at http://127.0.0.1:9: found" in said
    assert last_line(katmatic("models", "app.py", "--json")[1])["versions"][-1]["action"] == "rolled-back"


@pytest.mark.slow
def test_what_was_refused_is_promoted_by_its_number_only(katmatic, recorded, tmp_path):
    """Found by running: a nightly `train --from` and `promote` let answer what the gate had refused."""
    katmatic("replay", "app.py", *recorded)
    registry = MlflowRegistry(f"sqlite:///{tmp_path / '.katmatic' / 'registry.db'}")
    for n, verdict in ((1, "passed"), (2, "refused")):
        told = Run(application="door", metrics={}, tags={"verdict": verdict, "reason": "it is worse"})
        registry.save("open", str(tmp_path / str(n)), told)
    code, _, said = katmatic("promote", "app.py")
    assert code == 2
    assert "open version 2, the newest: found refused: it is worse" in said
    assert "leave it, or name it: --version 2" in said
    code, printed, _ = katmatic("promote", "app.py", "--version", "2", "--json")
    assert (code, last_line(printed)["version"], registry.champion("open").version) == (0, 2, 2)


@pytest.mark.slow
def test_a_training_that_comes_to_no_model_says_so_by_its_code(katmatic, recorded, tmp_path, monkeypatch):
    """Found by running: a Kubernetes Job was content."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    katmatic("replay", "app.py", *recorded)
    code, printed, _ = katmatic("train", "app.py", "--registry", "http://127.0.0.1:9", "--models", "here", "--json")
    assert (code, last_line(printed)["action"]) == (1, "failed")
    assert last_line(printed)["reason"].startswith("MLflow at http://127.0.0.1:9: found MlflowException")
    early = ("--now", str(NOON + 300_000_000))
    code, printed, _ = katmatic("train", "app.py", *early, "--json")
    assert (code, last_line(printed)["action"]) == (0, "failed"), "too few rows yet: the next night will do"


def test_a_table_is_for_people(katmatic, recorded):
    code, printed, said = katmatic("replay", "app.py", *recorded)
    assert code == 0
    assert "predictions" in printed
    assert "ring.jsonl" in said, "a bar"


def test_deploy_writes_and_says_what(katmatic, tmp_path):
    code, printed, _ = katmatic("deploy", "prometheus", "app.py", "--out", "watch", "--json")
    assert code == 0
    assert {Path(name).name for name in last_line(printed)["files"]} == {each.name for each in Path("watch").iterdir()}


@pytest.mark.slow
def test_a_backtest_leaves_no_trace(katmatic, recorded, tmp_path):
    code, printed, _ = katmatic("backtest", "app.py", *recorded, "--json")
    assert code == 0
    found = last_line(printed)
    assert found["versions"] >= 1, "it was trained on the way"
    assert found["predictions"] > 0
    assert not (tmp_path / ".katmatic").exists()


def test_the_bench_measures(katmatic):
    code, printed, _ = katmatic("bench", "--seconds", "0.2", "--json")
    assert code == 0
    found = last_line(printed)
    assert found["predictions"] == found["events"]
    assert 0 < found["p50_ms"] <= found["p99_ms"] <= found["p999_ms"]


@pytest.mark.slow
def test_a_model_is_trained_from_an_archive_and_handed_over_through_a_bucket(katmatic, recorded, tmp_path, monkeypatch):
    """The same training set, wherever it is built; the pipeline needs nothing of the machine that trained."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    assert katmatic("replay", "app.py", *recorded)[0] == 0
    with object_store(tmp_path) as bucket:
        assert last_line(katmatic("archive", "app.py", "--to", bucket, "--json")[1])["records"] > 400
        now = ("--now", "1750000000000000")  # June 2025: after all of it
        shutil.copytree(tmp_path / ".katmatic", tmp_path / "there")
        here = last_line(katmatic("train", "app.py", *now, "--data", "there", "--json")[1])
        registry = ("--registry", f"sqlite:///{tmp_path / 'registry.db'}")
        models = bucket.replace("/logs", "/models")
        away = ("--from", bucket, "--data", "elsewhere", "--models", models, *registry)
        far = last_line(katmatic("train", "app.py", *now, *away, "--json")[1])
        assert far["action"] == "promoted", far["reason"]
        assert far["artifact"].startswith("s3://school/models/open/")
        assert {**far, "artifact": ""} == {**here, "artifact": ""}
        mine, other = (
            MlflowRegistry(f"sqlite:///{tmp_path / file}").versions("open")[0].tags["rows_sha256"]
            for file in ("registry.db", "there/registry.db")
        )
        assert mine == other
        mlflow = MlflowRegistry(registry[1])
        assert mlflow.champion("open") is None, "it does not answer yet"
        code, printed, _ = katmatic("promote", "app.py", *registry, "--json")
        assert mlflow.champion("open").version == 1
        assert (code, last_line(printed)["artifact"]) == (0, far["artifact"])
        with contextlib.closing(open_readonly(tmp_path / ".katmatic" / "log.db")) as log:
            (record,) = (decode(MODELS, value) for value in log.pending(MODELS))
        assert load(record.artifact).columns == ("rings_1h", "loudness_1h", "opened_1d", "hour")
        with Runtime(load_app(tmp_path / "app.py"), tmp_path / "app.py", Settings(training=False)) as runtime:
            runtime.pipeline.drain()
            assert runtime.live.status().models["open"].version == 1
        assert katmatic("promote", "app.py", "--version", "9", *registry)[0] == 2
