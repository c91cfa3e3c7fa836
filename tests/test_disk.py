"""Files that must be there whole."""

from __future__ import annotations

from katmatic import disk
from katmatic.disk import SystemDisk


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
