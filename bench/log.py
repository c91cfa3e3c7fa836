"""The embedded log: CPU per event to append, read and commit it durably, to read it again, and to scan a topic.

Values of 120 bytes; a batch of 1 is what a lone event costs, one fsync included; 5000 is a flood; "singles" is a flood
of appends of one event each, as from many senders. Beside it stands the peer that one would write oneself: one row for
each event, inserted with `executemany`, one transaction a batch, on the same file system with the same fsync.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from bench.report import report
from katmatic.clock import monotonic_seconds, process_seconds
from katmatic.log.sqlite import SqliteLog

VALUE_BYTES = 120
BATCHES = {1: 2_000, 100: 2_000, 5000: 200}  # records in a batch: how many batches


def measure() -> dict[str, Any]:
    """Figures by batch size, then those of reading again."""
    found: dict[str, Any] = {}
    for size, batches in BATCHES.items():
        values = [os.urandom(VALUE_BYTES) for _ in range(size)]
        with tempfile.TemporaryDirectory() as folder, closing(SqliteLog(Path(folder) / "log.db")) as log:

            def turn(now: int, log: SqliteLog = log, values: list[bytes] = values, size: int = size) -> None:
                log.append("gate", values)
                log.commit(log.read(now, limit=size), {"katmatic.predictions": [b"x" * 100]})

            cpu, wall = _timed(turn, batches)
            found[f"commit_{size}_cpu_us"] = round(cpu / batches * 1e6, 1)
            found[f"commit_{size}_wall_us"] = round(wall / batches * 1e6, 1)
            found[f"events_per_cpu_s_{size}"] = round(size * batches / cpu)
            again, _ = _timed(partial(_again, log), 1)
            scanned, _ = _timed(partial(_scanned, log), 1)
            found[f"replay_per_cpu_s_{size}"] = round(size * batches / again)
            found[f"scan_per_cpu_s_{size}"] = round(size * batches / scanned)
            if size > 1:
                found[f"singles_{size}_per_cpu_s"] = round(
                    size * 10 / _timed(partial(_singles, log, size, values), 10)[0]
                )
        with tempfile.TemporaryDirectory() as folder, closing(_rows(Path(folder) / "rows.db")) as rows:

            def insert(now: int, rows: sqlite3.Connection = rows, values: list[bytes] = values) -> None:
                rows.execute("BEGIN IMMEDIATE")
                rows.executemany("INSERT INTO events (now, value) VALUES (?, ?)", [(now, value) for value in values])
                rows.execute("COMMIT")

            cpu, _ = _timed(insert, batches)
            found[f"peer_rows_per_cpu_s_{size}"] = round(size * batches / cpu)
    return found


def _again(log: SqliteLog, _: int) -> None:
    sum(map(len, log.batches()))


def _scanned(log: SqliteLog, _: int) -> None:
    sum(1 for _ in log.scan("gate"))


def _singles(log: SqliteLog, size: int, values: list[bytes], _: int) -> None:
    for value in values:
        log.append("gate", [value])
    log.commit(log.read(0, limit=size), {})


def _rows(path: Path) -> sqlite3.Connection:
    rows = sqlite3.connect(path, isolation_level=None)
    rows.execute("PRAGMA journal_mode = WAL")
    rows.execute("PRAGMA synchronous = FULL")
    rows.execute("CREATE TABLE events (position INTEGER PRIMARY KEY, now INTEGER, value BLOB)")
    return rows


def _timed(call: Callable[[int], object], times: int) -> tuple[float, float]:
    cpu, wall = process_seconds(), monotonic_seconds()
    for i in range(times):
        call(i)
    return process_seconds() - cpu, monotonic_seconds() - wall


if __name__ == "__main__":
    report(measure)
