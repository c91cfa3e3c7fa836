"""A disk that fails: it stops at any write, forgets what was not synced, tears what was half written, and fills up.

What is written goes to real files, so that SQLite reads what it wrote. Beside them stands what a power cut would leave:
of each file what was synced last, and every write since. `after` draws from these what is there afterwards.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

SECTOR = 512  # bytes: a disk writes whole ones


class Dead(OSError):
    """The process has been killed, or the power is gone: nothing that it does reaches the disk any more."""


@dataclass
class _Content:
    """One file's bytes: what was synced, and the writes since then (a size instead of bytes: cut or grown to it)."""

    synced: bytearray = field(default_factory=bytearray)
    since: list[tuple[int, bytes | None]] = field(default_factory=list)
    size: int = 0

    def sync(self) -> None:
        self.synced = self.whole()
        self.since.clear()

    def whole(self) -> bytearray:
        found = bytearray(self.synced)
        for offset, data in self.since:
            _apply(found, offset, data)
        return found


class SimulatedDisk:
    """The files below `folder`, and what would be left of them. A `katmatic.disk.Disk`; SQLite comes by `vfs`."""

    def __init__(self, folder: Path, chance: np.random.Generator) -> None:
        self.folder = folder
        self._chance = chance
        self.failures = 0  # writes that failed so far, for want of room or otherwise
        self._names: dict[str, _Content] = {}
        self._synced: dict[str, _Content] = {}  # what the names were when the folder was synced last
        self._renames: list[tuple[str, _Content | None]] = []  # since then, in order
        self._last: tuple[_Content, int, bytes] | None = None  # the write at which it died
        self.writes = 0  # ever, with syncs, names and cuts
        self.dies_at: int | None = None  # the write at which the process dies
        self.fails_at: range = range(0)  # the writes that fail, and do nothing
        self.is_full = False  # no file can grow
        self.is_dead = False
        self.slow: Callable[[], None] = lambda: None  # called at each sync

    # ------------------------------------------------------------------------------------------- what is asked of it

    def step(self) -> None:
        """Count a write; Dead if it is the last, or after it; OSError if it fails."""
        self.writes += 1
        if self.is_dead or self.writes == self.dies_at:
            self.is_dead = True
            raise Dead(errno.EIO, "the process is dead")
        if self.writes in self.fails_at:
            self.failures += 1
            raise OSError(errno.EIO, "a disk that does not write")

    def holds(self, path: str) -> bool:
        """Whether a file is on this disk."""
        return Path(path).is_relative_to(self.folder)

    def opened(self, path: str) -> None:
        """A file was opened, and made if it was not there."""
        if path not in self._names and not self.is_dead:
            self._name(path, _Content())

    def wrote(self, path: str, offset: int, data: bytes) -> None:
        """`data` is about to be written at `offset`. Raises as `step`, or ENOSPC."""
        content = self._names[path]
        if self.writes + 1 == self.dies_at and not self.is_dead:
            self._last = (content, offset, data)
        self.step()
        if self.is_full and offset + len(data) > content.size:
            self.failures += 1
            raise OSError(errno.ENOSPC, "no space left on device")
        content.since.append((offset, data))
        content.size = max(content.size, offset + len(data))

    def cut(self, path: str, size: int) -> None:
        """A file is about to get this size."""
        self.step()
        self._names[path].since.append((size, None))
        self._names[path].size = size

    def synced(self, path: str, *, names: bool = False) -> None:
        """A file is synced, with the names in its folder if `names`."""
        self.step()
        self._names[path].sync()
        if names:
            self._sync_names()
        self.slow()

    def removed(self, path: str) -> None:
        """A name is about to go."""
        self.step()
        if path in self._names:
            self._name(path, None)

    # --------------------------------------------------------------------------------------- as katmatic.disk.Disk

    def write(self, file: Path, *parts: bytes) -> None:
        """Make `file` anew of `parts`."""
        path = str(file)
        self.step()
        self._name(path, _Content())
        file.write_bytes(b"")
        offset = 0
        for part in parts:
            self.wrote(path, offset, part)
            with file.open("ab") as stream:
                stream.write(part)
            offset += len(part)
        self.synced(path)

    def replace(self, file: Path, by: Path) -> None:
        """Let `by` take the name of `file`."""
        self.step()
        content = self._names[str(by)]
        self._name(str(file), content)
        self._name(str(by), None)
        by.replace(file)

    def remove(self, file: Path) -> None:
        """Forget a file."""
        self.removed(str(file))
        file.unlink(missing_ok=True)

    def sync(self, folder: Path) -> None:
        """Make the names durable."""
        self.step()
        self._sync_names()
        self.slow()

    def region(self, file: Path, size: int) -> SimulatedRegion:
        """A file of `size` bytes."""
        path = str(file)
        there = file.stat().st_size if file.exists() else 0
        found = SimulatedRegion(self, file)
        self.step()
        if not there:
            self.opened(path)
            file.touch()
        if there > size:
            self.cut(path, size)
            os.truncate(file, size)
        if there != size:
            found.write(there, bytes(max(size - there, 0)))
            found.sync()
        self.sync(file.parent)
        return found

    # ------------------------------------------------------------------------------------------------------- the end

    def after(self, folder: Path, *, is_power_cut: bool) -> SimulatedDisk:
        """The disk as the next process finds it, in another folder; this one is dead from now on.

        Of a killed process all that it wrote is there, though what it did not sync may still be lost by a power cut
        later. Of a power cut there is what was synced, and of the rest what chance leaves. The write at which it died
        is torn: part of it may be there.
        """
        self.is_dead = True
        found = SimulatedDisk(folder, self._chance)
        found.writes = self.writes
        names, renames = dict(self._names), list(self._renames)
        if is_power_cut:
            names = dict(self._synced)
            for path, content in renames[: int(self._chance.integers(0, len(renames) + 1))]:  # they last in order
                _rename(names, path, content)
        mood = int(self._chance.integers(0, 3))  # of the cut: all that was not synced is gone; some; in order
        for path, content in sorted(names.items()):
            since = self._left(content.since, mood) if is_power_cut else list(content.since)
            if self._last is not None and self._last[0] is content:
                since += self._torn(*self._last[1:])
            left = _Content(bytearray(content.synced), since)
            data = left.whole()
            if is_power_cut:
                left = _Content(bytearray(data))
            left.size = len(data)
            there = folder / Path(path).relative_to(self.folder)
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_bytes(data)
            found._name(str(there), left)
            if is_power_cut or self._synced.get(path) is content:
                found._sync_name(str(there))
        return found

    def spoil(self, file: Path) -> None:
        """A bit of a file turns, with nobody looking."""
        content = self._names[str(file)]
        content.sync()
        if content.synced:
            place = int(self._chance.integers(0, len(content.synced)))
            content.synced[place] ^= 1 << int(self._chance.integers(0, 8))
            file.write_bytes(content.synced)

    def _left(self, since: list[tuple[int, bytes | None]], mood: int) -> list[tuple[int, bytes | None]]:
        if mood == 0 or not since:
            return []
        if mood == 1:
            kept: list[tuple[int, bytes | None]] = []
            for offset, data in since:
                fate = int(self._chance.integers(0, 4))
                if fate == 0:
                    continue
                kept += self._torn(offset, data) if fate == 1 and data is not None else [(offset, data)]
            return kept
        return since[: int(self._chance.integers(0, len(since) + 1))]

    def _torn(self, offset: int, data: bytes) -> list[tuple[int, bytes | None]]:
        """Part of a write: its beginning, up to any byte; or any of its sectors."""
        if self._chance.integers(0, 2):
            return [(offset, data[: int(self._chance.integers(0, len(data) + 1))])]
        first = -offset % SECTOR
        edges = [0, *range(first or SECTOR, len(data), SECTOR), len(data)]
        pieces = [(offset + a, data[a:b]) for a, b in pairwise(edges)]
        chosen = self._chance.integers(0, 2, len(pieces)).tolist()
        return [piece for piece, is_there in zip(pieces, chosen, strict=True) if is_there]

    def _name(self, path: str, content: _Content | None) -> None:
        _rename(self._names, path, content)
        self._renames.append((path, content))

    def _sync_name(self, path: str) -> None:
        self._synced[path] = self._names[path]
        self._renames.pop()

    def _sync_names(self) -> None:
        self._synced = dict(self._names)
        self._renames.clear()


class SimulatedRegion:
    """A `katmatic.disk.Region` on a simulated disk."""

    def __init__(self, disk: SimulatedDisk, file: Path) -> None:
        self._disk, self._file = disk, file

    def read(self, offset: int, size: int) -> bytes:
        """What stands there."""
        with self._file.open("rb") as stream:
            stream.seek(offset)
            return stream.read(size)

    def write(self, offset: int, data: bytes) -> None:
        """Write into it."""
        self._disk.wrote(str(self._file), offset, data)
        with self._file.open("r+b") as stream:
            stream.seek(offset)
            stream.write(data)

    def sync(self) -> None:
        """Make it durable."""
        self._disk.synced(str(self._file))

    def close(self) -> None:
        """Nothing is held open."""


def _rename(names: dict[str, _Content], path: str, content: _Content | None) -> None:
    if content is None:
        names.pop(path, None)
    else:
        names[path] = content


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        if offset < len(content):
            del content[offset:]
        else:
            content.extend(bytes(offset - len(content)))
        return
    if offset > len(content):
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data
