"""What is committed is synced by a thread beside: promises are kept, and watchers told, once it is durable."""

from __future__ import annotations

import shutil
import threading
from contextlib import closing

import pytest

from katmatic.clock import ManualClock
from katmatic.errors import LogLost
from katmatic.log import sync
from katmatic.log.sqlite import SqliteLog
from katmatic.pipeline import Pipeline
from katmatic.state.files import FileCheckpoints
from tests.apps import NOON, door, visits


class Disk:
    """Lets a sync wait, or fail."""

    def __init__(self, monkeypatch):
        self.is_open, self.error, self.syncs = threading.Event(), None, 0
        self.is_open.set()
        real = sync.sync

        def slow(file):
            self.is_open.wait(20)
            if self.error is not None:
                raise self.error
            real(file)
            self.syncs += 1

        monkeypatch.setattr(sync, "sync", slow)


@pytest.fixture
def disk(monkeypatch):
    found = Disk(monkeypatch)
    yield found
    found.is_open.set()


def commit(log, now, *values):
    promise = log.append("gate", list(values))
    log.commit(log.read(now, limit=100), {})
    return promise


def test_a_promise_is_kept_once_what_was_committed_is_durable(tmp_path, disk):
    with closing(SqliteLog(tmp_path / "log.db", syncs_beside=True)) as log:
        disk.is_open.clear()
        promises = [commit(log, now, b"A") for now in range(3)]
        assert (log.sequence(), log.durable()) == (3, 0)
        assert not any(promise.done() for promise in promises)
        assert not log.wait(0.01)
        disk.is_open.set()
        assert log.wait(20), "it became durable"
        assert log.durable(wait=True) == 3
        assert [promise.result(0) for promise in promises] == [range(1), range(1, 2), range(2, 3)]
        assert disk.syncs <= 3, "at the start, and then one for all that was written meanwhile"
        assert not log.wait(0.01), "it was told"


def test_an_empty_tick_after_it_is_durable_with_it(tmp_path, disk):
    with closing(SqliteLog(tmp_path / "log.db", syncs_beside=True)) as log:
        disk.is_open.clear()
        commit(log, 1, b"A")
        log.commit(log.read(2, limit=10), {})
        assert (log.sequence(), log.durable()) == (2, 0)
        disk.is_open.set()
        assert log.durable(wait=True) == 2


def test_a_sync_that_fails_is_the_end(tmp_path, disk):
    log = SqliteLog(tmp_path / "log.db", syncs_beside=True)
    assert commit(log, 1, b"A").result(20) == range(1)
    disk.error = OSError(5, "Input/output error")
    promise = commit(log, 2, b"B")
    with pytest.raises(LogLost, match=r"a disk that did not keep what was written .*Input/output error"):
        log.durable(wait=True)
    disk.error = None  # a later sync would say nothing of what is lost
    for call in (log.durable, lambda: commit(log, 3, b"C")):
        with pytest.raises(LogLost):
            call()
    log.close()
    with pytest.raises(Exception, match="a closed log"):
        promise.result(0)
    with closing(SqliteLog(tmp_path / "log.db")) as log:
        assert next(iter(log.scan("gate"))) == (0, b"A")


def test_a_power_cut_takes_nothing_that_was_acknowledged(tmp_path, disk):
    """The side file as it was at the last sync is what a power cut leaves at least."""
    here, there = tmp_path / "here", tmp_path / "there"
    with closing(SqliteLog(here / "log.db", syncs_beside=True)) as log:
        kept = [commit(log, now, b"%d" % now) for now in range(50)]
        assert log.durable(wait=True) == 50
        disk.is_open.clear()
        shutil.copytree(here, there)
        lost = [commit(log, now, b"%d" % now) for now in range(50, 60)]
        assert all(promise.done() for promise in kept)
        assert not any(promise.done() for promise in lost)
        disk.is_open.set()
    with closing(SqliteLog(there / "log.db")) as log:
        assert [value for _, value in log.scan("gate")] == [b"%d" % now for now in range(50)]


class Told:
    """A watcher that notes of which turns it was told."""

    def __init__(self):
        self.sequences = []

    def turn(self, turn):
        self.sequences.append(turn.batch.sequence)


def test_a_pipeline_goes_on_meanwhile_and_tells_of_a_turn_once_it_is_durable(tmp_path, disk):
    clock, told = ManualClock(NOON), Told()
    with closing(SqliteLog(tmp_path / "log.db", syncs_beside=True)) as log:
        pipeline = Pipeline(door(), log, clock, watchers=[told])
        disk.is_open.clear()
        for now, topic, value in visits(5):
            clock.move_to(now)
            log.append(topic, [value])
            pipeline.turn(ahead=True)
        assert told.sequences == []
        turns = log.sequence()
        assert turns > 5
        disk.is_open.set()
        pipeline.finish()
        assert told.sequences == [*range(1, turns + 1)]
        clock.move_to(clock.now() + 1)
        pipeline.turn()
        assert told.sequences[-1] == turns + 1, "one that does not work ahead is told at once"


def test_who_waits_for_records_is_told_of_what_becomes_durable(tmp_path, disk):
    clock, told = ManualClock(NOON), Told()
    with closing(SqliteLog(tmp_path / "log.db", syncs_beside=True)) as log:
        pipeline = Pipeline(door(), log, clock, watchers=[told])
        disk.is_open.clear()
        now, topic, value = next(iter(visits(1)))
        clock.move_to(now)
        log.append(topic, [value])
        pipeline.turn(ahead=True)
        threading.Timer(0.1, disk.is_open.set).start()
        pipeline.turn(1.0, ahead=True)
        assert told.sequences[0] == 1


def test_a_checkpoint_knows_no_more_than_what_is_durable(tmp_path, disk):
    clock = ManualClock(NOON)
    checkpoints = FileCheckpoints(tmp_path / "checkpoints")
    with closing(SqliteLog(tmp_path / "log.db", syncs_beside=True)) as log:
        pipeline = Pipeline(door(), log, clock, checkpoints=checkpoints)
        for now, topic, value in visits(5):
            clock.move_to(now)
            log.append(topic, [value])
            pipeline.turn(ahead=True)
        pipeline.finish()
        disk.error = OSError(5, "Input/output error")
        log.append("visit", [b"{}"])
        pipeline.turn(ahead=True)
        with pytest.raises(LogLost):
            pipeline.save()
        assert checkpoints.latest("door") is None
