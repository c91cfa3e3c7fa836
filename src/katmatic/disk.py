"""The few things that are asked of a disk for what must be there whole or not at all; given to whoever writes files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol


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


class SystemDisk:
    """The machine's own."""

    def write(self, file: Path, *parts: bytes) -> None:
        """Make `file` anew, for the owner's eyes only: it holds people's data."""
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            for part in parts:
                stream.write(part)
            stream.flush()
            os.fsync(stream.fileno())

    def replace(self, file: Path, by: Path) -> None:
        """Let `by` take the name of `file`, at once."""
        by.replace(file)

    def remove(self, file: Path) -> None:
        """Forget a file, if it is there."""
        file.unlink(missing_ok=True)

    def sync(self, folder: Path) -> None:
        """Make the names in `folder` durable."""
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
