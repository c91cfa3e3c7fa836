"""The doctor: what is well is said, what is not comes with what to do."""

from __future__ import annotations

import sqlite3

import pytest

from katmatic.doctor import examine
from katmatic.settings import Settings
from tests.apps import NOON
from tests.test_replay import lines, ring_at
from tests.test_runtime import DOOR


@pytest.fixture
def settings(tmp_path):
    return Settings(data=str(tmp_path / "data"))


def named(findings, what):
    return next(finding for finding in findings if finding.what.startswith(what))


def test_a_machine_on_which_nothing_has_run(settings):
    findings = examine(None, settings)
    assert all(finding.is_well for finding in findings), findings
    assert "not there yet" in named(findings, "data folder").found
    assert named(findings, "compiled loops").is_well


def test_an_application_is_looked_at(tmp_path, settings):
    path = tmp_path / "app.py"
    path.write_text(DOOR, "utf-8")
    findings = examine(path, settings)
    assert named(findings, "application door").found == "2 events, 1 labels, 1 predictors"
    assert named(findings, "predictor open").found == "4 features"


def test_memory_is_known_from_the_declaration(tmp_path, settings):
    path = tmp_path / "app.py"
    path.write_text(DOOR, "utf-8")
    finding = named(examine(path, settings), "memory per visitor")
    figures = finding.figures
    assert f"{figures['key_bytes']} bytes" in finding.found
    assert figures["key_bytes"] > 220
    assert figures["for_ever"] == ("kept for ever" in finding.found)
    assert all(window["event_bytes"] >= 32 for window in figures["windows"])
    label = named(examine(path, settings), "memory per open ")
    assert f"{label.figures['label_bytes']} bytes" in label.found


def test_an_application_that_cannot_be_read_is_not_well(tmp_path, settings):
    path = tmp_path / "app.py"
    path.write_text("x = 1 / 0", "utf-8")
    finding = examine(path, settings)[-1]
    assert not finding.is_well
    assert (finding.what, finding.found) == (f"{path}:1", "ZeroDivisionError: division by zero")
    assert finding.do


def replayed(tmp_path, settings):
    from katmatic.replay import replay_files

    path = tmp_path / "app.py"
    path.write_text(DOOR, "utf-8")
    events = [lines(tmp_path / "rings.jsonl", [ring_at(NOON + i * 1_000_000) for i in range(500)])]
    options = {"mapping": {}, "speed": None, "acts": False, "show": False}
    settings = Settings(data=settings.data, training=False)
    return replay_files(path, events, topic="ring", settings=settings, **options)


def test_a_log_is_read_whole(tmp_path, settings):
    replayed(tmp_path, settings)
    assert "500 records read" in named(examine(None, settings), "log").found
    assert "every checksum holds" in named(examine(None, settings), "log").found


def test_a_damaged_log_is_not_well(tmp_path, settings):
    replayed(tmp_path, settings)
    with sqlite3.connect(settings.folder / "log.db") as connection:
        connection.execute(
            "UPDATE records SET data = zeroblob(length(data)) WHERE place = (SELECT min(place) FROM records)"
        )
    bad = [finding for finding in examine(None, settings) if not finding.is_well]
    assert bad
    assert "log.db" in bad[0].what
    assert bad[0].do


def test_a_door_that_is_open_to_all_is_not_well(tmp_path):
    settings = Settings(data=str(tmp_path), host="0.0.0.0")
    assert not named(examine(None, settings), "access").is_well
    assert named(examine(None, Settings(data=str(tmp_path), host="0.0.0.0", token="secret")), "access").is_well


def test_a_folder_that_cannot_be_is_not_well(tmp_path):
    (tmp_path / "file").write_text("", "utf-8")
    finding = named(examine(None, Settings(data=str(tmp_path / "file" / "data"))), "data folder")
    assert not finding.is_well
    assert "choose another" in finding.do
