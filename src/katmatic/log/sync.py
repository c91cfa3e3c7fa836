"""Makes durable what was written to a file, on a thread of its own: one sync for all that was written meanwhile."""

from __future__ import annotations

import fcntl
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

from katmatic.errors import LogLost

Kept = Sequence[tuple[Future[range], range]]  # promises, and what they are kept with


class Syncer:
    """Syncs a file after each commit or after some of them, keeps the promises of these, and tells `after`.

    A sync that fails is not tried again: what the system could not
    write it may have forgotten, and the next sync would know nothing of it.
    """

    def __init__(self, path: Path, sequence: int, after: Callable[[], None]) -> None:
        self._path, self._durable, self._after = path, sequence, after
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        sync_folder(path.parent)
        sync(self._file)
        self._written: deque[tuple[int, Kept]] = deque()
        self._came = threading.Condition()  # something was written, or this is the end; or what was written is durable
        self._failed: OSError | None = None
        self._is_over = False
        self._thread = threading.Thread(target=self._work, name="katmatic-log-sync", daemon=True)
        self._thread.start()

    def written(self, sequence: int, kept: Kept) -> None:
        """A commit is in the file; its promises can be kept once it is durable."""
        with self._came:
            self._written.append((sequence, kept))
            self._came.notify_all()

    def durable(self, newest: int) -> int:
        """Up to which sequence all is durable; `newest` is that of the last commit, if it wrote something or not."""
        return self._durable if self._written else newest

    def wait(self) -> None:
        """Until all that was written is durable, and the promises are kept."""
        with self._came:
            self._came.wait_for(lambda: self._failed is not None or not self._written)
        self.check()

    def check(self) -> None:
        """Raise LogLost if something that was written could not be made durable."""
        if self._failed is not None:
            raise LogLost(
                str(self._path),
                found=f"a disk that did not keep what was written ({self._failed})",
                expected="one that does",
                do="check the disk and its limits, and start again: what was acknowledged is there",
            ) from self._failed

    def close(self) -> list[Future[range]]:
        """Sync what is left, and end; the promises that cannot be kept."""
        with self._came:
            self._is_over = True
            self._came.notify_all()
        self._thread.join()
        os.close(self._file)
        return [promise for _, kept in self._written for promise, _ in kept]

    def _work(self) -> None:
        try:
            while some := self._next():
                sync(self._file)
                self._is_durable(some)
        except OSError as error:
            with self._came:
                self._failed = error
                self._came.notify_all()
            self._after()

    def _next(self) -> list[tuple[int, Kept]]:
        """The commits that were written and are not durable, once there are some; none at the end."""
        with self._came:
            self._came.wait_for(lambda: self._written or self._is_over)
            return list(self._written)

    def _is_durable(self, some: list[tuple[int, Kept]]) -> None:
        for sequence, promises in some:
            for promise, positions in promises:
                promise.set_result(positions)
            self._durable = sequence
        with self._came:
            for _ in some:
                self._written.popleft()
            self._came.notify_all()
        self._after()


def sync(file: int) -> None:
    """Let the disk keep what was written to a file; on macOS only this gets it out of the drive's own cache."""
    if hasattr(fcntl, "F_FULLFSYNC"):
        fcntl.fcntl(file, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(file)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
