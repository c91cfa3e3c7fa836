"""The tail: bounded, in order, and each promise kept once."""

from __future__ import annotations

import pytest

from katmatic.errors import LogError, LogFull
from katmatic.log import tail
from katmatic.log.tail import Tail


def settle(waiting, count, first):
    """As a log does it."""
    for promise, positions in waiting.settle(count, first):
        promise.set_result(positions)


def test_a_full_tail_says_how_full_it_is_and_takes_more_when_some_is_durable():
    waiting = Tail("log", records_limit=3, bytes_limit=100)
    waiting.put("gate", [b"a", b"b"])
    with pytest.raises(
        LogFull, match=r"2 records of 2 bytes waiting, and 2 of 2 bytes more, expected at most 3 records"
    ):
        waiting.put("gate", [b"c", b"d"])
    promise = waiting.put("gate", [b"c"])
    settle(waiting, 2, 0)
    waiting.put("gate", [b"d", b"e"])
    settle(waiting, 3, 2)
    assert promise.result(0) == range(2, 3)
    assert len(waiting) == 0


def test_bytes_are_limited_too():
    waiting = Tail("log", records_limit=100, bytes_limit=10)
    waiting.put("gate", [b"12345678"])
    with pytest.raises(LogFull):
        waiting.put("gate", [b"123"])
    waiting.put("gate", [b"12"])
    settle(waiting, 2, 0)
    waiting.put("gate", [b"1234567890"])


def test_more_than_the_limit_goes_into_an_empty_tail_so_that_nothing_is_refused_for_ever():
    waiting = Tail("log", records_limit=2, bytes_limit=5)
    promise = waiting.put("gate", [b"123", b"456", b"789"])
    assert [len(waiting.take(0, 100)[0][0].values), len(waiting)] == [3, 3]
    with pytest.raises(LogFull):
        waiting.put("gate", [b"1"])
    settle(waiting, 3, 0)
    assert promise.result(0) == range(3)


def test_what_is_durable_already_goes_above_the_limit():
    waiting = Tail("log", records_limit=1, bytes_limit=1)
    waiting.put("gate", [b"1"])
    waiting.put_durable("decisions", [b"22", b"33"], 7)
    (_, decisions), number = waiting.take(0, 2)
    assert (decisions.values, number) == ([b"22"], 7)


def test_a_batch_is_limited_in_bytes_and_a_single_record_always_goes(monkeypatch):
    monkeypatch.setattr(tail, "BATCH_BYTES_LIMIT", 10)
    waiting = Tail("log")
    waiting.put("gate", [b"x" * 25, b"x" * 4, b"x" * 4])
    waiting.put("gate", [b"x" * 6])
    waiting.put("bell", [b"x" * 5])
    sizes, first = [], 0
    while len(waiting):
        slices, _ = waiting.take(first, 100)
        sizes.append([len(value) for piece in slices for value in piece.values])
        settle(waiting, len(sizes[-1]), first)
        first += len(sizes[-1])
    assert [size for batch in sizes for size in batch] == [25, 4, 4, 6, 5]
    assert all(sum(batch) <= 10 or len(batch) == 1 for batch in sizes)


def test_a_record_that_is_too_large_is_refused():
    with pytest.raises(LogError, match="a record of 16777217 bytes, expected at most 16777216"):
        Tail("log").put("gate", [b"x" * (16 * 2**20 + 1)])


def test_an_end_breaks_the_promises_that_are_open_and_those_of_which_a_part_was_durable():
    waiting = Tail("log")
    part, none = waiting.put("gate", [b"a", b"b"]), waiting.put("gate", [b"c"])
    settle(waiting, 1, 0)
    assert waiting.close() == [part, none]
    assert not len(waiting)
    with pytest.raises(LogError, match="closed"):
        waiting.put("gate", [b"d"])
