"""Recorded events through an application: in the order of their time, with what is told apart from it."""

from __future__ import annotations

import csv
import json

import pytest

from katmatic.clock import to_datetime
from katmatic.errors import KatmaticError, SettingsError
from katmatic.log.codec import decode_predictions
from katmatic.log.sqlite import open_readonly
from katmatic.records import DEAD, PREDICTIONS
from katmatic.replay import Pace, replay_files
from katmatic.settings import Settings
from tests.apps import NOON, SECOND, visits
from tests.test_runtime import DOOR, DOOR_WITH_CALENDAR

MINUTE = 60 * SECOND
COUNTS = ("events", "applied", "duplicate", "late", "dead")


@pytest.fixture
def replayed(tmp_path):
    """A function that replays files of a folder through an application's text; gives what came of it."""

    def run(*events, text=DOOR, topic=None, mapping=None, **options):
        path = tmp_path / "app.py"
        path.write_text(text, "utf-8")
        settings = Settings(data=str(tmp_path / "data"), training=options.pop("training", False))
        found = {"speed": None, "acts": False, "show": False} | options
        return replay_files(path, events, topic=topic, mapping=mapping or {}, settings=settings, **found)

    return run


def lines(path, values):
    path.write_bytes(b"".join(value + b"\n" for value in values))
    return str(path)


def stamp(moment):
    return to_datetime(moment).isoformat()


def test_two_files_are_one_history(tmp_path, replayed):
    """Rings and openings lie in a file each; merged by time, they give what they gave when they happened."""
    history = [each for each in visits(300) if each[2] != b"{nothing"]
    rings = lines(tmp_path / "rings.jsonl", [value for _, topic, value in history if topic == "ring"])
    openings = lines(tmp_path / "openings.jsonl", [value for _, topic, value in history if topic == "opened"])
    found = replayed(f"ring={rings}", f"opened={openings}")
    assert found["events"] == len(history)
    assert found["events"] == sum(found[name] for name in COUNTS[1:])
    assert found["applied"] > 300
    assert found["duplicate"] > 0
    assert found["late"] > 0, "twenty seconds late, by the order of the file"
    assert found["labels"] >= found["predictions"] > 0, "time settles what nobody opened"


def test_files_of_one_topic_follow_each_other(tmp_path, replayed):
    one = lines(tmp_path / "1.jsonl", [ring_at(NOON)])
    two = lines(tmp_path / "2.jsonl", [ring_at(NOON + MINUTE), ring_at(NOON + 2 * MINUTE)])
    assert replayed(one, two, topic="ring")["applied"] == 3


def ring_at(moment, **more):
    return json.dumps({"visitor": "v1", "at": stamp(moment), "loudness": 1.0} | more).encode()


def test_columns_of_other_names_are_mapped(tmp_path, replayed):
    path = tmp_path / "gate.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["tag", "seen", "db"])
        rows.writerows([["A", stamp(NOON), "3.5"], ["B", stamp(NOON + SECOND), ""], ["", stamp(NOON), "1"]])
    found = replayed(str(path), topic="ring", mapping={"visitor": "tag", "ring.at": "seen", "loudness": "db"})
    assert [found[name] for name in COUNTS] == [3, 2, 0, 0, 1]
    log = open_readonly(tmp_path / "data" / "log.db")
    blocks = [decode_predictions(value) for _, value in log.scan(PREDICTIONS)]
    assert [key for block in blocks for key in block.key] == [("A",), ("B",)]
    log.close()


@pytest.mark.parametrize(
    ("topic", "mapping", "words"),
    [
        (None, {}, "--topic"),
        ("rings", {}, "one of ring, opened"),
        ("ring", {"guest": "tag"}, "--map guest="),
        ("ring", {"opened.visitor": "tag"}, "--map opened.visitor="),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, replayed, topic, mapping, words):
    path = lines(tmp_path / "rings.jsonl", [ring_at(NOON)])
    with pytest.raises(SettingsError) as refused:
        replayed(path, topic=topic, mapping=mapping)
    assert words in str(refused.value)


@pytest.mark.parametrize("name", ["nothing.csv", "folder.csv", "notes.docx"])
def test_a_file_that_is_none_is_refused(tmp_path, replayed, name):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "notes.docx").write_bytes(b"PK")
    with pytest.raises(KatmaticError) as refused:
        replayed(str(tmp_path / name), topic="ring")
    assert name in str(refused.value)


def test_what_cannot_be_read_is_a_dead_letter_at_its_place(tmp_path, replayed):
    path = lines(
        tmp_path / "rings.jsonl", [b"{", ring_at(NOON), b"nothing", ring_at(NOON + MINUTE), b'{"visitor": "x"}']
    )
    found = replayed(path, topic="ring")
    assert [found[name] for name in COUNTS] == [5, 2, 0, 0, 3]
    log = open_readonly(tmp_path / "data" / "log.db")
    assert log.end(DEAD) == 3
    log.close()


def test_an_empty_file_is_nothing(tmp_path, replayed):
    found = replayed(lines(tmp_path / "rings.jsonl", []), topic="ring")
    assert [found[name] for name in COUNTS] == [0] * 5


def test_what_calendars_say_is_there_in_time(tmp_path, replayed):
    path = lines(tmp_path / "rings.jsonl", [ring_at(NOON), ring_at(NOON + 150 * MINUTE)])
    found = replayed(path, topic="ring", text=DOOR_WITH_CALENDAR.format(fails=0))
    assert found["dead"] == 0
    assert found["applied"] + found["late"] > 4, "the hours of the day before, and those in between"


def test_a_file_that_is_given_twice_counts_once(tmp_path, replayed):
    path = lines(tmp_path / "rings.jsonl", [ring_at(NOON + i * SECOND) for i in range(50)])
    found = replayed(path, path, topic="ring")
    assert [found[name] for name in COUNTS] == [100, 50, 50, 0, 0]


def test_what_is_replayed_later_goes_on_where_the_log_is(tmp_path, replayed):
    replayed(lines(tmp_path / "1.jsonl", [ring_at(NOON)]), topic="ring")
    found = replayed(lines(tmp_path / "2.jsonl", [ring_at(NOON + 2 * 86_400 * SECOND)]), topic="ring")
    assert [found[name] for name in COUNTS] == [2, 2, 0, 0, 0]
    assert found["labels"] == 4, "open and settled, each"


def test_a_pace_is_kept():
    pace = Pace(1000.0, NOON)
    assert 0 < pace.left(NOON + 10 * SECOND) <= 0.01
    pace(NOON + 10 * SECOND)
    assert pace.left(NOON + 10 * SECOND) <= 0
    assert pace.moment() >= NOON + 10 * SECOND
