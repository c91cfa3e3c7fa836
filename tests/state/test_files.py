"""Checkpoints as files: the newest intact one wins, whatever the disk or a crash has done."""

from __future__ import annotations

import errno
import os

import pytest

from katmatic.errors import LogError
from katmatic.state.files import FileCheckpoints


@pytest.fixture
def checkpoints(tmp_path):
    return FileCheckpoints(tmp_path / "made" / "on demand")


def files(checkpoints):
    return sorted(checkpoints._folder.iterdir())


def test_of_nothing_there_is_none(checkpoints):
    assert checkpoints.latest("attendance") is None
    checkpoints.drop("attendance", 100)


def test_the_newest_one_wins_by_its_sequence_and_not_by_its_age(checkpoints):
    checkpoints.save("attendance", 1000, b"new")
    checkpoints.save("attendance", 999, b"older, saved later")
    checkpoints.save("shop", 5000, b"of another application")
    assert checkpoints.latest("attendance") == (1000, b"new")


def test_saved_twice_it_is_the_second(checkpoints):
    checkpoints.save("attendance", 7, b"first")
    checkpoints.save("attendance", 7, b"second")
    assert checkpoints.latest("attendance") == (7, b"second")


def test_an_empty_state_is_a_state(checkpoints):
    checkpoints.save("attendance", 0, b"")
    assert checkpoints.latest("attendance") == (0, b"")


def test_names_that_begin_alike_are_not_mixed_up(checkpoints):
    checkpoints.save("shop", 1, b"shop")
    checkpoints.save("shop-2", 9, b"shop-2")
    checkpoints.drop("shop", 100)
    assert checkpoints.latest("shop") == (1, b"shop")
    assert checkpoints.latest("shop-2") == (9, b"shop-2")


@pytest.mark.parametrize("at", [0, 7, 9, 17, 30, 40, -1])
def test_a_flipped_byte_anywhere_makes_it_fall_back_to_the_one_before(checkpoints, at):
    checkpoints.save("attendance", 1, b"whole")
    checkpoints.save("attendance", 2, b"to be damaged")
    newest = files(checkpoints)[-1]
    data = bytearray(newest.read_bytes())
    data[at] ^= 1
    newest.write_bytes(data)
    assert checkpoints.latest("attendance") == (1, b"whole")


def test_a_torn_one_is_passed_over_at_every_length(checkpoints):
    checkpoints.save("attendance", 1, b"whole")
    checkpoints.save("attendance", 2, b"torn")
    newest = files(checkpoints)[-1]
    data = newest.read_bytes()
    for length in range(len(data)):
        newest.write_bytes(data[:length])
        assert checkpoints.latest("attendance") == (1, b"whole")
    newest.write_bytes(data + b"x")
    assert checkpoints.latest("attendance") == (1, b"whole")


def test_a_file_under_another_name_does_not_count(checkpoints):
    checkpoints.save("attendance", 1, b"one")
    only = files(checkpoints)[0]
    only.rename(only.with_name(only.name.replace("1.", "2.")))
    assert checkpoints.latest("attendance") is None


def test_dropping_leaves_the_newest_intact_one(checkpoints):
    for sequence in (1, 2, 3):
        checkpoints.save("attendance", sequence, b"state %d" % sequence)
    files(checkpoints)[-1].write_bytes(b"damaged")
    checkpoints.drop("attendance", 3)
    assert checkpoints.latest("attendance") == (2, b"state 2")
    assert len(files(checkpoints)) == 2
    checkpoints.drop("attendance", 100)
    assert checkpoints.latest("attendance") == (2, b"state 2")


def test_what_a_crash_left_unfinished_is_never_read_and_swept_away(checkpoints):
    checkpoints.save("attendance", 1, b"one")
    unfinished = files(checkpoints)[0].with_name(f"attendance@{2:020d}.unfinished")
    unfinished.write_bytes(files(checkpoints)[0].read_bytes())
    assert checkpoints.latest("attendance") == (1, b"one")
    checkpoints.drop("attendance", 1)
    assert not unfinished.exists()
    assert checkpoints.latest("attendance") == (1, b"one")


def test_a_full_disk_is_said_and_leaves_the_one_before(checkpoints, monkeypatch):
    checkpoints.save("attendance", 1, b"one")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(LogError, match=r"No space left.*; check its permissions and the"):
            checkpoints.save("attendance", 2, b"two")
    assert checkpoints.latest("attendance") == (1, b"one")
    assert len(files(checkpoints)) == 1
    checkpoints.save("attendance", 2, b"two")
    assert checkpoints.latest("attendance") == (2, b"two")


def test_it_is_synced_before_it_gets_its_name_and_the_name_is_synced_too(checkpoints, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("sync"), fsync(descriptor))[1])
    monkeypatch.setattr(os, "replace", lambda old, new: (calls.append("name"), replace(old, new))[1])
    checkpoints.save("attendance", 1, b"one")
    assert calls == ["sync", "name", "sync"]


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a@1", "x" * 101, "über*"])
def test_a_name_that_could_lead_elsewhere_is_refused(checkpoints, name):
    with pytest.raises(LogError, match="give the application such a name"):
        checkpoints.save(name, 1, b"")
    with pytest.raises(LogError, match="give the application such a name"):
        checkpoints.latest(name)


def test_a_folder_that_is_a_file_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LogError, match="expected a folder"):
        FileCheckpoints(tmp_path / "file")
