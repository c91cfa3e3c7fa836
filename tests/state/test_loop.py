"""The compiled loops: for this machine, or for any, also where nothing can be written."""

from __future__ import annotations

import pytest

from katmatic.state import loop


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """The two places of the loops, empty: beside the source, and the user's own."""
    beside, own = tmp_path / "beside", tmp_path / "own"
    (beside / "__pycache__").mkdir(parents=True)
    own.mkdir()
    for name in ("kernel.py", "compile.py", "forest.py"):
        (beside / name).write_text(name, "utf-8")
    monkeypatch.setattr(loop, "_HERE", beside)
    monkeypatch.setattr(loop, "_OWN", own)
    return beside / "__pycache__", own


def test_with_nothing_compiled_nothing_is_ready(folders):
    assert loop.ready() is None
    assert loop.path().parent == folders[0]


def test_the_loops_for_any_processor_do_until_there_are_this_machines_own(folders):
    beside, own = folders
    loop.path(loop.ANY).write_bytes(b"any")
    assert loop.ready() == loop.path(loop.ANY), "an image is built in one place and runs in others"
    (own / loop.path().name).write_bytes(b"mine")
    assert loop.ready() == own / loop.path().name
    assert own != beside


def test_loops_beside_the_source_are_found_where_nothing_can_be_written(folders, monkeypatch):
    beside, own = folders
    compiled = loop.path()
    compiled.write_bytes(b"mine")

    def refuse(*_, **__):
        raise PermissionError

    monkeypatch.setattr(type(beside), "touch", refuse)
    assert loop.path().parent == own, "what is compiled now would go there"
    assert loop.ready() == compiled


def test_loops_of_another_version_are_not_taken(folders):
    loop.path(loop.ANY).write_bytes(b"any")
    (folders[0].parent / "kernel.py").write_text("changed", "utf-8")
    assert loop.ready() is None
