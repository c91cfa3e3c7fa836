"""Checkpoints as files: each is whole or it does not count, and the one before it is still there."""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import xxhash

from katmatic.disk import Disk, SystemDisk, held
from katmatic.errors import LogError

MAGIC = b"katmcp\x00\x01"  # the last byte is the form
_HEADER = struct.Struct("<8sQQ16s")  # magic, sequence, length of the state, checksum of all that and of the state
PIECE_BYTES = 1 << 20  # that are read at once while a file is checked
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class FileCheckpoints:
    """Checkpoints in a folder, made if it is not there: one file each, named after its sequence.

    >>> from tempfile import TemporaryDirectory
    >>> folder = TemporaryDirectory()
    >>> checkpoints = FileCheckpoints(folder.name)
    >>> checkpoints.save("attendance", 7, b"the state after batch 7")
    >>> sequence, state = checkpoints.latest("attendance")
    >>> sequence, bytes(state)
    (7, b'the state after batch 7')
    >>> folder.cleanup()
    """

    def __init__(self, folder: str | Path, *, disk: Disk | None = None) -> None:
        self._folder, self._disk = Path(folder), disk or SystemDisk()
        with _explained(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)

    def save(self, name: str, sequence: int, state: bytes) -> None:
        """Keep `state` as it was after batch `sequence`: after a crash it is there whole, or not at all."""
        file = self._file(name, sequence)
        unfinished = file.with_suffix(".unfinished")
        with _explained(file):
            try:
                self._disk.write(unfinished, _header(sequence, state), state)
                self._disk.replace(file, unfinished)
                self._disk.sync(self._folder)
            except BaseException:
                with suppress(OSError):
                    self._disk.remove(unfinished)
                raise

    def latest(self, name: str) -> tuple[int, memoryview] | None:
        """The newest intact checkpoint with its sequence, or None; one that the disk has changed is passed over."""
        for file in self._files(name):
            if _is_intact(file):
                state = _state(file)
                if state is not None:
                    return _sequence(file), state
        return None

    def drop(self, name: str, before: int) -> None:
        """Forget the checkpoints of sequences below `before`, but never the newest intact one."""
        newest = next((_sequence(file) for file in self._files(name) if _is_intact(file)), 0)
        keep = min(before, newest)
        with _explained(self._folder):
            for file in self._files(name):
                if _sequence(file) < keep:
                    self._disk.remove(file)
            for file in self._folder.glob(f"{_checked(name)}@*.unfinished"):
                self._disk.remove(file)  # from a crash while it was written

    def _file(self, name: str, sequence: int) -> Path:
        return self._folder / f"{_checked(name)}@{sequence:020d}.checkpoint"

    def _files(self, name: str) -> list[Path]:
        """Newest first."""
        with _explained(self._folder):
            found = [file for file in self._folder.glob(f"{_checked(name)}@*.checkpoint") if file.stem[-20:].isdigit()]
        return sorted(found, key=_sequence, reverse=True)


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise LogError(
            "checkpoint",
            found=f"the name {name!r}",
            expected="letters, digits and any of `_.-`, at most 100",
            do="give the application such a name",
        )
    return name


def _sequence(file: Path) -> int:
    return int(file.stem.rpartition("@")[2])


def _header(sequence: int, state: bytes) -> bytes:
    digest = _digest(sequence)
    digest.update(state)
    return _HEADER.pack(MAGIC, sequence, len(state), digest.digest())


def _digest(sequence: int) -> xxhash.xxh3_128:
    return xxhash.xxh3_128(MAGIC + sequence.to_bytes(8, "little"))


def _is_intact(file: Path) -> bool:
    """Whether its bytes are those that were written; it is read piece by piece, in little memory."""
    with _explained(file):
        try:
            with file.open("rb") as opened:
                header = opened.read(_HEADER.size)
                if len(header) < _HEADER.size:
                    return False
                magic, sequence, length, checksum = _HEADER.unpack(header)
                digest, piece = _digest(sequence), memoryview(bytearray(PIECE_BYTES))
                while size := opened.readinto(piece):
                    digest.update(piece[:size])
                    length -= size
        except FileNotFoundError:  # dropped meanwhile
            return False
    return bool(magic == MAGIC and sequence == _sequence(file) and length == 0 and checksum == digest.digest())


def _state(file: Path) -> memoryview | None:
    """The state in a file that is intact, left where the system keeps it; None if it was dropped meanwhile."""
    with _explained(file):
        try:
            with file.open("rb") as opened:
                if not held(opened.fileno()):
                    return None
                return memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))[_HEADER.size :]
        except FileNotFoundError:
            return None


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LogError(
            str(file),
            found=str(error),
            expected="a folder to keep checkpoints in",
            do="check its permissions and the room on its disk; the pipeline can go on, and a restart will take longer",
        ) from error
