"""The file of the embedded log: owned by one process, written in transactions, its errors told in four parts."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from katmatic.errors import LogError

APPLICATION = 0x6B61746D  # "katm": how the file says whose it is
FORM = 2  # of the tables, and of the head beside them
FORMS = (1, FORM)  # that can be read: the first had no head
PAGE_BYTES = 8192  # 4096 costs a fifth more CPU in large batches, 16384 gains nothing: bench/log.py
WAL_BYTES = 16 * 2**20  # after so much, pages move from the side file into the main one: some 20 ms
CACHE_BYTES = 8 * 2**20
BUSY_SECONDS = 30.0  # how long to wait for the short transaction of another process


def own(path: Path) -> int:
    """Become the one owner: an open file that is locked until it is closed, even by SIGKILL."""
    with Explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.read(lock, 20).decode("ascii", "replace").strip()
        os.close(lock)
        raise LogError(
            str(path),
            found=f"another owner: process {owner}",
            expected="one owner at a time",
            do=f"end process {owner} first, or give this one another log; to look into a log, open it read-only",
        ) from error
    os.ftruncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
    return lock


def create(path: Path, tables: str, added: str, *, wal_bytes: int = WAL_BYTES) -> sqlite3.Connection:
    """A connection that may write; in a new file it makes the tables, in one of the first form what was added since."""
    with Explained(path):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # people's data: for the owner's eyes
        _sync(path.parent)
    connection = connect(
        path,
        f"PRAGMA page_size = {PAGE_BYTES}",
        "PRAGMA journal_mode = WAL",  # readers never wait for the writer, and a commit is one sequential write
        "PRAGMA cell_size_check = ON",  # find a damaged page before it does harm
        f"PRAGMA wal_autocheckpoint = {max(wal_bytes // PAGE_BYTES, 1)}",
        f"PRAGMA journal_size_limit = {2 * wal_bytes}",  # a side file that grew under a long reader is cut again
        f"PRAGMA cache_size = -{CACHE_BYTES // 1024}",
    )
    try:
        with Explained(path), shaped():
            if path.stat().st_size == 0 or connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0:
                form = f"PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {FORM};"
                connection.executescript(f"BEGIN; {tables} {form} COMMIT;")
            check_form(connection, path)
            if connection.execute("PRAGMA user_version").fetchone()[0] != FORM:
                connection.executescript(f"BEGIN; {added} PRAGMA user_version = {FORM}; COMMIT;")
    except BaseException:
        connection.close()
        raise
    return connection


def _sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def connect(path: Path, *pragmas: str) -> sqlite3.Connection:
    """A connection to the file, whose commits survive a power cut."""
    with Explained(path), shaped():
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            # FULL: the side file is synced at each commit, so that what was acknowledged survives a power cut.
            # On macOS only fullfsync gets it out of the drive's own cache.
            for pragma in (*pragmas, "PRAGMA synchronous = FULL", "PRAGMA fullfsync = ON"):
                connection.execute(pragma)
        except BaseException:
            connection.close()
            raise
    return connection


def move_pages(connection: sqlite3.Connection) -> None:
    """Move pages from the side file into the main one, of those that nobody reads. What goes wrong is tried again."""
    with suppress(sqlite3.Error):
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")


def check_form(connection: sqlite3.Connection, path: Path) -> None:
    """LogError if the file is not a log of a form that we know."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    form = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION or form not in FORMS:
        raise LogError(
            str(path),
            found=f"a log of form {form}" if application == APPLICATION else "a SQLite file that is no log",
            expected=f"a log of form {FORM} or before",
            do="open it with the version of katmatic that made it, or name another file",
        )


class Transaction:
    """All that happens inside, or nothing."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection, self._explained = connection, Explained(path)

    def __enter__(self) -> sqlite3.Connection:
        with self._explained:
            self._connection.execute("BEGIN IMMEDIATE")
        return self._connection

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with self._explained:
            try:
                if error is not None:
                    raise error
                self._connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                    self._connection.execute("ROLLBACK")
                raise


class Unbroken:
    """What is done whole, or fails with a LogError: then nothing is done. If it ends otherwise, nothing more may be."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.is_broken = False

    def __enter__(self) -> None:
        if self.is_broken:
            raise LogError(
                str(self._path),
                found="a commit or a read that was interrupted, and is there or not",
                expected="one that came to its end",
                do="open the log again",
            )
        self.is_broken = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.is_broken = kind is not None and not issubclass(kind, LogError)


_ADVICE = {
    sqlite3.SQLITE_FULL: (
        "a full disk",
        "room for what is committed",
        "free some room, or raise the limit; then it goes on",
    ),
    sqlite3.SQLITE_BUSY: ("a file that another process keeps locked", "short transactions", "end whatever holds it"),
    sqlite3.SQLITE_CORRUPT: ("damaged pages", "the pages that were written", "check the disk, and restore a backup"),
    sqlite3.SQLITE_NOTADB: ("a file that is no SQLite database", "a log", "name another file, or restore a backup"),
    sqlite3.SQLITE_READONLY: ("a file that may not be written", "one that may", "check its owner and permissions"),
    sqlite3.SQLITE_CANTOPEN: ("a file that cannot be opened", "one that can", "check its folder and permissions"),
    sqlite3.SQLITE_IOERR: ("a disk that does not read or write", "one that does", "check the disk and its limits"),
}


@contextmanager
def shaped() -> Iterator[None]:
    """Damage is also what shows as rows that are missing, or of another shape than they were made in."""
    try:
        yield
    except (LookupError, TypeError, ValueError) as error:
        raise Damage(f"tables ({error!r})") from error


class Damage(Exception):
    """What stands at a place is not what was committed there."""


class Explained:
    """Errors of SQLite, of the file system and of what stands in the file, in four parts. May be entered again."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sqlite3.Error):
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            found, expected, do = _ADVICE.get(
                code, ("a transaction that fails", "one that does not", "see the error above")
            )
            raise LogError(str(self._path), found=f"{found} ({error})", expected=expected, do=do) from error
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            found, expected, do = _ADVICE[sqlite3.SQLITE_FULL]
            raise LogError(str(self._path), found=f"{found} ({error})", expected=expected, do=do) from error
        if isinstance(error, OSError):
            raise LogError(
                str(self._path),
                found=str(error),
                expected="a file that can be opened",
                do="check its folder and permissions",
            ) from error
        if isinstance(error, Damage):
            raise LogError(
                f"{self._path}: {error}",
                found="bytes that do not agree with their checksum",
                expected="the bytes that were committed",
                do="check the disk, and restore the log from a backup",
            ) from error
