"""Any history gives the same batches, positions and records in memory and on disk, with crashes in between."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from katmatic.errors import LogError
from katmatic.log.memory import MemoryLog
from katmatic.log.sqlite import SqliteLog

TOPICS = ("gate", "bell", "katmatic.decisions", "katmatic.labels", "katmatic.dead")
VALUES = st.lists(st.binary(max_size=6), max_size=5)


class BothLogs(RuleBasedStateMachine):
    """Does the same to both, and compares all that can be seen."""

    @initialize()
    def open(self):
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "log.db"
        self.memory, self.disk = MemoryLog(tail_records_limit=20), SqliteLog(self.path, tail_records_limit=20)
        self.promises, self.batch, self.now = [], None, 0

    def both(self, call):
        """What both give back; the refusal of one must be that of the other."""
        found = []
        for log in (self.memory, self.disk):
            try:
                found.append((call(log), None))
            except LogError as error:
                found.append((None, (type(error), error.do)))  # sequences and places may differ
        assert found[0][1] == found[1][1]
        return found[0][0], found[1][0]

    @rule(topic=st.sampled_from(TOPICS), values=VALUES)
    def append(self, topic, values):
        self.promises.append(self.both(lambda log: log.append(topic, values)))

    @rule(later=st.integers(-5, 5), limit=st.integers(1, 9))
    def read(self, later, limit):
        self.now = max(self.now + later, 0)
        self.batch = self.both(lambda log: log.read(self.now, limit=limit))
        one, two = self.batch
        assert (one.now, one.slices) == (two.now, two.slices)

    @precondition(lambda self: self.batch is not None)
    @rule(
        written=st.dictionaries(st.sampled_from(TOPICS[2:]), VALUES, max_size=2),
        fed=st.dictionaries(st.sampled_from(TOPICS[:3]), VALUES, max_size=2),
    )
    def commit(self, written, fed):
        batches = {id(self.memory): self.batch[0], id(self.disk): self.batch[1]}
        self.both(lambda log: log.commit(batches[id(log)], written, fed))

    @rule(ended=st.booleans())
    def reopen(self, ended):
        if ended:
            self.disk.close()
        else:  # as SIGKILL would
            self.disk._connection.close()
            self.disk._past.close()
            os.close(self.disk._owner)
        self.memory.close()
        self.memory = MemoryLog(self.memory, tail_records_limit=20)
        self.disk = SqliteLog(self.path, tail_records_limit=20)
        self.batch, self.promises = None, []

    @rule(topic=st.sampled_from(TOPICS), start=st.integers(0, 30), stop=st.none() | st.integers(0, 30))
    def scan(self, topic, start, stop):
        one, two = self.both(lambda log: list(log.scan(topic, start, stop)))
        assert one == two

    @invariant()
    def nothing_tells_them_apart(self):
        one, two = self.both(lambda log: [(batch.now, batch.slices) for batch in log.batches()])
        assert one == two
        for topic in TOPICS:
            assert self.memory.end(topic) == self.disk.end(topic)
        assert self.memory.waiting == self.disk.waiting
        for one, two in self.promises:
            if one is not None:
                assert one.done() == two.done()
                assert not one.done() or one.result(0) == two.result(0)

    def teardown(self):
        if hasattr(self, "disk"):
            self.disk.close()
            self.folder.cleanup()


TestBothLogs = BothLogs.TestCase
TestBothLogs.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_log_in_memory_gives_what_was_kept_to_the_next_one():
    log = MemoryLog()
    log.append("gate", [b"a"])
    log.commit(log.read(1, limit=1), {"katmatic.labels": [b"l"]})
    log.close()
    again = MemoryLog(log)
    assert list(again.scan("katmatic.labels")) == [(0, b"l")]
    with pytest.raises(LogError, match="closed"):
        list(log.batches())
