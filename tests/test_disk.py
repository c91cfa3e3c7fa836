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
