"""What every log promises, as checks that a backend passes or fails with a sentence that says what is wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import closing
from functools import partial
from typing import Any

from katmatic.errors import LogError
from katmatic.log.base import Batch, Log, Slice

Make = Callable[[], Log]
WAIT_SECONDS = 10.0  # far more than a backend on a loaded machine needs


def check_log(make: Callable[[str], Log]) -> None:
    """Raise AssertionError at the first promise that a log breaks.

    `make(name)` opens the log of that name: an empty one at first, the same one again after it was closed.

    >>> from katmatic.log.memory import MemoryLog
    >>> logs = {}
    >>> def make(name):
    ...     logs[name] = MemoryLog(logs.get(name))
    ...     return logs[name]
    >>> check_log(make)
    """
    for check in CHECKS:
        check(partial(make, check.__name__))


def check_positions_are_shared_by_all_that_is_read(make: Make) -> None:
    """Records get the positions 0, 1, 2, ... in the order of their arrival, whatever their topic."""
    with closing(make()) as log:
        promises = [log.append("gate", [b"a", b"b"]), log.append("bell", [b"c"]), log.append("gate", [b"d"])]
        _equal([p.done() for p in promises], [False] * 3, "promises kept before the commit")
        batch = log.read(5, limit=100)
        expected = (Slice("gate", 0, [b"a", b"b"]), Slice("bell", 2, [b"c"]), Slice("gate", 3, [b"d"]))
        _equal(tuple(batch.slices), expected, "what was read")
        _equal(batch.now, 5, "the moment of the batch")
        log.commit(batch, {})
        _equal([_kept(p) for p in promises], [range(2), range(2, 3), range(3, 4)], "the promised positions")
        _equal(_scan(log, "gate"), [(0, b"a"), (1, b"b"), (3, b"d")], "the records of a topic")
        _equal(_scan(log, "bell"), [(2, b"c")], "the records of the other topic")
        _equal([log.end("gate"), log.end("bell"), log.end("never")], [4, 3, 0], "the ends of the topics")


def check_equal_topics_in_a_row_are_one_slice(make: Make) -> None:
    """Records of one topic that arrive in a row are one slice, however they were handed in."""
    with closing(make()) as log:
        for value in (b"a", b"b", b"c"):
            log.append("gate", [value])
        _equal(tuple(log.read(1, limit=100).slices), (Slice("gate", 0, [b"a", b"b", b"c"]),), "the slices")


def check_limit(make: Make) -> None:
    """A batch holds at most `limit` records; what was handed in at once keeps positions in a row."""
    with closing(make()) as log:
        first, second = log.append("gate", [b"%d" % i for i in range(7)]), log.append("bell", [b"x"])
        sizes = []
        while len(batch := log.read(1, limit=3)):
            sizes.append(len(batch))
            log.commit(batch, {}, {"katmatic.decisions": [b"fed"]} if len(sizes) == 1 else {})
            _equal(first.done(), len(sizes) >= 3, f"the promise after {sum(sizes)} of 7 records")
        _equal(sizes, [3, 3, 3], "the sizes of the batches")
        _equal([_kept(first), _kept(second)], [range(7), range(7, 8)], "the promised positions")
        _equal(_scan(log, "katmatic.decisions"), [(8, b"fed")], "what was fed after the rest was appended")


def check_written_records_are_numbered_by_topic(make: Make) -> None:
    """Written records are numbered per topic from 0, go to the end, and can be read from any position on."""
    with closing(make()) as log:
        for turn in range(3):
            log.append("gate", [b"event"])
            written = {"katmatic.labels": [b"l%d" % turn], "katmatic.dead": [b"d"] * turn}
            log.commit(log.read(turn, limit=10), written)
        _equal(_scan(log, "katmatic.labels"), [(0, b"l0"), (1, b"l1"), (2, b"l2")], "the written records")
        _equal(list(log.scan("katmatic.labels", 1)), [(1, b"l1"), (2, b"l2")], "those from a position on")
        _equal(list(log.scan("katmatic.labels", 1, 2)), [(1, b"l1")], "those up to a position")
        _equal(list(log.scan("katmatic.labels", 3)), [], "those after the last")
        _equal(list(log.scan("katmatic.labels", 2, 1)), [], "those of no positions")
        _equal([log.end("katmatic.labels"), log.end("katmatic.dead")], [3, 3], "the ends of the topics")


def check_scan_starts_and_stops_anywhere(make: Make) -> None:
    """A scan gives every position in its bounds, also where topics are mixed within a batch."""
    with closing(make()) as log:
        expected = []
        for turn in range(4):
            for i in range(5):
                log.append("gate" if i % 2 else "bell", [b"%d %d" % (turn, i), b"again"])
            batch = log.read(turn, limit=100)
            for piece in batch.slices:
                if piece.topic == "gate":
                    expected += list(enumerate(piece.values, piece.first))
            log.commit(batch, {})
        for start in range(0, 42, 3):
            for stop in (None, *range(start, 42, 4)):
                inside = [row for row in expected if start <= row[0] and (stop is None or row[0] < stop)]
                _equal(list(log.scan("gate", start, stop)), inside, f"the records from {start} up to {stop}")


def check_batches_come_again(make: Make) -> None:
    """`batches` gives what was read and committed once more: the same moments, slices, positions and bytes."""
    with closing(make()) as log:
        committed = []
        for turn in range(5):
            for i in range(turn):
                log.append(f"topic{i % 3}", [bytes([turn, i]) * i, b"", b"\x00\xff"])
            batch = log.read(turn * 10, limit=100)
            log.commit(batch, {"katmatic.alerts": [b"alert"]})
            committed.append(batch)
        _equal_batches(log.batches(), committed)
        _equal_batches(log.batches(committed[1].sequence), committed[2:])
        _equal_batches(log.batches(committed[-1].sequence), [])
    with closing(make()) as log:
        _equal_batches(log.batches(), committed)


def check_a_reopened_log_goes_on(make: Make) -> None:
    """After it was closed and opened again, positions, sequences and moments go on where they were."""
    with closing(make()) as log:
        log.append("gate", [b"a", b"b"])
        log.commit(log.read(1000, limit=10), {"katmatic.labels": [b"l0"]}, {"katmatic.decisions": [b"fed"]})
        sequence = log.sequence()
    with closing(make()) as log:
        _true(log.sequence() >= sequence, "the sequence fell back")
        _true(log.wait(0), "what was fed was lost")
        log.append("gate", [b"c"])
        batch = log.read(7, limit=10)
        _true(batch.sequence > sequence, "a sequence was given twice")
        _equal(batch.now, 1000, "the moment, which never goes back")
        _equal(
            tuple(batch.slices), (Slice("katmatic.decisions", 2, [b"fed"]), Slice("gate", 3, [b"c"])), "what was read"
        )
        log.commit(batch, {"katmatic.labels": [b"l1"]})
        _equal(_scan(log, "katmatic.labels"), [(0, b"l0"), (1, b"l1")], "the written records")
    with closing(make()) as log:
        _equal(len(log.read(2000, limit=10)), 0, "records read a second time")


def check_what_was_not_committed_was_never_there(make: Make) -> None:
    """Records that were appended, and even read, but not committed are gone, and their senders know it."""
    log = make()
    log.append("gate", [b"kept"])
    log.commit(log.read(1, limit=10), {})
    promise = log.append("gate", [b"lost"])
    log.read(2, limit=10)
    log.close()
    _refused(lambda: promise.result(WAIT_SECONDS), "the promise of a record that was not committed")
    with closing(make()) as log:
        _equal(_scan(log, "gate"), [(0, b"kept")], "the records")
        _equal(len(log.read(3, limit=10)), 0, "records waiting")


def check_reading_again_before_the_commit(make: Make) -> None:
    """A batch that was not committed is read again, with what came meanwhile; only the newest can be committed."""
    with closing(make()) as log:
        log.append("gate", [b"a"])
        first = log.read(1, limit=10)
        log.append("gate", [b"b"])
        second = log.read(2, limit=10)
        _equal(tuple(second.slices), (Slice("gate", 0, [b"a", b"b"]),), "what was read again")
        _refused(lambda: log.commit(first, {}), "a batch that is not the newest")
        log.commit(second, {})
        _refused(lambda: log.commit(second, {}), "a batch for the second time")
        _equal(_scan(log, "gate"), [(0, b"a"), (1, b"b")], "the records")


def check_ticks(make: Make) -> None:
    """A tick that wrote something is kept, or that is to be; others need not be; no sequence is ever given twice."""
    with closing(make()) as log:
        kept = []
        given = []
        for turn in range(20):
            written = {"katmatic.labels": [b"due"]} if turn % 5 == 4 else {}
            batch = log.read(turn, limit=10)
            _equal((tuple(batch.slices), len(batch)), ((), 0), "a tick")
            log.commit(batch, written, {"katmatic.decisions": []}, keep=turn % 5 == 2)
            given.append(batch.sequence)
            kept += [batch] if written or turn % 5 == 2 else []
            _equal(log.sequence(), batch.sequence, "the sequence after a tick")
        _true(given == sorted(set(given)), f"sequences do not rise: {given}")
        found = list(log.batches())
        _equal(
            [batch for batch in found if batch in kept], kept, "the ticks that wrote something, or that were to be kept"
        )
        tick = given[-1]
    with closing(make()) as log:
        log.append("gate", [b"after"])
        batch = log.read(100, limit=10)
        log.commit(batch, {})
        _true(batch.sequence > tick, "the sequence of a tick was given again, though a checkpoint may stand for it")
        _equal_batches(log.batches(tick), [batch])


def check_fed_records_are_read_later(make: Make) -> None:
    """What a commit feeds is read before all that was appended after it, gets its position then, and is read once."""
    with closing(make()) as log:
        log.append("gate", [b"a"])
        batch = log.read(1, limit=10)
        log.append("gate", [b"b"])
        log.commit(batch, {}, {"katmatic.decisions": [b"d1", b"d2"]})
        log.append("gate", [b"c"])
        _equal(log.end("katmatic.decisions"), 0, "the end of a topic whose records were not read yet")
        batch = log.read(2, limit=10)
        fed = [b"d1", b"d2"]
        _equal(log.pending("katmatic.decisions"), fed, "what is pending")
        expected = (Slice("gate", 1, [b"b"]), Slice("katmatic.decisions", 2, fed), Slice("gate", 4, [b"c"]))
        _equal(tuple(batch.slices), expected, "what was read")
        log.commit(batch, {})
        _equal(_scan(log, "katmatic.decisions"), [(2, b"d1"), (3, b"d2")], "what was fed")
    with closing(make()) as log:
        _equal(len(log.read(3, limit=10)), 0, "records read a second time")


def check_fed_records_in_several_helpings(make: Make) -> None:
    """Of much that was fed at once, the part that was not read is read after the log was opened again."""
    fed = [b"%d" % i for i in range(5)]
    with closing(make()) as log:
        log.commit(log.read(1, limit=10), {}, {"katmatic.decisions": fed})
        log.commit(log.read(2, limit=2), {})
    with closing(make()) as log:
        batch = log.read(3, limit=10)
        _equal(tuple(batch.slices), (Slice("katmatic.decisions", 2, fed[2:]),), "what was left")
        log.commit(batch, {})
        _equal([value for _, value in log.scan("katmatic.decisions")], fed, "all that was fed")


def check_a_topic_has_one_way_in(make: Make) -> None:
    """A topic whose records are read cannot be written, nor the other way round: positions would be ambiguous."""
    with closing(make()) as log:
        log.append("gate", [b"a"])
        log.commit(log.read(1, limit=10), {"katmatic.labels": [b"l"]})
        _refused(lambda: log.append("katmatic.labels", [b"x"]), "an append to a written topic")
        batch = log.read(2, limit=10)
        _refused(lambda: log.commit(batch, {"gate": [b"x"]}), "a record written to a topic that is read")
        _refused(lambda: log.commit(batch, {}, {"katmatic.labels": [b"x"]}), "a record fed to a written topic")
        log.commit(batch, {"katmatic.labels": [b"l"]})
        _equal(_scan(log, "gate"), [(0, b"a")], "the records")


def check_only_bytes(make: Make) -> None:
    """What is no bytes is refused where it is handed in, and nothing of it gets in."""
    values: Any = [b"a", "text"]
    with closing(make()) as log:
        _refused(lambda: log.append("gate", values), "a text as a record")
        batch = log.read(1, limit=10)
        _equal(len(batch), 0, "records waiting")
        _refused(lambda: log.commit(batch, {"katmatic.labels": values}), "a text written")
        log.commit(batch, {})
        _equal(_scan(log, "katmatic.labels"), [], "the records")


def check_nothing_appended(make: Make) -> None:
    """An append of no records promises no positions, at once."""
    with closing(make()) as log:
        _equal(len(log.append("gate", []).result(0)), 0, "positions of nothing")


def check_the_senders_list_is_its_own(make: Make) -> None:
    """What a sender does with its list afterwards changes nothing."""
    with closing(make()) as log:
        values = [b"a"]
        log.append("gate", values)
        values[0] = b"changed"
        values.append(b"more")
        log.commit(log.read(1, limit=10), {})
        _equal(_scan(log, "gate"), [(0, b"a")], "the records")


def check_a_sender_that_goes_away(make: Make) -> None:
    """A promise cannot be called off: its record is in the log, and the log goes on."""
    with closing(make()) as log:
        promise = log.append("gate", [b"a"])
        promise.cancel()
        log.commit(log.read(1, limit=10), {})
        _equal(_kept(promise), range(1), "the positions")


def check_wait(make: Make) -> None:
    """`wait` gives False when nothing comes, and True at once when something waits or comes."""
    with closing(make()) as log:
        _equal(log.wait(0.0), False, "the wait for nothing")
        timer = threading.Timer(0.05, lambda: log.append("gate", [b"a"]))
        timer.start()
        _equal(log.wait(WAIT_SECONDS), True, "the wait for a record that comes")
        timer.join()
        _equal(log.wait(0.0), True, "the wait for a record that is there")
        log.commit(log.read(1, limit=10), {})
        _equal(log.wait(0.0), False, "the wait after the record was committed")


def check_many_senders(make: Make) -> None:
    """From many threads, each record gets in once, at the position that was promised, in the order of its sender."""
    senders, records = 4, 100
    promises: list[list[Future[range]]] = [[] for _ in range(senders)]

    def send(sender: int) -> None:
        for i in range(records):
            promises[sender].append(log.append(f"topic{i % 2}", [b"%d %d" % (sender, i)]))

    with closing(make()) as log:
        threads = [threading.Thread(target=send, args=(sender,)) for sender in range(senders)]
        for thread in threads:
            thread.start()
        now = done = 0
        while done < senders * records and log.wait(WAIT_SECONDS):
            batch = log.read(now := now + 1, limit=37)
            log.commit(batch, {})
            done += len(batch)
        for thread in threads:
            thread.join()
        _equal(done, senders * records, "records that were read")
        there = dict([*log.scan("topic0"), *log.scan("topic1")])
        _equal(sorted(there), list(range(senders * records)), "the positions")
        for sender, own in enumerate(promises):
            places = [_kept(promise)[0] for promise in own]
            _true(places == sorted(places), f"the records of sender {sender} are out of order")
            _equal([there[place] for place in places], [b"%d %d" % (sender, i) for i in range(records)], "its records")


def check_a_promise_may_lead_to_more(make: Make) -> None:
    """What waits for a promise may hand in more, from within."""
    with closing(make()) as log:
        log.append("gate", [b"a"]).add_done_callback(lambda promise: log.append("gate", [b"b"]) and None)
        log.commit(log.read(1, limit=10), {})
        _equal(tuple(log.read(2, limit=10).slices), (Slice("gate", 1, [b"b"]),), "what was handed in")


def check_closed(make: Make) -> None:
    """A closed log refuses everything, and may be closed again."""
    log = make()
    log.close()
    log.close()
    _refused(lambda: log.append("gate", [b"a"]), "an append to a closed log")
    _refused(lambda: log.read(1, limit=1), "a read of a closed log")
    _refused(lambda: list(log.batches()), "the batches of a closed log")
    _refused(lambda: list(log.scan("gate")), "a scan of a closed log")


CHECKS: tuple[Callable[[Make], None], ...] = (
    check_positions_are_shared_by_all_that_is_read,
    check_equal_topics_in_a_row_are_one_slice,
    check_limit,
    check_written_records_are_numbered_by_topic,
    check_scan_starts_and_stops_anywhere,
    check_batches_come_again,
    check_a_reopened_log_goes_on,
    check_what_was_not_committed_was_never_there,
    check_reading_again_before_the_commit,
    check_ticks,
    check_fed_records_are_read_later,
    check_fed_records_in_several_helpings,
    check_a_topic_has_one_way_in,
    check_only_bytes,
    check_nothing_appended,
    check_the_senders_list_is_its_own,
    check_a_sender_that_goes_away,
    check_wait,
    check_many_senders,
    check_a_promise_may_lead_to_more,
    check_closed,
)


def _scan(log: Log, topic: str) -> list[tuple[int, bytes]]:
    return list(log.scan(topic))


def _kept(promise: Future[range]) -> range:
    return promise.result(WAIT_SECONDS)


def _true(claim: bool, otherwise: str) -> None:
    if not claim:
        raise AssertionError(otherwise)


def _equal(found: Any, expected: Any, what: str) -> None:
    if found != expected:
        raise AssertionError(f"{what}: found {found!r}, expected {expected!r}")


def _equal_batches(found: Iterable[Batch], expected: list[Batch]) -> None:
    def plain(batches: Iterable[Batch]) -> list[Any]:
        return [(b.sequence, b.now, [(s.topic, s.first, list(s.values)) for s in b.slices]) for b in batches]

    _equal(plain(found), plain(expected), "the batches")


def _refused(call: Callable[[], object], what: str) -> None:
    try:
        call()
    except LogError:
        return
    raise AssertionError(f"{what} was not refused with LogError")
