"""A copy follows the log of an owner who is at work: the same batches, in the same order, and nothing of its own."""

from __future__ import annotations

import time
from contextlib import closing

import pytest

from katmatic.errors import LogError
from katmatic.log.follow import Followed
from katmatic.log.kafka import KafkaHistory, KafkaLog
from katmatic.log.sqlite import SqliteHistory, SqliteLog
from tests.components import need_kafka, topics_of

WAIT_SECONDS = 20.0


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.slow)])
def opened(request, tmp_path):
    """(open the owner's log, open a history of it)."""
    if request.param == "sqlite":
        return lambda: SqliteLog(tmp_path / "log.db"), lambda: SqliteHistory(tmp_path / "log.db")
    address = f"kafka://{need_kafka()}/{topics_of(tmp_path)}"
    return lambda: KafkaLog(address, "school", ["gate"]), lambda: KafkaHistory(address, "school")


def take(followed, count):
    """The next batches; between two, the moment stands still."""
    found = []
    while len(found) < count:
        assert followed.wait(WAIT_SECONDS), f"only {len(found)} of {count} batches came"
        found.append(followed.read(0, limit=1))
        followed.commit(found[-1], {"katmatic.labels": [b"kept nowhere"]})
        tick = followed.read(2**62, limit=1)
        assert (tick.sequence, tick.now, tick.slices) == (found[-1].sequence, found[-1].now, ())
    return found


def commit(log, turn):
    log.append("gate", [b"%d" % turn, b"and"])
    batch = log.read(turn, limit=10)
    log.commit(batch, {"katmatic.labels": [b"%d" % turn]}, {"katmatic.decisions": [b"fed"]} if turn % 3 == 0 else {})


def test_a_copy_gets_the_batches_that_were_and_those_that_come_also_of_the_next_owner(opened):
    make, history = opened
    with closing(make()) as log:
        for turn in range(5):
            commit(log, turn)
        with closing(Followed(history())) as copy:
            earlier = list(copy.batches(2))
            assert copy.sequence() == earlier[-1].sequence
            for turn in range(5, 9):
                commit(log, turn)
            later = take(copy, 4)
            log.close()
            with closing(make()) as log:
                for turn in range(9, 12):
                    commit(log, turn)
                later += take(copy, 3)
                assert [*earlier, *later] == list(log.batches(2))
                assert not copy.wait(0.1)
                assert log.end("katmatic.labels") == copy.end("katmatic.labels") == 12


def test_what_is_handed_to_a_copy_is_the_owners_to_read(opened):
    make, history = opened
    with closing(make()) as log, closing(Followed(history())) as copy:
        commit(log, 0)
        promises = [copy.append("gate", [b"a", b"b"]), copy.append("gate", [])]
        assert [promise.result(WAIT_SECONDS) for promise in promises] == [range(-2, 0), range(0)]
        assert log.wait(WAIT_SECONDS)
        deadline = time.monotonic() + WAIT_SECONDS
        while b"b" not in (value for _, value in log.scan("gate")) and time.monotonic() < deadline:
            log.commit(log.read(1, limit=10), {})
        assert [value for _, value in copy.scan("gate")][-2:] == [b"a", b"b"]
        refused = copy.append("katmatic.labels", [b"x"])
        with pytest.raises(LogError, match="a record to be read"):
            refused.result(WAIT_SECONDS)


def test_a_copy_of_what_was_never_reached_is_refused_and_may_try_again(opened):
    make, history = opened
    with closing(make()) as log, closing(Followed(history())) as copy:
        commit(log, 0)
        with pytest.raises(LogError, match="a checkpoint at batch 99999999"):
            list(copy.batches(99_999_999))
        with pytest.raises(LogError, match="a checkpoint at batch 99999999"):
            copy.wait(0.1)
        list(copy.batches())
        commit(log, 1)
        assert take(copy, 1)[0].now == 1


def test_a_copy_gets_the_ticks_with_their_own_moment(opened):
    """A batch without records has no length, and is one all the same: what fell due with it falls due for the copy."""
    make, history = opened
    with closing(make()) as log:
        commit(log, 1)
        log.commit(log.read(77, limit=10), {"katmatic.labels": [b"settled by time"]})
        with closing(Followed(history())) as copy:
            found = take(copy, 2)
    assert [(batch.now, len(batch)) for batch in found] == [(1, 2), (77, 0)]
