"""The compiled loops: for this machine, or for nearly all of its kind, also where nothing can be written."""

from __future__ import annotations

from pathlib import Path

import pytest

from katmatic.state import loop


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """The two places of the loops, empty: beside the source, and the user's own."""
    found = [tmp_path / "beside", tmp_path / "own"]
    for folder in found:
        folder.mkdir()
    monkeypatch.setattr(loop, "_folders", lambda: found)
    return found


@pytest.fixture
def portable():
    """The kind of processor that an image is compiled for."""
    kinds = loop._portable()
    if not kinds:
        pytest.skip("this processor has less than every server since 2013")
    return kinds[0]


def test_with_nothing_compiled_nothing_is_found(folders):
    assert loop.found() is None


def test_portable_loops_do_until_there_are_this_machines_own(folders, portable):
    beside, own = folders
    carried = loop.path(portable, beside)
    carried.write_bytes(b"carried")
    assert loop.found() == carried, "an image is built in one place and runs in others"
    mine = loop.path(loop._cpu(), own)
    mine.write_bytes(b"mine")
    assert loop.found() == mine
    assert loop.prepare() == mine, "it is not compiled again"


def test_loops_beside_the_source_are_found_where_nothing_can_be_written(folders, portable, monkeypatch):
    carried = loop.path(portable, folders[0])
    carried.write_bytes(b"carried")

    def refuse(*_, **__):
        raise PermissionError

    monkeypatch.setattr(Path, "touch", refuse)
    assert loop.found() == carried
    with pytest.raises(OSError, match="can be written to"):
        loop._writable()
