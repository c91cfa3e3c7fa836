"""Transactions whose end a broker has left out: what is meant is committed, what is gone is sent again.

A broker that falls leaves one out only now and then (`python -m bench.kafkalives`). Here the client leaves it out, on a
real broker: for what comes after, it is the same.
"""

from __future__ import annotations

from contextlib import closing

import pytest

from katmatic.errors import LogError
from katmatic.log.kafka import KafkaHistory, KafkaLog
from katmatic.log.kafka_ends import Hanging
from tests.components import need_kafka, topics_of

LABELS = "katmatic.labels"
pytestmark = pytest.mark.slow


@pytest.fixture
def address(tmp_path):
    return f"kafka://{need_kafka()}/{topics_of(tmp_path)}"


class Forgetful:
    """A producer that promises a commit, and does something else; of some topics it sends nothing."""

    def __init__(self, producer, instead, *, without=()):
        self._producer, self._instead, self._without = producer, instead, without

    def __getattr__(self, name):
        return getattr(self._producer, name)

    def commit_transaction(self, *_):
        getattr(self._producer, self._instead)(5.0)

    def produce(self, topic, *given, **more):
        if not topic.endswith(self._without):
            self._producer.produce(topic, *given, **more)


class Going:
    """A producer whose transaction is open still: what it begins goes into that one, as into one that hangs."""

    def __init__(self, producer):
        self._producer = producer

    def __getattr__(self, name):
        return getattr(self._producer, name)

    def begin_transaction(self):
        """It has begun."""


def commit(log, *values, fed=()):
    log.append("gate", list(values))
    log.wait(5.0)
    log.commit(log.read(1, limit=100), {LABELS: [b"made of %s" % b" ".join(values)]}, {"gate": fed} if fed else {})


def contents(address):
    with closing(KafkaHistory(address, "school")) as log:
        batches = [[value for piece in batch.slices for value in piece.values] for batch in log.batches()]
        return batches, [value for _, value in log.scan(LABELS)], log.pending("gate")


@pytest.mark.parametrize("without", [(), (".labels",), (".journal",)])
@pytest.mark.parametrize("instead", ["flush", "abort_transaction"])
def test_a_living_owner_sends_again_what_is_gone_of_its_last_batch(address, instead, without):
    with closing(KafkaLog(address, "school", ["gate"])) as log:
        commit(log, b"a")
        log._producer = Forgetful(log._producer, instead, without=without)
        commit(log, b"b", b"c", fed=[b"later"])
        log._is_shaken = True
        commit(log, b"d")
    with closing(KafkaLog(address, "school", ["gate"])) as log:
        commit(log, b"e")
    made = [b"made of a", b"made of b c", b"made of d", b"made of e"]
    assert contents(address) == ([[b"a"], [b"b", b"c"], [b"later", b"d"], [b"e"]], made, [])


@pytest.mark.parametrize("without", [".labels", "gate"])
def test_a_living_owner_sends_again_what_a_single_topic_lacks(address, without):
    with closing(KafkaLog(address, "school", ["gate"])) as log:
        commit(log, b"a")
        log._producer = Forgetful(log._producer, "commit_transaction", without=(without,))
        commit(log, b"b", fed=[b"later"])
        log._is_shaken = True
        commit(log, b"c")
    assert contents(address) == ([[b"a"], [b"b"], [b"later", b"c"]], [b"made of a", b"made of b", b"made of c"], [])


def test_what_hangs_and_is_whole_is_committed_by_the_next_owner(address):
    with closing(KafkaLog(address, "school", ["gate"])) as log:
        commit(log, b"a")
        last, producer = log._last, log._producer
        log._producer = Forgetful(producer, "flush")
        commit(log, b"b", fed=[b"later"])
        hanging = hanging_of(log)
        assert sorted(hanging.names) == sorted([log._journal, *map(log._connection.topic, ("gate", LABELS))])
        assert hanging.truth(last) == log._last
        assert sorted(hanging.meant(hanging.truth(last))) == sorted(hanging.names)
        assert hanging.meant(last) == []
        log._before = None
        truth = log._end_what_hangs(Going(producer), last)
        assert truth == log._last
        assert not hanging_of(log).names
    assert contents(address) == ([[b"a"], [b"b"]], [b"made of a", b"made of b"], [b"later"])
    with closing(KafkaLog(address, "school", ["gate"])) as log:
        commit(log, b"c")
        assert list(log.scan(LABELS, 1)) == [(1, b"made of b"), (2, b"made of c")]


@pytest.mark.parametrize("without", [".labels", "gate", ".journal"])
def test_what_hangs_and_is_not_whole_is_aborted(address, without):
    with closing(KafkaLog(address, "school", ["gate"])) as log:
        commit(log, b"a")
        last, producer = log._last, log._producer
        log._producer = Forgetful(producer, "flush", without=(without,))
        commit(log, b"b", fed=[b"later"])
        assert hanging_of(log).truth(last) == last
        log._before = None
        assert log._end_what_hangs(Going(producer), last) == last
    assert contents(address) == ([[b"a"]], [b"made of a"], [])
    with closing(KafkaLog(address, "school", ["gate"])) as log:
        commit(log, b"c")
    assert contents(address) == ([[b"a"], [b"c"]], [b"made of a", b"made of c"], [])


def test_what_no_end_can_be_given_is_said(address, monkeypatch):
    monkeypatch.setattr("katmatic.log.kafka.COMMIT_SECONDS", 0.5)
    with closing(KafkaLog(address, "school", ["gate"])) as log:
        commit(log, b"a")
        last, producer = log._last, log._producer
        log._producer = Forgetful(producer, "flush")
        commit(log, b"b")
        log._before = None
        with pytest.raises(LogError, match="records of ours that no transaction has ended"):
            log._end_what_hangs(Forgetful(Going(producer), "flush"), last)


def hanging_of(log):
    names = [log._connection.topic(topic) for topic in log._last.places]
    return Hanging(log._connection, log._journal, names)
