"""The judge of crashes can tell: what is missing, what counts twice, and what differs."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from datetime import timedelta

import pytest

from katmatic import pipeline as pipeline_of
from katmatic.clock import ManualClock
from katmatic.log.sqlite import SqliteLog, open_readonly
from katmatic.pipeline import Pipeline
from tests.apps import NOON, SECOND, Ring, door, ring, visits
from tests.disturbed import judged


@pytest.fixture
def lived(tmp_path):
    """A function that lets an application live: its log's history, and what was sent."""
    with contextlib.ExitStack() as undo:

        def live(app=None, history=None):
            clock, path = ManualClock(NOON), tmp_path / "log.db"
            log, sent = SqliteLog(path), []
            pipeline = Pipeline(app or door(), log, clock)
            for now, topic, value in history or visits(60):
                clock.move_to(now)
                log.append(topic, [value])
                pipeline.turn()
                if value != b"{nothing":
                    sent.append((topic, json.loads(value)))
            log.close()
            return undo.enter_context(contextlib.closing(open_readonly(path))), sent

        yield live


def test_an_undisturbed_life_is_as_it_should_be(lived):
    history, sent = lived()
    found = judged(door(), history, sent)
    assert (found["lost"], found["duplicated"], found["different"]) == (0, 0, 0)
    assert found["predictions"] > 50


def test_what_was_acknowledged_and_is_not_there_is_lost(lived):
    history, sent = lived()
    more = ("ring", {**sent[0][1], "visitor": "nobody"})
    assert judged(door(), history, [*sent, more])["lost"] == 1


def test_what_counts_twice_is_told(lived):
    app = door()
    app.sources[Ring] = replace(app.sources[Ring], duplicates=timedelta(0))
    again = [(NOON, "ring", ring("anna", NOON)), (NOON + SECOND, "ring", ring("anna", NOON))]
    history, sent = lived(app, again)
    assert judged(app, history, sent)["duplicated"] == 1
    assert judged(door(), history, sent)["duplicated"] == 0


def test_rows_that_differ_are_counted_on_both_sides(lived, monkeypatch):
    encode, rows = pipeline_of.encode_predictions, []

    def wrong(block):
        rows.append(block)
        if len(rows) == 20:
            block.values[0, 0] += 1
        return encode(block)

    monkeypatch.setattr(pipeline_of, "encode_predictions", wrong)
    history, sent = lived()
    assert judged(door(), history, sent)["different"] == 2
