"""What lives is set aside, and cycles among it go in a quiet moment; threads do not wait long for each other."""

from __future__ import annotations

import gc
import sys
import weakref

import pytest

from katmatic import memory
from katmatic.memory import Collector, no_collections, only_new, quick_switches


class Thing:
    """Something that may refer to itself."""


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(memory, "monotonic_seconds", lambda: now[0])
    before = gc.get_threshold()
    yield now
    gc.unfreeze()
    gc.set_threshold(*before)


def test_what_lives_is_set_aside_and_goes_once_nothing_refers_to_it(clock):
    collector, before = Collector(), gc.get_freeze_count()
    things = [Thing() for _ in range(1000)]
    clock[0] += memory.ASIDE_SECONDS
    collector.turn(worked=True)
    assert gc.get_freeze_count() >= before + 1000
    gone = weakref.ref(things[0])
    del things[:]
    assert gone() is None


def test_what_was_looked_at_once_is_not_looked_at_again(clock):
    Collector()
    before = gc.get_stats()[2]["collections"]
    kept = [[Thing()] for _ in range(200_000)]
    assert gc.get_stats()[2]["collections"] == before, "a full collection came by itself"
    assert len(kept) == 200_000


def test_cycles_among_it_go_in_a_quiet_moment(clock):
    collector, thing = Collector(), Thing()
    thing.itself = thing
    gone = weakref.ref(thing)
    clock[0] += memory.ASIDE_SECONDS
    collector.turn(worked=True)
    del thing
    gc.collect()
    assert gone() is not None
    clock[0] += memory.FULL_SECONDS
    collector.turn(worked=True)
    assert gone() is not None, "there is work"
    clock[0] += memory.QUIET_SECONDS
    collector.turn(worked=False)
    assert gone() is None


def test_cycles_go_at_the_latest_after_hours_of_work(clock):
    collector, thing = Collector(), Thing()
    thing.itself = thing
    gone = weakref.ref(thing)
    clock[0] += memory.ASIDE_SECONDS
    collector.turn(worked=True)
    del thing
    clock[0] += memory.FULL_SECONDS_MOST
    collector.turn(worked=True)
    assert gone() is None


def test_cycles_among_what_is_new_go_with_one_of_the_next_turns(clock):
    collector, thing = Collector(), Thing()
    thing.itself = thing
    gone = weakref.ref(thing)
    del thing
    clock[0] += memory.ASIDE_SECONDS
    collector.turn(worked=True)
    assert gone() is None


def test_once_the_loop_has_ended_all_is_collected_as_before(clock):
    before = gc.get_threshold()
    with Collector() as collector:
        assert gc.get_threshold() != before
        clock[0] += memory.ASIDE_SECONDS
        collector.turn(worked=True)
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, 0)


def test_threads_switch_quickly_only_while_a_loop_runs():
    before = sys.getswitchinterval()
    with quick_switches():
        assert sys.getswitchinterval() == pytest.approx(memory.SWITCH_SECONDS)
    assert sys.getswitchinterval() == before


def test_for_a_while_the_collector_looks_only_at_what_is_new():
    old = Thing()
    old.itself = old
    gone = weakref.ref(old)
    with only_new():
        del old
        new = Thing()
        new.itself = new
        new_gone = weakref.ref(new)
        del new
        gc.collect()
        assert new_gone() is None
        assert gone() is not None
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("was_enabled", [True, False])
def test_for_a_while_nothing_is_collected(was_enabled):
    before = gc.isenabled()
    (gc.enable if was_enabled else gc.disable)()
    try:
        with no_collections():
            assert not gc.isenabled()
        assert gc.isenabled() == was_enabled
    finally:
        (gc.enable if before else gc.disable)()
