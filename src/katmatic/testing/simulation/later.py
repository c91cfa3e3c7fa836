"""The embedded log whose commits are synced later: when the seed says so, or when somebody waits for it."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

from katmatic.errors import LogLost
from katmatic.log.sqlite import SqliteLog
from katmatic.log.sync import Kept, Syncer
from katmatic.testing.simulation.disk import SimulatedDisk


class SyncedLater(SqliteLog):
    """One that syncs beside, without a thread: the world calls `sync`."""

    def __init__(self, path: Path, *, disk: SimulatedDisk, **more: Any) -> None:
        self._disk = disk
        super().__init__(path, syncs_beside=True, **more)

    def sync(self) -> None:
        """Let what was committed become durable, or never."""
        assert isinstance(self._syncer, _Syncs)
        self._syncer.sync()

    def _beside(self, file: Path) -> Syncer:
        return _Syncs(file, self._sequence, self._disk)


class _Syncs(Syncer):
    def __init__(self, path: Path, sequence: int, disk: SimulatedDisk) -> None:
        self._path, self._durable, self._disk = path, sequence, disk
        self._after = lambda: None
        self._written: deque[tuple[int, Kept]] = deque()
        self._came = threading.Condition()
        self._failed: OSError | None = None
        disk.synced(str(path), names=True)

    def sync(self) -> None:
        some = list(self._written)
        if not some or self._failed is not None:
            return
        try:
            self._disk.synced(str(self._path), names=True)
        except OSError as error:
            self._failed = error
        else:
            self._is_durable(some)

    def wait(self) -> None:
        self.sync()
        self.check()

    def close(self) -> list[Any]:
        with suppress(LogLost):
            self.wait()
        return [promise for _, kept in self._written for promise, _ in kept]
