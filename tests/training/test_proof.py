"""The proof of zero skew over a log: it passes what is right, finds one wrong bit, and keeps within its budget."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest

from katmatic import pipeline as pipeline_of
from katmatic.clock import ManualClock
from katmatic.log.codec import decode_predictions, encode_predictions
from katmatic.log.kafka import KafkaHistory, KafkaLog
from katmatic.log.sqlite import SqliteLog, open_readonly
from katmatic.pipeline import Pipeline
from katmatic.records import DECISIONS, MODELS, PREDICTIONS
from katmatic.training.naive import Replay
from katmatic.training.proof import Budget, Proof
from tests.apps import NOON, door, visits
from tests.components import need_kafka, topics_of


def flip(block, row, column, bit=0):
    """The block with one bit of one value turned."""
    values = block.values.copy()
    values.view(np.uint64)[row, column] ^= np.uint64(1 << bit)
    return replace(block, values=values)


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A function that serves visits, and turns a bit in the n-th row; the log's history, closed in the end."""
    opened = []

    def serve(app=None, *, planted=None, number=300, history=None):
        rows = [0]

        def encode(block):
            first, rows[0] = rows[0], rows[0] + len(block)
            if planted is not None and first <= planted < rows[0]:
                block = flip(block, planted - first, block.columns.index("loudness_1h"))
            return encode_predictions(block)

        monkeypatch.setattr(pipeline_of, "encode_predictions", encode)
        clock = ManualClock(NOON)
        path = tmp_path / "log.db"
        log = SqliteLog(path)
        pipeline = Pipeline(app or door(), log, clock)
        for now, topic, value in history or visits(number):
            clock.move_to(now)
            log.append(topic, [value])
            pipeline.turn()
        clock.wait(120)
        pipeline.turn()
        log.close()
        opened.append(open_readonly(path))
        return opened[-1]

    yield serve
    for history in opened:
        history.close()


def test_what_was_served_is_proved(served):
    history = served()
    report = Proof(door(), history, share=1.0, clock=ManualClock(NOON)).whole()
    (skew,) = report.skews
    rows = [len(decode_predictions(value)) for _, value in history.scan(PREDICTIONS)]
    assert skew.rows == sum(rows) > 250
    assert skew.values == 4 * skew.rows
    assert (skew.mismatches, skew.unprovable, skew.skipped) == (0, 0, 0)
    assert report.differences == ()


def test_one_wrong_bit_is_found_with_its_row(served):
    history = served(planted=200)
    report = Proof(door(), history, share=1.0, clock=ManualClock(NOON)).whole()
    wrong = list(chain.from_iterable(
        [block.row(i) for i in range(len(block))]
        for block in (decode_predictions(value) for _, value in history.scan(PREDICTIONS))
    ))[200]  # fmt: skip
    assert report.mismatches == 1
    (found,) = report.differences
    assert (found.anchor, found.feature, found.key) == (wrong.anchor, "loudness_1h", wrong.key)
    assert found.served == repr(wrong.features["loudness_1h"]) != found.found


def test_what_was_served_before_is_read_and_not_proved(served):
    history = served(planted=3)
    start = history.end(PREDICTIONS) - 20
    report = Proof(door(), history, start=start, share=1.0, clock=ManualClock(NOON)).whole()
    assert report.rows == 20
    assert report.mismatches == 0


def test_a_function_that_does_not_say_the_same_again_is_found(served):
    calls = iter(range(10_000))
    app = door(features={"odd": lambda event: next(calls)})
    report = Proof(app, served(app), share=1.0, clock=ManualClock(NOON)).whole()
    assert report.mismatches == report.rows > 250
    assert {difference.feature for difference in report.differences} == {"odd"}


def test_with_no_room_it_says_so(served):
    history = served(planted=250)
    app = door()
    replay = Replay(app, entries_limit=50, key_limit=5)
    report = Proof(app, history, share=1.0, clock=ManualClock(NOON), replay=replay).whole()
    (skew,) = report.skews
    assert skew.unprovable > 0
    assert skew.values + skew.unprovable + skew.mismatches == 4 * skew.rows
    assert skew.mismatches <= 1, "a row is blamed only for what can be proved"
    assert report.keys_share < 1


def test_the_rows_of_another_declaration_are_passed_over(served):
    history = served()
    app = door(features={"more": lambda event: 1})
    report = Proof(app, history, share=1.0, clock=ManualClock(NOON)).whole()
    assert report.rows == 0
    assert report.skipped > 250


@pytest.mark.slow
def test_on_kafka_it_is_the_same(tmp_path):
    place = f"kafka://{need_kafka()}/{topics_of(tmp_path)}"
    clock = ManualClock(NOON)
    with closing(KafkaLog(place, "door", ["ring", "opened", DECISIONS, MODELS])) as log:
        pipeline = Pipeline(door(), log, clock)
        for now, topic, value in visits(60):
            clock.move_to(now)
            log.append(topic, [value])
            pipeline.turn(5.0)
        clock.wait(120)
        pipeline.turn()
        with closing(KafkaHistory(place, "door")) as history:
            report = Proof(door(), history, share=1.0, clock=clock).whole()
            followed = next(each for each in Proof(door(), history, clock=clock).follow() if each.rows == report.rows)
    assert report.rows > 50
    assert report.skews[0].values == 4 * report.rows
    assert report.mismatches == followed.mismatches == report.unprovable == 0


def test_it_sleeps_off_what_it_has_used_too_early():
    now, used, slept = [0.0], [0.0], []

    def sleeping(seconds):
        slept.append(seconds)
        now[0] += seconds

    budget = Budget(0.05, used=lambda: used[0], passed=lambda: now[0], sleeping=sleeping)
    for _ in range(100):
        used[0] += 0.01
        now[0] += 0.01
        budget.pause()
    assert used[0] == pytest.approx(1.0)
    assert now[0] >= 14.9, "5 % of 15 s, and what may be used at once"
    assert now[0] <= 20.1
    assert max(slept) <= 0.5
