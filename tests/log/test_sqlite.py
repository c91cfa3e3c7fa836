"""The embedded log where it meets the disk, other processes and time: what no log in memory has to stand."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

import katmatic
from katmatic.errors import LogError, LogFull
from katmatic.log import sqlite, sqlite_file, sqlite_rows
from katmatic.log.sqlite import SqliteLog, open_readonly

EVENT = b'{"student_id": "A123", "timestamp": "2025-04-21 08:02:00", "status": "present"}'


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log.db"


def turn(log, now=1, written=None, fed=None, limit=1000):
    batch = log.read(now, limit=limit)
    log.commit(batch, written or {}, fed or {})
    return batch


def in_another_process(code: str, *arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={"PYTHONPATH": str(Path(katmatic.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


# ------------------------------------------------------------------------------------------------------------ one owner


def test_a_second_owner_is_refused_and_told_who_is_the_first(path):
    with closing(SqliteLog(path)):
        with pytest.raises(LogError, match=f"another owner: process {os.getpid()},.* end process {os.getpid()} first"):
            SqliteLog(path)
        other = in_another_process(
            "import sys; from katmatic.log.sqlite import SqliteLog; SqliteLog(sys.argv[1])", path
        )
        assert f"another owner: process {os.getpid()}," in other.stderr
    SqliteLog(path).close()


def test_an_owner_that_could_not_open_its_file_leaves_no_lock(path):
    path.write_bytes(b"this is no database" * 1000)
    for _ in range(2):
        with pytest.raises(LogError, match="not a database"):
            SqliteLog(path)


# ---------------------------------------------------------------------------------------------------- what is not a log


def test_another_programs_database_is_left_alone(path):
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE recipes (name)")
    with pytest.raises(LogError, match="a SQLite file that is no log"):
        SqliteLog(path)
    with pytest.raises(LogError, match="a SQLite file that is no log"):
        open_readonly(path)


def test_a_log_of_a_later_form_is_refused(path):
    SqliteLog(path).close()
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 99")
    with pytest.raises(LogError, match="found a log of form 99, expected a log of form 2 or before"):
        SqliteLog(path)


def test_there_is_nothing_to_read_where_no_log_is(path):
    with pytest.raises(LogError, match="no such file"):
        open_readonly(path)
    assert not path.exists()


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LogError, match="check its folder and permissions"):
        SqliteLog(tmp_path / "file" / "log.db")


def test_only_its_owner_may_look_into_the_file(path):
    with closing(SqliteLog(path)) as log:
        log.append("gate", [EVENT])
        turn(log)
        assert {oct(file.stat().st_mode & 0o777) for file in path.parent.iterdir()} == {"0o600"}


# -------------------------------------------------------------------------------------------------------- other readers


def test_another_process_reads_while_the_owner_writes(path):
    with closing(SqliteLog(path)) as log:
        log.append("gate", [b"a"])
        turn(log, written={"katmatic.labels": [b"l0"]})
        with closing(open_readonly(path)) as reader:
            assert list(reader.scan("katmatic.labels")) == [(0, b"l0")]
            log.append("gate", [b"b"])
            turn(log, written={"katmatic.labels": [b"l1"]})
            assert list(reader.scan("katmatic.labels", 1)) == [(1, b"l1")]
            assert list(reader.batches()) == list(log.batches())
            assert (reader.end("katmatic.labels"), reader.end("gate"), reader.end("never")) == (2, 2, 0)
    with closing(open_readonly(path)) as reader:  # and after the owner has gone
        assert list(reader.scan("gate")) == [(0, b"a"), (1, b"b")]


def test_a_scan_goes_on_over_what_is_committed_meanwhile(path, monkeypatch):
    monkeypatch.setattr(sqlite, "CHUNK_BYTES", 1)
    with closing(SqliteLog(path)) as log:
        for i in range(3):
            log.append("gate", [b"%d" % i])
            turn(log)
        scan = log.scan("gate")
        assert next(scan) == (0, b"0")
        log.append("gate", [b"3"])
        turn(log)
        assert [value for _, value in scan] == [b"1", b"2", b"3"]


def test_a_reader_from_many_threads_sees_whole_batches(path):
    with closing(SqliteLog(path)) as log:
        wrong, done = [], threading.Event()

        def look():
            while not done.is_set():
                sizes = [len(batch) for batch in log.batches()]
                wrong.extend(size for size in sizes if size != 10)

        threads = [threading.Thread(target=look) for _ in range(2)]
        for thread in threads:
            thread.start()
        for i in range(50):
            log.append("gate", [b"%d" % i] * 10)
            turn(log)
        done.set()
        for thread in threads:
            thread.join()
        assert not wrong


def test_a_reader_changes_nothing(path):
    SqliteLog(path).close()
    with closing(open_readonly(path)) as reader, pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader._past.execute("DELETE FROM batches")


# -------------------------------------------------------------------------------------------------------------- posting


def test_what_another_process_posts_is_read_in_its_turn(path):
    with closing(SqliteLog(path)) as log:
        log.append("gate", [b"a"])
        posted = in_another_process(
            "import sys; from katmatic.log.sqlite import open_readonly\n"
            "open_readonly(sys.argv[1]).post('katmatic.models', [b'version 1', b'version 2'])",
            path,
        )
        assert posted.returncode == 0, posted.stderr
        assert log.wait(0)
        batch = turn(log)
        assert [(piece.topic, piece.first, piece.values) for piece in batch.slices] == [
            ("gate", 0, [b"a"]),
            ("katmatic.models", 1, [b"version 1", b"version 2"]),
        ]
        assert not log.wait(0)
    with closing(SqliteLog(path)) as log:
        assert not log.wait(0)


def test_a_post_wakes_an_owner_that_waits_for_nothing_else(path):
    with closing(SqliteLog(path)) as log, closing(open_readonly(path)) as reader:
        timer = threading.Timer(0.05, lambda: reader.post("katmatic.models", [b"version 1"]))
        timer.start()
        assert log.wait(10.0)
        timer.join()


def test_a_post_waits_for_an_owner_that_is_away(path):
    SqliteLog(path).close()
    with closing(open_readonly(path)) as reader:
        reader.post("katmatic.models", [b"back to version 1"])
    with closing(SqliteLog(path)) as log:
        assert turn(log).slices[0].values == [b"back to version 1"]


def test_posts_and_what_is_fed_keep_apart(path):
    """The owner feeds between two posts that it has not seen: each is read once, in the order in which it got in."""
    with closing(SqliteLog(path)) as log, closing(open_readonly(path)) as reader:
        batch = log.read(1, limit=10)
        reader.post("katmatic.models", [b"m1"])
        log.commit(batch, {}, {"katmatic.decisions": [b"d1"], "katmatic.notes": [b"n1"]})
        reader.post("katmatic.models", [b"m2"])
        batch = turn(log)
        assert [value for piece in batch.slices for value in piece.values] == [b"m1", b"d1", b"n1", b"m2"]
        assert not len(turn(log))


def test_a_full_inbox_is_said(path, monkeypatch):
    monkeypatch.setattr(sqlite_rows, "INBOX_RECORDS_LIMIT", 3)
    SqliteLog(path).close()
    with closing(open_readonly(path)) as reader:
        reader.post("katmatic.models", [b"m1", b"m2"])
        with pytest.raises(LogFull, match="2 records waiting, and 2 more"):
            reader.post("katmatic.models", [b"m3", b"m4"])
        reader.post("katmatic.models", [b"m3"])


def test_nobody_posts_to_what_the_owner_writes(path):
    with closing(SqliteLog(path)) as log, closing(open_readonly(path)) as reader:
        turn(log, written={"katmatic.labels": [b"l"]})
        with pytest.raises(LogError, match="records are written"):
            reader.post("katmatic.labels", [b"x"])


# ---------------------------------------------------------------------------------------------------------------- ticks


def test_empty_ticks_cost_no_commit_and_no_room(path):
    with closing(SqliteLog(path)) as log:
        turn(log)
        statements = []
        log._connection.set_trace_callback(statements.append)
        for now in range(1000):
            turn(log, now)
        assert [statement for statement in statements if not statement.startswith("PRAGMA data_version")] == []
        assert list(log.batches()) == []
        assert log.sequence() == 1001


def test_sequences_rise_even_after_more_ticks_than_were_reserved_and_a_crash(path, monkeypatch):
    monkeypatch.setattr(sqlite, "RESERVED", 10)
    log = SqliteLog(path)
    for now in range(25):
        turn(log, now)
    given = log.sequence()
    os.close(log._owner)  # as SIGKILL would
    with closing(SqliteLog(path)) as again:
        again.append("gate", [b"a"])
        batch = turn(again)
        assert batch.sequence > given
        assert list(again.batches(given)) == [batch]
    log._connection.close()
    log._past.close()


def test_an_owner_that_is_interrupted_right_after_a_commit_gives_no_sequence_twice(path, monkeypatch):
    """The commit is durable, its promise is not kept, and the next owner goes on behind it."""
    log = SqliteLog(path)
    promise = log.append("gate", [b"a"])
    batch = log.read(1, limit=10)
    with monkeypatch.context() as patch:
        patch.setattr(log, "_topics", Interrupting())
        with pytest.raises(KeyboardInterrupt):
            log.commit(batch, {})
    log.close()
    with pytest.raises(LogError, match="closed"):
        promise.result(0)
    with closing(SqliteLog(path)) as again:
        assert list(again.batches()) == [batch]
        again.append("gate", [b"b"])
        later = turn(again)
        assert later.sequence > batch.sequence
        assert list(again.scan("gate")) == [(0, b"a"), (1, b"b")]


class Interrupting(dict):
    def update(self, *_):
        raise KeyboardInterrupt


def test_a_checkpoint_that_the_log_never_reached_is_refused(path):
    with closing(SqliteLog(path)) as log:
        turn(log)
        with pytest.raises(LogError, match="found a checkpoint at batch 10000000"):
            list(log.batches(10_000_000))


# ------------------------------------------------------------------------------------------------------- the disk: full


def fill(log, written=b"x" * 10_000):
    """Commit until the disk is full; the batch that did not fit."""
    for now in range(10_000):
        log.append("gate", [EVENT] * 10)
        batch = log.read(now, limit=100)
        try:
            log.commit(batch, {"katmatic.labels": [written]})
        except LogError as error:
            return batch, error
    raise AssertionError("the disk was never full")


def test_on_a_full_disk_a_commit_fails_whole_and_works_again_later(path):
    with closing(SqliteLog(path, file_bytes_limit=30 * sqlite.PAGE_BYTES)) as log:
        batch, error = fill(log)
        assert "a full disk" in error.found
        assert error.do.startswith("free some room")
        committed = list(log.batches())
        assert len(committed) == log.end("katmatic.labels") > 2
        assert log.end("gate") == 10 * len(committed)
        promise = log.append("gate", [b"later"])
        with pytest.raises(LogError, match="a full disk"):
            turn(log, 10_001, {"katmatic.labels": [b"x" * 100_000]})
        assert not promise.done()

        log._connection.execute("PRAGMA max_page_count = 100000")
        again = turn(log, 10_002, {"katmatic.labels": [b"l"]})
        assert len(again) == 11
        assert again.sequence == batch.sequence
        assert promise.result(0) == range(again.slices[0].first + 10, again.slices[0].first + 11)
        assert list(log.batches()) == [*committed, again]


def test_the_batch_that_failed_may_be_committed_again(path):
    with closing(SqliteLog(path, file_bytes_limit=30 * sqlite.PAGE_BYTES)) as log:
        batch, _ = fill(log)
        committed = list(log.batches())
        log._connection.execute("PRAGMA max_page_count = 100000")
        log.commit(batch, {"katmatic.labels": [b"l"]}, {"katmatic.decisions": [b"d"]})
        assert list(log.batches()) == [*committed, batch]
        assert turn(log).slices[0].values == [b"d"]


SMALL_DISK = """
import resource, sys
from katmatic.errors import LogError
from katmatic.log.sqlite import SqliteLog

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

log = SqliteLog(sys.argv[1])
limit(300_000)
committed, failures = [], 0
for now in range(200):
    if failures == 3:
        limit(resource.RLIM_INFINITY)
    log.append("gate", [b"%d" % now * 1000])
    batch = log.read(now, limit=100)
    try:
        log.commit(batch, {"labels": [b"l"]})
    except LogError as error:
        failures += 1
        assert error.do and error.expected and "log.db" in error.where, error
    else:
        committed.append(batch)
assert failures == 3, failures
assert list(log.batches()) == committed
assert log.end("labels") == len(committed)
assert log.end("gate") == 200
log.close()
log = SqliteLog(sys.argv[1])
assert list(log.batches()) == committed
print("as it should be")
"""


def test_writes_that_the_system_refuses_harm_nothing(path):
    child = in_another_process(SMALL_DISK, path)
    assert child.stdout == "as it should be\n", child.stderr


# ---------------------------------------------------------------------------------------------------- the disk: damaged


def filled(path):
    with closing(SqliteLog(path)) as log:
        for now in range(30):
            log.append("gate", [EVENT + b"%d %d" % (now, i) for i in range(5)])
            log.append("bell", [b"bell %d" % now])
            log.append("gate", [EVENT])
            turn(log, now, {"katmatic.labels": [b"label %d" % now * 50]}, {"katmatic.decisions": [b"d"]})
        return list(log.batches()), {t: list(log.scan(t)) for t in ("gate", "bell", "katmatic.labels")}


def everything(path):
    with closing(open_readonly(path)) as log:
        return list(log.batches()), {t: list(log.scan(t)) for t in ("gate", "bell", "katmatic.labels")}


def test_a_changed_record_is_found_and_told_where(path):
    filled(path)
    data = path.read_bytes()
    at = data.index(b"label 17")
    path.write_bytes(data[:at] + b"L" + data[at + 1 :])
    with closing(SqliteLog(path)) as log:
        with pytest.raises(LogError, match=r"katmatic.labels up to position 17: found bytes that do not agree"):
            list(log.scan("katmatic.labels"))
        assert len(list(log.scan("katmatic.labels", 18))) == 12
        assert len(list(log.batches())) == 30  # the rest is whole
    at = data.index(EVENT + b"3 2")
    path.write_bytes(data[:at] + b"[" + data[at + 1 :])
    with closing(open_readonly(path)) as log, pytest.raises(LogError, match=r"gate up to position 30: found bytes"):
        list(log.batches())


def test_a_changed_batch_is_found_and_told_where(path):
    filled(path)
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("UPDATE batches SET now = now + 1 WHERE sequence = 7")
    with closing(open_readonly(path)) as log, pytest.raises(LogError, match="batch 7: found bytes that do not agree"):
        list(log.batches())


def test_a_record_that_moved_is_found(path):
    filled(path)
    with closing(sqlite3.connect(path)) as other, other:
        gate = "place >> 48 = (SELECT number FROM topics WHERE name = 'gate')"
        one, two = other.execute(f"SELECT place, checksum, data FROM records WHERE {gate} LIMIT 2").fetchall()
        other.execute("UPDATE records SET checksum = ?, data = ? WHERE place = ?", (*two[1:], one[0]))
    with closing(open_readonly(path)) as log, pytest.raises(LogError, match="found bytes that do not agree"):
        list(log.batches())


LOSSES = {
    "a batch": ("DELETE FROM batches WHERE sequence = 7", "positions from .* which are missing"),
    "what was written": ("DELETE FROM records WHERE sequence = 7", "from position 6 up to 7, which are missing"),
    "a topic": ("DELETE FROM topics WHERE name = 'gate'", "tables"),
    "a topic's name": ("UPDATE topics SET name = 'gote' WHERE name = 'gate'", "topic 2"),
    "the facts": ("UPDATE facts SET forgotten = 9", "facts"),
    "all facts": ("DELETE FROM facts", "tables"),
    "a table": ("DROP TABLE batches", "no such table"),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_what_is_lost_in_between_is_missed(path, loss):
    filled(path)
    statement, message = LOSSES[loss]
    with closing(sqlite3.connect(path)) as other, other:
        other.execute(statement)
    with closing(open_readonly(path)) as log, pytest.raises(LogError, match=message):
        _ = list(log.scan("katmatic.labels")), list(log.batches())


@pytest.mark.parametrize("part", range(4))
def test_a_flipped_byte_anywhere_is_an_error_or_does_no_harm(path, part):
    """Every 97th byte of the file, so that headers, inner pages, free room and values are all met."""
    expected = filled(path)
    data = path.read_bytes()
    harmless = found = 0
    for at in range(part * 97, len(data), 4 * 97):
        changed = bytearray(data)
        changed[at] ^= 0x10
        path.write_bytes(changed)
        try:
            assert everything(path) == expected, f"byte {at} was changed, and other records came out"
            harmless += 1
        except LogError:
            found += 1
    assert found > 50
    assert harmless  # free room


@pytest.mark.parametrize("bit", [0x01, 0x40])
def test_a_changed_way_through_the_file_is_an_error_or_does_no_harm(path, bit):
    """Found by the test above, for once: what SQLite gave was not what it was asked for, and a scan never ended."""
    expected, size = filled(path), sqlite_file.PAGE_BYTES
    data = path.read_bytes()
    inner = [at for at in range(0, len(data), size) if data[at] == 5]  # "interior table b-tree page", SQLite's format
    assert inner
    found = 0
    for page in inner:
        count = int.from_bytes(data[page + 3 : page + 5], "big")
        first = page + 12 + 2 * count
        used = page + int.from_bytes(data[page + 5 : page + 7], "big")
        for at in [*range(page, first), *range(used, page + size)]:
            changed = bytearray(data)
            changed[at] ^= bit
            path.write_bytes(changed)
            try:
                assert everything(path) == expected, f"byte {at} was changed, and other records came out"
            except LogError:
                found += 1
    assert found


# ------------------------------------------------------------------------------------------------------------ retention


def test_what_is_forgotten_is_gone_and_the_rest_stays(path, monkeypatch):
    for module in (sqlite, sqlite_rows):
        monkeypatch.setattr(module, "FORGOTTEN_AT_ONCE", 4)
    batches, records = filled(path)
    with closing(SqliteLog(path)) as log:
        assert log.forget(before=10) == 10
        assert list(log.batches(batches[9].sequence)) == batches[10:]
        with pytest.raises(LogError, match=f"expected one between {batches[9].sequence}"):
            list(log.batches(batches[8].sequence))
        kept = {position for batch in batches[10:] for s in batch.slices for position in range(s.first, s.first + 99)}
        assert list(log.scan("bell")) == [row for row in records["bell"] if row[0] in kept]
        assert list(log.scan("katmatic.labels")) == records["katmatic.labels"][10:]
        assert log.forget(before=10) == 0


def test_numbers_go_on_after_all_was_forgotten(path):
    batches, _ = filled(path)
    with closing(SqliteLog(path)) as log:
        assert log.forget(before=10_000) == 29
        ends = [log.end(topic) for topic in ("gate", "bell", "katmatic.labels")]
    with closing(SqliteLog(path)) as log:
        assert [log.end(topic) for topic in ("gate", "bell", "katmatic.labels")] == ends
        batch = log.read(5, limit=100)
        assert batch.now == 29
        assert batch.sequence > batches[-1].sequence
        assert batch.slices[0].first == sum(map(len, batches))


def test_room_that_was_forgotten_is_used_again(path):
    with closing(SqliteLog(path)) as log:
        for now in range(60):
            log.append("gate", [b"x" * 50_000])
            turn(log, now)
            log.forget(before=now - 5)
        pages = log._connection.execute("PRAGMA page_count").fetchone()[0]
        assert pages * sqlite.PAGE_BYTES < 20 * 50_000


def test_the_side_file_stays_at_its_limit_while_commits_follow_each_other(path):
    with closing(SqliteLog(path, wal_bytes=20 * sqlite.PAGE_BYTES, head_bytes=4096)) as log:
        for now in range(100):
            log.append("gate", [EVENT])
            turn(log, now, {"katmatic.labels": [b"l"]})
        pages = Path(f"{path}-wal").stat().st_size / sqlite.PAGE_BYTES
        assert 20 <= pages < 30  # and each of the hundred wrote at least three


def test_a_thread_beside_it_moves_what_was_committed_into_the_main_file(tmp_path):
    path = tmp_path / "log.db"
    log = SqliteLog(path, moves_beside=True)
    log.append("gate", [b"x" * 1000] * 500)
    log.commit(log.read(1, limit=1000), {})
    deadline = time.monotonic() + 20
    while path.stat().st_size < 500_000:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    threads = {thread.name for thread in threading.enumerate()}
    log.close()
    gone = threads - {thread.name for thread in threading.enumerate()}
    assert gone == {"katmatic-log-mover"}
    with closing(SqliteLog(path)) as log:
        assert log.end("gate") == 500
