"""The pipeline over a log: what is committed belongs together, and is the same however it came about."""

from __future__ import annotations

import shutil
import time
from itertools import groupby

import numpy as np
import pytest

from katmatic.aside import Aside, is_possible
from katmatic.clock import ManualClock
from katmatic.drive import drive, pass_until
from katmatic.errors import LogError
from katmatic.log.base import Batch
from katmatic.log.codec import decode, decode_labels, decode_predictions, encode
from katmatic.log.memory import MemoryLog
from katmatic.log.sqlite import SqliteLog
from katmatic.pipeline import Pipeline
from katmatic.records import ALERTS, DEAD, LABELS, MODELS, PREDICTIONS, ModelVersion
from katmatic.sources.base import Arrival
from katmatic.state.files import FileCheckpoints
from tests.apps import NOON, SECOND, Ring, door, ring, visits

END = NOON + 3 * 3600 * SECOND


def rows(log, topic):
    """What was written, row by row and without the edges of blocks."""
    if topic == PREDICTIONS:
        blocks = [decode_predictions(value) for _, value in log.scan(topic)]
        return [repr(block.row(i)) for block in blocks for i in range(len(block))]
    if topic == LABELS:
        blocks = [decode_labels(value) for _, value in log.scan(topic)]
        return [repr(block.row(i)) for block in blocks for i in range(len(block))]
    return [repr(decode(topic, value)) for _, value in log.scan(topic)]


def outputs(log):
    """Predictions, labels and dead letters; of one moment, in the order of their content."""
    return {topic: rows(log, topic) for topic in (PREDICTIONS, LABELS, DEAD)}


def feed(pipeline, clock, arrivals, *, grain=SECOND):
    drive(pipeline, clock, [Arrival(*each) for each in arrivals], grain=grain)
    pass_until(pipeline, clock, END)


def conserved(counts):
    return counts["events"] == counts["applied"] + counts["duplicate"] + counts["late"] + counts["dead"]


@pytest.fixture
def undisturbed():
    """The outputs of the whole history in one life."""
    clock, log = ManualClock(NOON), MemoryLog()
    feed(Pipeline(door(), log, clock), clock, visits(300))
    return outputs(log)


class Watch:
    def __init__(self):
        self.turns = []

    def turn(self, turn):
        self.turns.append(turn)


def test_every_event_has_one_fate_at_every_commit():
    clock, log, watch = ManualClock(NOON), MemoryLog(), Watch()
    pipeline = Pipeline(door(), log, clock, watchers=[watch])
    arrivals = visits(300)
    drive(pipeline, clock, [Arrival(*each) for each in arrivals])
    totals = dict.fromkeys(("events", "applied", "duplicate", "late", "dead"), 0)
    for turn in watch.turns:
        for name in totals:
            totals[name] += turn.changes.counts[name]
        assert conserved(totals)
    assert totals["events"] == len(arrivals)
    assert min(totals.values()) > 0, "the history has all of them"
    assert totals["dead"] == len(rows(log, DEAD))


def test_a_restart_goes_on_as_if_nothing_had_been(tmp_path, undisturbed):
    """Ended after any arrival, with or without a checkpoint, and begun again: the log holds the same in the end."""
    arrivals = visits(300)
    groups = [list(group) for _, group in groupby(arrivals, key=lambda each: each[0])]
    random = np.random.default_rng(2)
    cuts = sorted(random.choice(len(groups), 6, replace=False).tolist())
    clock = ManualClock(NOON)
    start = 0
    for life, stop in enumerate([*cuts, len(groups)]):
        log = SqliteLog(tmp_path / "log.db")
        pipeline = Pipeline(door(), log, clock, checkpoints=FileCheckpoints(tmp_path / "checkpoints"))
        pipeline.recover()
        part = [each for group in groups[start:stop] for each in group]
        drive(pipeline, clock, [Arrival(*each) for each in part], grain=1)
        if life == len(cuts):
            pass_until(pipeline, clock, END)
        if life % 2:
            pipeline.save()
        log.close()
        start = stop
    log = SqliteLog(tmp_path / "log.db")
    assert outputs(log) == undisturbed
    log.close()


def test_the_order_of_the_log_alone_decides_not_how_it_was_cut(undisturbed):
    """Read one by one, or thousands in one go by a restart: the state is the same, and so is all that follows."""
    clock, log = ManualClock(NOON), MemoryLog()
    pipeline = Pipeline(door(), log, clock)
    arrivals = visits(300)
    drive(pipeline, clock, [Arrival(*each) for each in arrivals[:400]], grain=1)
    again = Pipeline(door(), log, clock)
    assert again.recover() == 400
    assert again.state.now <= pipeline.state.now
    drive(again, clock, [Arrival(*each) for each in arrivals[400:]], grain=1)
    pass_until(again, clock, END)
    assert outputs(log) == undisturbed


def test_what_cannot_be_committed_is_tried_again_and_nothing_is_doubled(undisturbed):
    class Full(MemoryLog):
        fails = 0

        def commit(self, batch, written, fed=None, *, keep=False):
            if batch.slices and self.fails % 7 == 3:
                self.fails += 1
                raise LogError("log", found="a full disk", expected="room", do="free some")
            self.fails += 1
            super().commit(batch, written, fed or {}, keep=keep)

    clock, log = ManualClock(NOON), Full()
    pipeline = Pipeline(door(), log, clock)
    failures = 0
    for now, group in groupby(visits(300), key=lambda each: each[0]):
        while (due := pipeline.state.next_due) < now:
            clock.move_to(due)
            pipeline.turn()
        clock.move_to(now)
        for _, topic, value in group:
            log.append(topic, [value])
        try:
            pipeline.turn()
        except LogError:
            failures += 1
            pipeline.turn()
    pass_until(pipeline, clock, END)
    assert failures > 10
    assert outputs(log) == undisturbed


def test_a_full_disk_holds_everything_until_there_is_room(tmp_path):
    """The real log with a real limit of pages: senders are not told, the state is not saved, and then it goes on."""
    clock, log = ManualClock(NOON), SqliteLog(tmp_path / "log.db")
    checkpoints = FileCheckpoints(tmp_path / "checkpoints")
    pipeline = Pipeline(door(), log, clock, checkpoints=checkpoints)
    pipeline.turn()
    pages = log._connection.execute("PRAGMA page_count").fetchone()[0]
    log._connection.execute(f"PRAGMA max_page_count = {pages}")
    values = [ring(f"v{i}", NOON - i) for i in range(2000)]
    promise = log.append("ring", values)
    for _ in range(3):
        with pytest.raises(LogError, match="full"):
            pipeline.turn()
    assert not promise.done()
    pipeline.save()
    assert checkpoints.latest("door") is None, "the state is ahead of the log"
    log._connection.execute("PRAGMA max_page_count = 100000")
    assert len(pipeline.turn().batch) == 2000
    assert promise.result(0) == range(2000)
    assert len(rows(log, PREDICTIONS)) == 2000
    log.close()


@pytest.mark.skipif(not is_possible(), reason="processes with threads are copied on Linux only")
def test_what_is_saved_on_the_way_is_saved_aside_as_it_was_then(tmp_path, monkeypatch):
    monkeypatch.setattr("katmatic.pipeline.CHECKPOINT_BATCHES", 3)
    clock, log, aside = ManualClock(NOON), SqliteLog(tmp_path / "log.db"), Aside()
    checkpoints = FileCheckpoints(tmp_path / "checkpoints")
    pipeline = Pipeline(door(), log, clock, checkpoints=checkpoints, aside=aside)
    for i in range(3):
        log.append("ring", [ring(f"v{i}", NOON)])
        pipeline.turn()
    assert aside.is_busy
    monkeypatch.undo()
    sequence = log.sequence()
    while aside.is_busy:
        log.append("ring", [ring("more", NOON - log.end("ring"))])
        pipeline.turn()
        time.sleep(0.01)
    assert checkpoints.latest("door")[0] == sequence
    again = Pipeline(door(), log, clock, checkpoints=checkpoints)
    assert again.recover() == log.end("ring") - 3
    clock.move_to(NOON + SECOND)
    log.append("ring", [ring("more", NOON + SECOND)])
    (block,) = again.turn().predictions
    assert again.state.store.counts["applied"] == log.end("ring")
    assert block.row(0).features["rings_1h"] == log.end("ring") - 4
    log.close()


def test_records_and_batches_count_together_until_the_state_is_saved(tmp_path, monkeypatch):
    monkeypatch.setattr("katmatic.pipeline.CHECKPOINT_RECORDS", 8)
    monkeypatch.setattr("katmatic.pipeline.CHECKPOINT_BATCHES", 4)
    log, checkpoints = MemoryLog(), FileCheckpoints(tmp_path)
    pipeline = Pipeline(door(), log, ManualClock(NOON), checkpoints=checkpoints)
    log.append("ring", [ring(f"v{i}", NOON) for i in range(5)])
    pipeline.turn()
    assert checkpoints.latest("door") is None
    log.append("ring", [ring("Ann", NOON)])
    pipeline.turn()
    assert checkpoints.latest("door")[0] == log.sequence()


def test_what_a_restart_read_again_counts_too(tmp_path, monkeypatch):
    """Or one life after the other would have more and more to read, if each ends soon."""
    monkeypatch.setattr("katmatic.pipeline.CHECKPOINT_BATCHES", 5)
    log, checkpoints = SqliteLog(tmp_path / "log.db"), FileCheckpoints(tmp_path / "checkpoints")
    for life in range(2):
        pipeline = Pipeline(door(), log, ManualClock(NOON), checkpoints=checkpoints)
        assert pipeline.recover() == 3 * life
        for i in range(3):
            assert checkpoints.latest("door") is None or (life, i) == (1, 2)
            log.append("ring", [ring(f"{life}{i}", NOON)])
            pipeline.turn()
    assert checkpoints.latest("door") is not None
    log.close()


def test_a_restart_counts_each_batch_once(tmp_path, monkeypatch):
    """Found by measuring: 50,000 small batches took half a minute, as each was counted with all before it."""
    counted = []
    length = Batch.__len__
    monkeypatch.setattr(Batch, "__len__", lambda batch: counted.append(batch) or length(batch))
    log = MemoryLog()
    pipeline = Pipeline(door(), log, ManualClock(NOON))
    for i in range(300):
        log.append("ring", [ring(f"v{i}", NOON)])
        pipeline.turn()
    del counted[:]
    assert Pipeline(door(), log, ManualClock(NOON)).recover() == 300
    assert len(counted) < 10 * 300


@pytest.mark.skipif(not is_possible(), reason="processes with threads are copied on Linux only")
def test_that_it_could_not_be_saved_aside_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("katmatic.pipeline.CHECKPOINT_BATCHES", 3)
    log, aside = SqliteLog(tmp_path / "log.db"), Aside()
    checkpoints = FileCheckpoints(tmp_path / "checkpoints")
    pipeline = Pipeline(door(), log, ManualClock(NOON), checkpoints=checkpoints, aside=aside)
    shutil.rmtree(tmp_path / "checkpoints")
    log.append("ring", [ring("Ann", NOON)])
    deadline, told = time.monotonic() + 20, []
    while not told:
        assert time.monotonic() < deadline
        told = [alert for alert in pipeline.turn().alerts if alert.name == "checkpoint-failed"]
        time.sleep(0.01)
    assert "a restart will take longer" in told[0].text
    aside.stop()
    log.close()


def test_the_logs_time_never_goes_back(tmp_path):
    """A checkpoint may be of a later moment than the newest batch that was kept, and the clock may go back."""
    clock, log = ManualClock(NOON), SqliteLog(tmp_path / "log.db")
    checkpoints = FileCheckpoints(tmp_path / "checkpoints")
    pipeline = Pipeline(door(), log, clock, checkpoints=checkpoints)
    log.append("ring", [ring("Ann", NOON)])
    pipeline.turn()
    clock.move_to(NOON + 3600 * SECOND)
    pipeline.turn()
    pipeline.save()
    log.close()
    log = SqliteLog(tmp_path / "log.db")
    again = Pipeline(door(), log, ManualClock(NOON), checkpoints=checkpoints)
    again.recover()
    assert again.turn().batch.now == NOON + 3600 * SECOND
    log.close()


def test_a_changed_declaration_reads_all_of_the_log_again(tmp_path):
    from katmatic import past

    clock, log = ManualClock(NOON), SqliteLog(tmp_path / "log.db")
    checkpoints = FileCheckpoints(tmp_path / "checkpoints")
    pipeline = Pipeline(door(), log, clock, checkpoints=checkpoints)
    log.append("ring", [ring("Ann", NOON - i * SECOND) for i in range(10)])
    pipeline.turn()
    pipeline.save()
    changed = door(features={"rings_1d": past.count(Ring, "1d", by=Ring.visitor)})
    again = Pipeline(changed, log, clock, checkpoints=checkpoints)
    assert again.recover() == 10
    log.append("ring", [ring("Ann", NOON + SECOND)])
    clock.move_to(NOON + SECOND)
    (block,) = again.turn().predictions
    assert block.row(0).features["rings_1d"] == 10
    log.close()


def test_a_version_that_cannot_be_loaded_is_told_and_the_old_one_goes_on(tmp_path):
    clock, log = ManualClock(NOON), MemoryLog()
    pipeline = Pipeline(door(), log, clock)
    record = ModelVersion(
        predictor="open", version=4, action="promoted", reason="", now=NOON, artifact=str(tmp_path / "gone")
    )
    log.append(MODELS, [encode(record)])
    pipeline.turn()
    log.append("ring", [ring("Ann", NOON)])
    (block,) = pipeline.turn().predictions
    assert block.row(0).state == "learning"
    (alert,) = [decode(ALERTS, value) for _, value in log.scan(ALERTS)]
    assert alert.name == "model-not-loaded"
    assert "version 4" in alert.text


def test_a_feature_that_raises_marks_its_row_and_the_rest_goes_on():
    def wrong(event):
        return 1 / (event.loudness - 2)

    clock, log, watch = ManualClock(NOON), MemoryLog(), Watch()
    pipeline = Pipeline(door(features={"wrong": wrong}), log, clock, watchers=[watch])
    log.append("ring", [ring("Ann", NOON, 1.0), ring("Bob", NOON, 2.0), ring("Cid", NOON, 3.0)])
    (block,) = pipeline.turn().predictions
    assert block.failed.tolist() == [False, True, False]
    assert [row.features["wrong"] for row in map(block.row, range(3))] == [-1.0, None, 1.0]
    assert watch.turns[0].changes.errors == {"open": 1}


def test_a_watcher_that_raises_stops_nothing():
    class Broken:
        def turn(self, turn):
            raise RuntimeError("no screen")

    clock, log, watch = ManualClock(NOON), MemoryLog(), Watch()
    pipeline = Pipeline(door(), log, clock, watchers=[Broken(), watch])
    pipeline.turn()
    turn = pipeline.turn()
    assert [alert.name for alert in turn.alerts] == ["watcher-failed"]
    assert len(watch.turns) == 2
