"""SQLite's own door to the disk, held open for a `SimulatedDisk`: each write that SQLite makes passes through it.

SQLite calls the disk by a table of functions (its VFS). Here stands a copy of the usual one, in which opening, writing,
cutting, syncing and removing are ours; all else (reading, locks, shared memory) stays the machine's. The SQLite is the
one that the pipeline uses, so all that is simulated is the real code of the log.
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from katmatic.errors import SettingsError
from katmatic.testing.simulation.disk import SimulatedDisk

OK, IOERR_WRITE, FULL, IOERR_SYNC = 0, 10 | 3 << 8, 13, 10 | 4 << 8
OPEN_WAL = 0x00080000

_I, _P, _I64 = ctypes.c_int, ctypes.c_void_p, ctypes.c_int64
_CLOSE = ctypes.CFUNCTYPE(_I, _P)
_WRITE = ctypes.CFUNCTYPE(_I, _P, _P, _I, _I64)
_TRUNCATE = ctypes.CFUNCTYPE(_I, _P, _I64)
_SYNC = ctypes.CFUNCTYPE(_I, _P, _I)
_OPEN = ctypes.CFUNCTYPE(_I, _P, _P, _P, _I, _P)
_DELETE = ctypes.CFUNCTYPE(_I, _P, ctypes.c_char_p, _I)
_RANDOMNESS = ctypes.CFUNCTYPE(_I, _P, _I, _P)


class _Methods(ctypes.Structure):
    """`sqlite3_io_methods`, versions 1 to 3."""

    _fields_ = [("version", _I), ("close", _CLOSE), ("read", _P), ("write", _WRITE), ("truncate", _TRUNCATE)]
    _fields_ += [("sync", _SYNC), *((f"other{i}", _P) for i in range(13))]


class _File(ctypes.Structure):
    """The head of every `sqlite3_file`."""

    _fields_ = [("methods", ctypes.POINTER(_Methods))]


class _Vfs(ctypes.Structure):
    """`sqlite3_vfs`, versions 1 to 3."""

    _fields_ = [("version", _I), ("file_bytes", _I), ("path_bytes", _I), ("next", _P), ("name", ctypes.c_char_p)]
    _fields_ += [("data", _P), ("open", _OPEN), ("delete", _DELETE), ("access", _P), ("full_path", _P)]
    _fields_ += [*((f"dl{i}", _P) for i in range(4)), ("randomness", _RANDOMNESS)]
    _fields_ += [*((f"other{i}", _P) for i in range(7))]


@contextmanager
def simulated(disk: SimulatedDisk) -> Iterator[None]:
    """While it lasts, what SQLite opens in this process is on `disk`; close it before the end. One at a time."""
    vfs = _install()
    before, vfs.disk = vfs.disk, disk
    vfs.use(yes=True)
    try:
        yield
    finally:
        vfs.disk = before
        vfs.use(yes=before is not None)


@cache
def _install() -> _Installed:
    import _sqlite3  # the library that it was linked with is asked by its file

    try:
        library = ctypes.CDLL(_sqlite3.__file__)
        library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
        return _Installed(library)
    except (AttributeError, OSError) as error:
        raise SettingsError(
            "simulate",
            found=f"a Python whose SQLite cannot be reached ({error})",
            expected="one that is linked with SQLite as a library of its own",
            do="use the Python of your system, or one built by pyenv",
        ) from error


class _Installed:
    """Our table of functions beside the usual one; made once in a process, and never taken away."""

    def __init__(self, library: Any) -> None:
        self.disk: SimulatedDisk | None = None
        self._library = library
        self._usual = library.sqlite3_vfs_find(None)
        self._vfs = _Vfs()
        ctypes.memmove(ctypes.byref(self._vfs), self._usual, ctypes.sizeof(_Vfs))
        self._vfs.name = b"katmatic-simulated"
        self._vfs.open = _OPEN(self._open)
        self._vfs.delete = _DELETE(self._delete)
        self._vfs.randomness = _RANDOMNESS(self._randomness)
        self._tables: dict[int, tuple[_Methods, Any]] = {}  # by the address of the usual one
        self._files: dict[int, tuple[str, bool, SimulatedDisk, Any]] = {}  # by the address of the file
        self._drawn = 0

    def use(self, *, yes: bool) -> None:
        """Let SQLite open by us, or as usual."""
        self._library.sqlite3_vfs_register(ctypes.byref(self._vfs) if yes else self._usual, 1)

    # Nothing may be raised into SQLite: what is raised in these becomes a code.

    def _open(self, vfs: int, name: int | None, file: int, flags: int, out: int | None) -> int:
        code: int = self._usual.contents.open(ctypes.addressof(self._usual.contents), name, file, flags, out)
        if code != OK or not name or self.disk is None:
            return code
        path = ctypes.string_at(name).decode()
        if not self.disk.holds(path):
            return code
        head = ctypes.cast(file, ctypes.POINTER(_File)).contents
        usual = ctypes.addressof(head.methods.contents)
        if usual not in self._tables:
            self._tables[usual] = self._table(head.methods.contents)
        ours, theirs = self._tables[usual]
        self._files[file] = (path, bool(flags & OPEN_WAL), self.disk, theirs)
        self.disk.opened(path)
        head.methods = ctypes.pointer(ours)
        return code

    def _table(self, usual: _Methods) -> tuple[_Methods, _Methods]:
        ours = _Methods()
        ctypes.memmove(ctypes.byref(ours), ctypes.byref(usual), ctypes.sizeof(_Methods))
        ours.close, ours.write = _CLOSE(self._close), _WRITE(self._write)
        ours.truncate, ours.sync = _TRUNCATE(self._truncate), _SYNC(self._sync)
        return ours, usual

    def _close(self, file: int) -> int:
        _, _, _, usual = self._files.pop(file)
        code: int = usual.close(file)
        return code

    def _write(self, file: int, data: int, size: int, offset: int) -> int:
        path, _, disk, usual = self._files[file]
        failed = _code(lambda: disk.wrote(path, offset, ctypes.string_at(data, size)))
        return failed or int(usual.write(file, data, size, offset))

    def _truncate(self, file: int, size: int) -> int:
        path, _, disk, usual = self._files[file]
        return _code(lambda: disk.cut(path, size)) or int(usual.truncate(file, size))

    def _sync(self, file: int, flags: int) -> int:
        path, is_wal, disk, _ = self._files[file]
        return IOERR_SYNC if _code(lambda: disk.synced(path, names=is_wal)) else OK

    def _delete(self, vfs: int, name: bytes, sync: int) -> int:
        disk = self.disk
        if disk is not None and disk.holds(name.decode()) and (failed := _code(lambda: disk.removed(name.decode()))):
            return failed
        return int(self._usual.contents.delete(ctypes.addressof(self._usual.contents), name, sync))

    def _randomness(self, vfs: int, size: int, out: int) -> int:
        """Salts of side files: a seed draws the same ones each time."""
        self._drawn += 1
        data = bytes((self._drawn * 0x9E3779B1 >> i % 24) & 0xFF for i in range(size))
        ctypes.memmove(out, data, size)
        return size


def _code(do: Callable[[], None]) -> int:
    try:
        do()
    except OSError as error:
        return FULL if error.errno == errno.ENOSPC else IOERR_WRITE
    except BaseException:
        return IOERR_WRITE
    return OK
