"""Files that must be there whole."""

from __future__ import annotations

import fcntl
import mmap
import os

from katmatic import disk
from katmatic.disk import SystemDisk, held


def test_a_large_file_is_synced_piece_by_piece(tmp_path, monkeypatch):
    """So that a sync of the log does not wait for all of it."""
    there, file = [], tmp_path / "large"
    monkeypatch.setattr(disk, "PIECE_BYTES", 4)
    monkeypatch.setattr(disk, "sync_data", lambda descriptor: there.append(file.stat().st_size))
    SystemDisk().write(file, b"head", b"", memoryview(b"0123456789"))
    assert file.read_bytes() == b"head0123456789"
    assert there == [8, 12]
    assert file.stat().st_mode & 0o777 == 0o600


def test_who_gives_way_writes_little_at_once_and_rests(tmp_path, monkeypatch):
    """Found by measuring: a checkpoint that is written beside the pipeline holds up the syncs of its log."""
    there, file, now, rests = [], tmp_path / "large", [0.0], []

    def sync(descriptor):
        there.append(file.stat().st_size)
        now[0] += len(there)

    monkeypatch.setattr(disk, "SMALL_BYTES", 4)
    monkeypatch.setattr(disk, "sync_data", sync)
    monkeypatch.setattr(disk, "monotonic_seconds", lambda: now[0])
    monkeypatch.setattr(disk, "sleep", rests.append)
    SystemDisk(rest=2.0).write(file, b"0123456789")
    assert file.read_bytes() == b"0123456789"
    assert there == [4, 8]
    assert rests == [2.0, 4.0], "twice as long as each took"


def test_who_gives_way_gives_a_file_back_piece_by_piece(tmp_path, monkeypatch):
    """Found by measuring: the log's syncs waited 40 ms while the disk let go of an old checkpoint (350 MB)."""
    file, left = tmp_path / "large", []
    file.write_bytes(b"0123456789")
    monkeypatch.setattr(disk, "PIECE_BYTES", 4)
    monkeypatch.setattr(
        disk, "sync_data", lambda descriptor: left.append((os.fstat(descriptor).st_size, file.exists()))
    )
    SystemDisk(rest=0.1).remove(file)
    assert left == [(6, False), (2, False), (0, False)], "its name goes first: nobody opens what is cut"
    SystemDisk(rest=0.1).remove(file)


def test_a_file_that_is_mapped_is_not_cut_but_only_removed(tmp_path):
    file = tmp_path / "large"
    file.write_bytes(b"0123456789")
    with file.open("rb") as opened:
        assert held(opened.fileno())
        mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    SystemDisk(rest=0.1).remove(file)
    assert mapped[:] == b"0123456789"
    assert not file.exists()


def test_what_has_been_removed_or_is_being_cut_is_not_read(tmp_path):
    file = tmp_path / "large"
    file.write_bytes(b"0123456789")
    with file.open("rb") as early, file.open("rb") as remover:
        fcntl.flock(remover, fcntl.LOCK_EX)
        assert not held(early.fileno())
    with file.open("rb") as late:
        SystemDisk(rest=0.1).remove(file)
        assert not held(late.fileno())
