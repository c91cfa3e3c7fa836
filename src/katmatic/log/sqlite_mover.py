"""A thread beside the embedded log, which tidies up its files so that few commits have to."""

from __future__ import annotations

import math
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path

from katmatic.clock import monotonic_seconds, sleep
from katmatic.log.sqlite_file import Transaction, connect, move_pages
from katmatic.log.sqlite_head import Half
from katmatic.log.sqlite_rows import insert_rows

MOVED_SECONDS = 0.25  # between two moves of pages into the main file in a flood, which would fill the side file,
CALM_SECONDS = 2.0  # and where all comes through the head: a commit that meets one waits for the disk
PAUSE_SECONDS = 0.00005  # after each of some 20 statements: a thread that came meanwhile has a core to run on at once


class Mover:
    """Moves what stands in a half of the head into the tables, and pages from the side file into the main one.

    SQLite lets one do so while another writes. What goes wrong here comes up in the commit that then has to do it.
    """

    def __init__(self, path: Path) -> None:
        self._connection = connect(path, "PRAGMA wal_autocheckpoint = 0")
        self._transaction = Transaction(self._connection, path)
        self._came = threading.Condition()
        self._half: Half | None = None
        self._moved, self._pause = monotonic_seconds(), math.inf  # until pages are moved again; there are none
        self._is_over = False
        self._thread = threading.Thread(target=self._work, name="katmatic-log-mover", daemon=True)
        self._thread.start()

    def committed(self) -> None:
        """There are pages to move."""
        if self._pause > MOVED_SECONDS:
            with self._came:
                self._pause = MOVED_SECONDS
                self._came.notify_all()

    def move(self, half: Half) -> None:
        """Put what stands in a half into the tables, and clear it."""
        with self._came:
            self._half = half
            self._came.notify_all()

    def wait(self) -> None:
        """Until the half is moved, or could not be: then it is not clear."""
        if self._half is not None:
            with self._came:
                self._came.wait_for(lambda: self._half is None)

    def close(self) -> None:
        """Move no more than what was begun."""
        with self._came:
            self._is_over = True
            self._came.notify_all()
        self._thread.join()
        self._connection.close()

    def _work(self) -> None:
        while True:
            with self._came:
                while self._half is None and not self._is_over and (left := self._left()) > 0:
                    self._came.wait(left if left < math.inf else None)
            if self._half is not None:
                self._empty(self._half)
            elif self._is_over:
                return
            if self._left() <= 0:
                self._pause = math.inf
                with suppress(Exception):
                    move_pages(self._connection)
                self._moved = monotonic_seconds()

    def _left(self) -> float:
        """Seconds until pages are to be moved."""
        return self._moved + self._pause - monotonic_seconds()

    def _empty(self, half: Half) -> None:
        with suppress(Exception):  # whatever it is: the pipeline waits for an answer
            with self._transaction:
                insert_rows(self._connection, half.rows, partial(sleep, PAUSE_SECONDS))
            half.clear()
        with self._came:
            self._half, self._pause = None, min(self._pause, CALM_SECONDS)
            self._came.notify_all()
