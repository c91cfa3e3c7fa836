"""The head of the embedded log: small batches are durable at once, read at once, and move into the tables later."""

from __future__ import annotations

import errno
import shutil
import sqlite3
import threading
from contextlib import closing
from functools import partial
from itertools import count

import numpy as np
import pytest

from katmatic.disk import SystemDisk
from katmatic.errors import LogError
from katmatic.log import sqlite, sqlite_head, sqlite_mover
from katmatic.log.memory import MemoryLog
from katmatic.log.sqlite import SqliteLog, head_of, open_readonly
from katmatic.log.sqlite_rows import entry_of
from katmatic.testing.simulation.disk import SimulatedDisk
from katmatic.testing.simulation.vfs import simulated

SMALL = 8192  # bytes of a head that is full after some batches
TOPICS = ("gate", "bell", "katmatic.labels")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log.db"


def turn(log, now, *, size=10):
    """One small batch, of which a label is written."""
    log.append("gate", [b"gate %d " % now + b"x" * size, b"another"])
    if now % 3 == 1:
        log.append("bell", [b"bell %d" % now])
    log.commit(log.read(now, limit=100), {"katmatic.labels": [b"label %d" % now]})


def everything(log):
    return [(batch.now, batch.slices) for batch in log.batches()], {
        topic: (list(log.scan(topic)), log.end(topic)) for topic in TOPICS
    }


def expected(turns):
    """What a log in memory has after so many turns."""
    log = MemoryLog()
    for now in range(1, turns + 1):
        turn(log, now)
    return everything(log)


def in_tables(path):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT count(*) FROM batches").fetchone()[0]


def killed(path, folder):
    """The files as a process that is killed leaves them."""
    folder.mkdir()
    for file in path.parent.glob("log.db*"):
        shutil.copy(file, folder / file.name)
    return folder / path.name


def test_a_small_batch_is_not_in_the_tables_yet_and_whoever_reads_sees_it(path):
    with closing(SqliteLog(path)) as log:
        turn(log, 1)  # its topics are new
        with closing(open_readonly(path)) as reader:
            for now in range(2, 30):
                turn(log, now)
                assert reader.end("katmatic.labels") == now
            assert everything(reader) == everything(log) == expected(29)
            assert list(reader.scan("gate", 40, 43)) == [
                row for row in everything(log)[1]["gate"][0] if 40 <= row[0] < 43
            ]
            assert list(reader.batches(25)) == list(log.batches())[25:]
        assert in_tables(path) == 1
    assert in_tables(path) == 29


@pytest.mark.parametrize("beside", [False, True])
def test_halves_move_into_the_tables_while_it_goes_on(path, beside):
    with closing(SqliteLog(path, head_bytes=SMALL, moves_beside=beside)) as log, closing(open_readonly(path)) as reader:
        for now in range(1, 201):
            turn(log, now)
            if now % 20 == 0:
                assert everything(reader) == everything(log) == expected(now)
        assert in_tables(path) > 100
    with closing(open_readonly(path)) as reader:
        assert everything(reader) == expected(200)


@pytest.mark.parametrize("turns", [1, 2, 9, 60, 61, 62, 63, 64, 65])
def test_who_comes_after_a_kill_goes_on_where_it_ended(path, tmp_path, turns):
    with closing(SqliteLog(path, head_bytes=SMALL)) as log:
        for now in range(1, turns + 1):
            turn(log, now)
        left = killed(path, tmp_path / "left")
    with closing(open_readonly(left)) as reader:
        assert everything(reader) == expected(turns)
    with closing(SqliteLog(left, head_bytes=SMALL)) as log:
        assert everything(log) == expected(turns)
        turn(log, turns + 1)
        assert everything(log) == expected(turns + 1)


def test_who_comes_after_a_kill_may_have_a_head_of_another_size(path, tmp_path):
    turns = count(1)
    for i, size in enumerate((SMALL, 2 * SMALL, 4096, 65_536)):
        with closing(SqliteLog(path, head_bytes=size)) as log:
            for now, _ in zip(turns, range(30), strict=False):
                turn(log, now)
            path = killed(path, tmp_path / str(i))
        next_turn = 30 * (i + 1)
        turns = count(next_turn + 1)
    with closing(SqliteLog(path)) as log:
        assert everything(log) == expected(120)


@pytest.mark.parametrize("torn", [1, 10, 20, 60, 100])
def test_a_batch_that_was_half_written_is_not_there(path, tmp_path, torn):
    with closing(SqliteLog(path)) as log:
        for now in range(1, 10):
            turn(log, now)
        before = head_of(path).read_bytes()
        turn(log, 10)
        left = killed(path, tmp_path / "left")
    after = head_of(left).read_bytes()
    start = next(at for at, (one, other) in enumerate(zip(before, after, strict=True)) if one != other)
    head_of(left).write_bytes(after[: start + torn] + before[start + torn :])
    with closing(open_readonly(left)) as reader:
        assert everything(reader) == expected(9)
    with closing(SqliteLog(left)) as log:
        assert everything(log) == expected(9)


def test_what_the_disk_has_changed_in_between_is_found_by_the_next_owner(path, tmp_path):
    with closing(SqliteLog(path)) as log:
        for now in range(1, 10):
            turn(log, now)
        left = killed(path, tmp_path / "left")
    data = head_of(left).read_bytes()
    at = data.index(b"label 5")
    head_of(left).write_bytes(data[:at] + b"L" + data[at + 1 :])
    with pytest.raises(LogError, match=r"log.db-head, a batch after .*: found bytes that do not agree"):
        SqliteLog(left)


def test_a_large_batch_goes_into_the_tables_and_takes_the_small_ones_along(path):
    with closing(SqliteLog(path, head_bytes=SMALL)) as log:
        for now in range(1, 5):
            turn(log, now)
        assert in_tables(path) == 1
        turn(log, 5, size=2000)
        assert in_tables(path) == 5
        turn(log, 6)
        assert in_tables(path) == 5
        assert [batch.now for batch in log.batches()] == [1, 2, 3, 4, 5, 6]
        assert log.end("katmatic.labels") == 6


def test_what_is_fed_and_what_was_posted_goes_into_the_tables(path):
    with closing(SqliteLog(path)) as log:
        turn(log, 1)
        turn(log, 2)
        log.append("gate", [b"g"])
        log.commit(log.read(3, limit=9), {}, {"katmatic.decisions": [b"d"]})
        assert in_tables(path) == 3
        with closing(open_readonly(path)) as other:
            other.post("gate", [b"posted"])
        batch = log.read(4, limit=9)
        assert [piece.values for piece in batch.slices] == [[b"d"], [b"posted"]]
        log.commit(batch, {})
        assert in_tables(path) == 4
        assert log.pending("gate") == log.pending("katmatic.decisions") == []


def test_a_post_is_noticed_by_its_mark_and_without_one_a_little_later(path, monkeypatch):
    with closing(SqliteLog(path)) as log, closing(open_readonly(path)) as other:
        turn(log, 1)
        other.post("gate", [b"marked"])
        assert log.read(2, limit=9).slices[0].values == [b"marked"]
        log.commit(log.read(2, limit=9), {})
        monkeypatch.setattr(sqlite, "set_mark", lambda path, number: None)
        other.post("gate", [b"unmarked"])
        ticks = 0
        while not (batch := log.read(3, limit=9)).slices:
            log.commit(batch, {})
            ticks += 1
        assert ticks in range(sqlite.LOOKS - 10, sqlite.LOOKS)
        assert batch.slices[0].values == [b"unmarked"]
        log.commit(batch, {})
        other.post("gate", [b"nothing else comes"])
        assert log.wait(20)


class Failing:
    """A region whose writes or syncs fail."""

    def __init__(self, region, what):
        self._region, self._what = region, what

    def write(self, offset, data):
        self._region.write(offset, data)
        if self._what == "write":
            raise OSError(errno.EIO, "it does not write")

    def sync(self):
        raise OSError(errno.EIO, "it does not sync")

    def read(self, offset, size):
        return self._region.read(offset, size)

    def close(self):
        self._region.close()


@pytest.mark.parametrize("what", ["write", "sync"])
def test_a_head_that_fails_costs_no_batch(path, tmp_path, what):
    with closing(SqliteLog(path)) as log:
        for now in range(1, 4):
            turn(log, now)
        whole, log._head.region = log._head.region, Failing(log._head.region, what)
        turn(log, 4)
        assert in_tables(path) == 4
        turn(log, 5)
        assert in_tables(path) == 5
        log._head.region = whole
        turn(log, 6)
        assert in_tables(path) == 5
        left = killed(path, tmp_path / "left")
        assert everything(log) == expected(6)
    with closing(SqliteLog(left)) as log:
        assert everything(log) == expected(6)


def test_a_batch_that_neither_the_head_nor_the_tables_take_is_told_and_may_be_tried_again(path):
    with closing(SqliteLog(path)) as log:
        turn(log, 1)
        whole, log._head.region = log._head.region, Failing(log._head.region, "write")
        limit = log._connection.execute("PRAGMA max_page_count = 1").fetchone()[0]
        log._connection.execute(f"PRAGMA max_page_count = {limit}")
        promise = log.append("gate", [b"x" * 20_000])
        batch = log.read(2, limit=9)
        with pytest.raises(LogError, match="a full disk"):
            log.commit(batch, {})
        assert not promise.done()
        with closing(open_readonly(path)) as reader:
            assert reader.end("gate") == 2
        log._head.region = whole
        log._connection.execute("PRAGMA max_page_count = 1000000")
        log.commit(batch, {})
        assert promise.result() == range(3, 4)
        assert [len(batch) for batch in log.batches()] == [3, 1]


def test_a_log_without_a_head_is_taken_over(path):
    with closing(SqliteLog(path)) as log:
        for now in range(1, 4):
            turn(log, now)
    head_of(path).unlink()
    with closing(sqlite3.connect(path)) as other:
        other.execute("DROP TABLE head")
        other.execute("PRAGMA user_version = 1")
    with closing(open_readonly(path)) as reader:
        assert everything(reader) == expected(3)
    with closing(SqliteLog(path)) as log:
        turn(log, 4)
        assert everything(log) == expected(4)
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA user_version").fetchone() == (2,)


@pytest.mark.parametrize("beside", [False, True])
def test_who_reads_while_batches_move_sees_all_of_them_in_order(path, beside):
    with closing(SqliteLog(path, head_bytes=4096, moves_beside=beside)) as log:
        turn(log, 1)
        wrong, seen, done = [], [], threading.Event()

        def look():
            with closing(open_readonly(path)) as reader:
                while not done.is_set():
                    moments = [batch.now for batch in reader.batches()]
                    labels = [position for position, _ in reader.scan("katmatic.labels")]
                    seen.append(len(moments))
                    wrong.extend([moments] if moments != list(range(1, len(moments) + 1)) else [])
                    wrong.extend([labels] if labels != list(range(len(labels))) else [])

        threads = [threading.Thread(target=look) for _ in range(2)]
        for thread in threads:
            thread.start()
        for now in range(2, 400):
            turn(log, now)
        done.set()
        for thread in threads:
            thread.join()
        assert not wrong
        assert len(set(seen)) > 3


class Acting:
    """A region that does something else where it is told to."""

    def __init__(self, region, **acts):
        self._region, self._acts = region, acts

    def __getattr__(self, name):
        return self._acts.get(name) or getattr(self._region, name)


def interrupt(*given):
    raise KeyboardInterrupt


def no_disk(*given):
    raise OSError(errno.EIO, "it does not work")


def test_what_another_process_sees_is_durable_though_its_owner_has_not_synced_it_yet(path, monkeypatch):
    synced, seen = [], []
    with closing(SqliteLog(path)) as log, closing(open_readonly(path)) as reader:
        turn(log, 1)
        turn(log, 2)
        assert reader.end("katmatic.labels") == log.end("katmatic.labels") == 2
        sync = sqlite_head.sync_data
        monkeypatch.setattr(sqlite_head, "sync_data", lambda descriptor: (synced.append(1), sync(descriptor)))

        def look():
            seen.append((log.end("katmatic.labels"), reader.end("katmatic.labels"), len(synced)))
            seen.append((log.end("katmatic.labels"), reader.end("katmatic.labels"), len(synced)))

        log._head.region = Acting(log._head.region, sync=look)
        turn(log, 3)
    assert seen == [(2, 3, 1), (2, 3, 1)]


def test_who_reads_while_the_first_batch_of_a_half_is_written_misses_none_that_were_there(path):
    with closing(SqliteLog(path)) as log, closing(open_readonly(path)) as reader:
        for now in range(1, 4):
            turn(log, now)
        unmoved, region = reader._tip.unmoved, log._head.region

        def half_written(offset, data):
            region.write(offset, data[:20])
            ends.append(look.end("katmatic.labels"))
            region.write(offset, data)

        def meanwhile():
            found = unmoved()
            turn(log, 4, size=400_000)  # the tables take it, and the head along
            log._head.region = Acting(region, write=half_written)
            turn(log, 5)
            reader._tip.unmoved = unmoved
            return found

        with closing(open_readonly(path)) as look:
            ends = []
            reader._tip.unmoved = meanwhile
            assert reader.end("katmatic.labels") == 4
            assert ends == [4]
            assert reader.end("katmatic.labels") == 5


def test_a_newest_batch_of_the_tables_that_the_disk_has_changed_is_not_taken_for_one_of_the_head(path, tmp_path):
    with closing(SqliteLog(path)) as log:
        for now in range(1, 4):
            turn(log, now)
        turn(log, 4, size=400_000)
        turn(log, 5)
        left = killed(path, tmp_path / "left")
    with closing(sqlite3.connect(left)) as other, other:
        other.execute("UPDATE batches SET first = first + 1 WHERE sequence = 4")
    with (
        closing(open_readonly(left)) as reader,
        pytest.raises(LogError, match="batch 4: found bytes that do not agree"),
    ):
        reader.end("gate")
    with pytest.raises(LogError, match="batch 4: found bytes that do not agree"):
        SqliteLog(left)


def test_a_move_that_fails_in_any_way_is_done_by_the_commit_that_needs_it(path, monkeypatch):
    whole, failed = sqlite_mover.insert_rows, []

    def fail(*given):
        failed.append(1)
        raise MemoryError

    monkeypatch.setattr(sqlite_mover, "insert_rows", fail)
    with closing(SqliteLog(path, head_bytes=SMALL, moves_beside=True)) as log:
        for now in range(1, 101):
            turn(log, now)
        assert failed
        monkeypatch.setattr(sqlite_mover, "insert_rows", whole)
        for now in range(101, 201):
            turn(log, now)
        assert everything(log) == expected(200)


@pytest.mark.parametrize("where", ["written", "synced", "known"])
def test_a_commit_that_is_interrupted_is_there_or_not_for_the_next_owner_and_ends_this_one(path, where):
    with closing(SqliteLog(path)) as log:
        turn(log, 1)
        turn(log, 2)
        if where == "known":
            log._tail.settle = interrupt
        else:
            log._head.region = Acting(log._head.region, **{"write" if where == "written" else "sync": interrupt})
        with pytest.raises(KeyboardInterrupt):
            turn(log, 3)
        again = "found a commit or a read that was interrupted.*; open the log again"
        with pytest.raises(LogError, match=again):
            log.read(4, limit=9)
        with pytest.raises(LogError, match=again):
            log.forget(2)
    with closing(SqliteLog(path)) as log:
        there = 2 if where == "written" else 3
        assert everything(log) == expected(there)
        turn(log, there + 1)
        turn(log, there + 2)
        assert everything(log) == expected(there + 2)


def test_a_batch_that_was_in_doubt_at_the_end_may_be_there_and_the_next_owner_goes_on_after_it(path):
    with closing(SqliteLog(path)) as log:
        turn(log, 1)
        turn(log, 2)
        region = log._head.region
        log._head.region = Acting(
            region, sync=no_disk, write=lambda at, data: len(data) > 16 and region.write(at, data)
        )
        limit = log._connection.execute("PRAGMA max_page_count = 1").fetchone()[0]
        log._connection.execute(f"PRAGMA max_page_count = {limit}")
        with pytest.raises(LogError, match="a full disk"):
            turn(log, 3, size=12_000)
        log._connection.execute("PRAGMA max_page_count = 1000000")
    with closing(SqliteLog(path)) as log:
        assert [batch.now for batch in log.batches()] == [1, 2, 3]
        turn(log, 4)
        assert list(log.batches(log.sequence() - 1)) == list(log.batches())[3:]
        assert [batch.now for batch in log.batches()] == [1, 2, 3, 4]


def test_after_a_transaction_that_failed_the_next_batch_goes_into_the_tables_where_that_one_may_be(tmp_path):
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
    disk = SimulatedDisk(tmp_path / "before", np.random.default_rng(0))
    synced = disk.synced
    with simulated(disk), closing(SqliteLog(tmp_path / "before" / "log.db", disk=disk)) as log:
        turn(log, 1)
        log.append("gate", [b"g"])
        batch = log.read(2, limit=9)
        disk.synced = lambda path, **more: no_disk() if path.endswith("-wal") else synced(path, **more)
        with pytest.raises(LogError, match="a disk that does not read or write"):
            log.commit(batch, {"katmatic.labels": [b"x" * 400_000]})
        disk.synced = synced
        log.commit(batch, {"katmatic.labels": [b"acknowledged"]})
        disk.after(tmp_path / "after", is_power_cut=False)
    with closing(SqliteLog(tmp_path / "after" / "log.db")) as log:
        assert [value for _, value in log.scan("katmatic.labels")] == [b"label 1", b"acknowledged"]


def test_a_disk_that_has_no_room_for_the_head_is_told_as_a_full_one(path):
    disk = SystemDisk()
    disk.region = partial(no_room, disk)
    with pytest.raises(LogError, match=r"found a full disk .*, expected room for what is committed; free some room"):
        SqliteLog(path, disk=disk)
    with closing(SqliteLog(path)) as log:
        turn(log, 1)


def no_room(*given):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_large_batch_is_made_into_rows_once(path, monkeypatch):
    made = []
    with closing(SqliteLog(path)) as log:
        turn(log, 1)
        entry_of = sqlite.entry_of
        monkeypatch.setattr(sqlite, "entry_of", lambda *given: made.append(1) or entry_of(*given))
        monkeypatch.setattr(sqlite, "packed", no_disk)  # which nobody needs
        turn(log, 2, size=400_000)
        assert made == [1]


@pytest.mark.parametrize("topic", [None, "gate", "katmatic.labels"])
def test_who_is_overtaken_by_what_is_forgotten_is_not_told_of_damage(path, monkeypatch, topic):
    with closing(SqliteLog(path)) as log:
        for now in range(1, 20):
            turn(log, now)
    monkeypatch.setattr(sqlite, "CHUNK_BATCHES", 5)
    monkeypatch.setattr(sqlite, "CHUNK_BYTES", 10)
    with closing(SqliteLog(path)) as log, closing(open_readonly(path)) as reader:
        rows = reader.scan(topic) if topic else reader.batches()
        first = next(rows)
        assert log.forget(15) == 14
        if topic:
            assert [first, *rows][-1] == list(log.scan(topic))[-1]
        else:
            with pytest.raises(
                LogError, match=r"found that the batches up to 14 were forgotten meanwhile, .*; read it"
            ):
                list(rows)


def test_a_record_that_looks_like_a_batch_is_a_record(path, tmp_path):
    """The next owner looks for newer batches wherever one might begin; what is sent may look like one there."""
    forged = sqlite_head.packed(entry_of(9_000, 1, [], 2, []))
    size = 4_096
    with closing(SqliteLog(path)) as log:
        turn(log, 1)
        put(log, 2, b"x" * size)
        where = head_of(path).read_bytes().index(b"x" * size)
        gap = -where % 64
        value = bytes(gap) + b"".join(
            (sqlite_head._FRONT.pack(sqlite_head._checksum(forged, at, 0), len(forged)) + forged).ljust(64, b"\0")
            for at in range(where + gap, where + size - 64, 64)
        )
        turn(log, 3, size=400_000)  # so that the next one stands where that one stood
        put(log, 4, value.ljust(size, b"\0"))
        assert head_of(path).read_bytes().index(value) == where
        there = everything(log)
        left = killed(path, tmp_path / "left")
    with closing(SqliteLog(left)) as log:
        assert everything(log) == there


def put(log, now, value):
    log.append("gate", [value])
    log.commit(log.read(now, limit=1), {})
