"""The stages of a training one by one, as a scheduler calls them: the same outcome, and each may be run again."""

from __future__ import annotations

import contextlib
import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from katmatic.log.codec import decode, encode
from katmatic.log.sqlite import open_readonly
from katmatic.records import MODELS, ModelVersion
from katmatic.registry.mlflow import MlflowRegistry
from katmatic.steps import SKIP, STAGES
from tests.apps import NOON
from tests.test_cli import last_line

LATER = "2025-06-01T00:00:00+00:00"


@pytest.fixture
def step(katmatic):
    """A function that does a stage: its code and what it printed as JSON, or what it said."""

    def run(stage, *more, now=LATER, work="work"):
        code, printed, said = katmatic("step", stage, "app.py", "--work", work, "--now", now, *more, "--json")
        return code, last_line(printed) if printed.strip().endswith("}") else said

    return run


@pytest.fixture
def lived(katmatic, recorded):
    assert katmatic("replay", "app.py", *recorded)[0] == 0


def told(tmp_path):
    """The records of models that wait for the pipeline."""
    with contextlib.closing(open_readonly(tmp_path / ".katmatic" / "log.db")) as log:
        return [decode(MODELS, value) for value in log.pending(MODELS)]


@pytest.mark.slow
def test_the_stages_come_to_what_train_comes_to(katmatic, step, lived, tmp_path):
    now = int(datetime.fromisoformat(LATER).timestamp() * 1e6)
    shutil.copytree(tmp_path / ".katmatic", tmp_path / "other")
    found = {}
    for stage in STAGES:
        code, found[stage] = step(stage, "--since", "2025-04-01T00:00Z")
        assert code == 0, found[stage]
        if stage != "evaluate":  # which gives a version its number
            assert step(stage, "--since", "2025-04-01T00:00Z")[0] == 0, "it may be run again"
    assert found["validate"]["predictions"] > 300
    registry = MlflowRegistry(f"sqlite:///{tmp_path / '.katmatic' / 'registry.db'}")
    (mine,) = registry.versions("open")
    assert mine.is_champion
    assert (mine.tags["rows_sha256"], mine.tags["now"]) == (found["dataset"]["rows_sha256"], str(now))
    (record,) = told(tmp_path)
    assert (record.action, record.version) == ("promoted", 1)
    assert step("evaluate")[1]["version"] == 1, "it is not registered twice"
    trained = last_line(katmatic("train", "app.py", "--data", "other", "--now", now, "--json")[1])
    expected = {**msgspec.to_builtins(record), "artifact": trained["artifact"]}
    assert trained == expected
    (other,) = MlflowRegistry(f"sqlite:///{tmp_path / 'other' / 'registry.db'}").versions("open")
    assert other.tags["rows_sha256"] == mine.tags["rows_sha256"]


@pytest.mark.slow
def test_a_stage_before_its_time_says_which_comes_first(step, lived):
    for stage, before in (("fit", "dataset"), ("evaluate", "dataset"), ("gate", "evaluate"), ("promote", "gate")):
        code, said = step(stage)
        assert code == 2
        assert f"what the stage '{before}' writes" in said
    assert "one of validate, dataset" in step("ship")[1]
    assert "a moment of ISO 8601" in step("dataset", now="tomorrow")[1]


def test_where_nothing_is_to_be_learnt_the_next_stages_are_passed_over(step, lived):
    early = datetime.fromtimestamp(NOON / 1e6, UTC) + timedelta(minutes=3)
    code, found = step("dataset", now=early.isoformat())
    assert (code, found["reason"].endswith("labelled rows of 50")) == (SKIP, True)
    code, found = step("validate", now=LATER)
    assert (code, found["reason"]) == (SKIP, "no prediction in that time")


def test_events_that_cannot_be_read_stop_it(step, katmatic, tmp_path, recorded):
    with Path(recorded[0].split("=")[1]).open("a", encoding="utf-8") as more:
        more.writelines("{nothing\n" for _ in range(60))
    assert katmatic("replay", "app.py", *recorded)[0] == 0
    code, said = step("validate", "--since", "2025-04-01T00:00Z", now="2100-01-01T00:00Z")
    assert code == 2
    assert "60 that cannot be read" in said
    assert "at most 5%" in said


@pytest.mark.slow
def test_a_refused_version_is_told_once_and_never_promoted(step, lived, tmp_path):
    for stage in STAGES[1:]:
        assert step(stage)[0] == 0
    for stage in STAGES[1:4]:
        assert step(stage, work="again")[0] == 0
    for _ in range(2):
        code, found = step("gate", work="again")
        assert (code, found["action"], found["version"]) == (SKIP, "refused", 2)
    assert [(each.action, each.version) for each in told(tmp_path)] == [("promoted", 1), ("refused", 2)]
    code, said = step("promote", work="again")
    assert code == 2
    assert "refused: " in said


@pytest.mark.slow
def test_what_knew_of_less_never_takes_the_place_of_what_knows_of_more(step, lived, tmp_path):
    """A backfill trains on what was known then; whoever answers now stays."""
    for stage in STAGES[1:4]:
        assert step(stage, work="then")[0] == 0
    newer = ModelVersion(
        predictor="open", version=7, action="promoted", reason="", now=2**60, artifact=artifact("then")
    )
    with contextlib.closing(open_readonly(tmp_path / ".katmatic" / "log.db")) as log:
        log.post(MODELS, [encode(newer)])
    code, found = step("gate", work="then")
    assert (code, found["reason"]) == (SKIP, "version 7 answers, which knows of more")


def artifact(work):
    return json.loads(Path(work, "fitted.json").read_text("utf-8"))["folder"]


def test_files_that_somebody_changed_are_found(step, lived, tmp_path):
    assert step("dataset")[0] == 0
    rows, asked = tmp_path / "work" / "rows.parquet", tmp_path / "work" / "asked.parquet"
    whole = rows.read_bytes()
    rows.write_bytes(asked.read_bytes())
    assert "other rows than were written" in step("fit")[1]
    rows.write_bytes(whole[:100])
    code, said = step("fit")
    assert code == 2
    assert "rows of a training" in said
    rows.write_bytes(whole)
    assert step("fit")[0] == 0
