"""The few things that are asked of a disk for what must be there whole or not at all; given to whoever writes files."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from katmatic.clock import monotonic_seconds, sleep

PIECE_BYTES = 2**21  # that are written, or given back, between two syncs: some milliseconds
SMALL_BYTES = 2**18  # that are written so by who gives way


class Region(Protocol):
    """A file of a size that does not change, open for writing. What cannot be done raises OSError."""

    def read(self, offset: int, size: int) -> bytes:
        """What stands there, synced or not."""
        ...

    def write(self, offset: int, data: bytes) -> None:
        """Write into it; not durable before `sync`."""
        ...

    def sync(self) -> None:
        """Make durable what was written."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class Disk(Protocol):
    """Each raises OSError if it cannot be done. The simulation has one that fails, tears and forgets."""

    def write(self, file: Path, *parts: bytes) -> None:
        """Make `file` anew of `parts`, durable when this returns; its name is not, before `sync`."""
        ...

    def replace(self, file: Path, by: Path) -> None:
        """Let `by` take the name of `file`."""
        ...

    def remove(self, file: Path) -> None:
        """Forget a file, if it is there."""
        ...

    def sync(self, folder: Path) -> None:
        """Make the names in `folder` durable."""
        ...

    def region(self, file: Path, size: int) -> Region:
        """A file of `size` bytes, its name durable; what it did not have yet is zeros."""
        ...


def sync_data(descriptor: int) -> None:
    """Make durable what was written into an open file, by whomever; on macOS it leaves the drive's own cache, too."""
    if hasattr(fcntl, "F_FULLFSYNC"):
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(descriptor)


def held(descriptor: int) -> bool:
    """Have an open file keep its bytes while it is open or mapped, whoever removes it; no if it has been removed."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # there are no locks on this disk: none for who removes it, either
        pass
    return os.fstat(descriptor).st_nlink > 0


def _is_read(descriptor: int) -> bool:
    """Whether somebody holds an open file, or may."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


class SystemDisk:
    """The machine's own. For who gives way: after each sync of a piece it rests `rest` times as long as that took."""

    def __init__(self, *, rest: float = 0.0) -> None:
        self._rest, self._piece = rest, SMALL_BYTES if rest else PIECE_BYTES

    def write(self, file: Path, *parts: bytes) -> None:
        """Make `file` anew, for the owner's eyes only: it holds people's data.

        A large one is synced piece by piece: a sync of another file waits for all that the disk was given before.
        """
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb", buffering=0) as stream:
            for part in parts:
                left = memoryview(part)
                while left:
                    left = left[stream.write(left[: self._piece]) :]
                    if left:
                        self._sync(descriptor)
            os.fsync(descriptor)

    def replace(self, file: Path, by: Path) -> None:
        """Let `by` take the name of `file`, at once."""
        by.replace(file)

    def remove(self, file: Path) -> None:
        """Forget a file, if it is there.

        Who gives way gives a large one back piece by piece: a sync of another file may wait until the disk has let go
        of all of it (`discard`). Not while somebody reads it, for which `held` tells; the system lets go of it then.
        """
        if not self._rest:
            file.unlink(missing_ok=True)
            return
        with suppress(FileNotFoundError), file.open("r+b", buffering=0) as stream:
            left = 0 if _is_read(stream.fileno()) else os.fstat(stream.fileno()).st_size
            file.unlink(missing_ok=True)
            while left > 0:
                left = max(left - PIECE_BYTES, 0)
                stream.truncate(left)
                self._sync(stream.fileno())

    def _sync(self, descriptor: int) -> None:
        began = monotonic_seconds()
        sync_data(descriptor)
        if self._rest:
            sleep(self._rest * (monotonic_seconds() - began))

    def sync(self, folder: Path) -> None:
        """Make the names in `folder` durable."""
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def region(self, file: Path, size: int) -> SystemRegion:
        """A file of `size` bytes, for the owner's eyes only, each written once: a sync has no others to write."""
        found = SystemRegion(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
        try:
            there = os.fstat(found.descriptor).st_size
            if there != size:
                os.ftruncate(found.descriptor, min(there, size))
                found.write(there, bytes(max(size - there, 0)))
                os.fsync(found.descriptor)
            self.sync(file.parent)
        except BaseException:
            found.close()
            raise
        return found


class SystemRegion:
    """A part of the machine's disk, as an open file."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def read(self, offset: int, size: int) -> bytes:
        """What stands there."""
        return os.pread(self.descriptor, size, offset)

    def write(self, offset: int, data: bytes) -> None:
        """Write into it."""
        while data:
            written = os.pwrite(self.descriptor, data, offset)
            data, offset = data[written:], offset + written

    def sync(self) -> None:
        """Have the disk keep it."""
        sync_data(self.descriptor)

    def close(self) -> None:
        """Let go of it."""
        os.close(self.descriptor)
