"""The compiled loops, from a file of object code; made first where there is none.

Such a file is for one kind of processor. What is carried to other machines (an image) brings one for a kind that nearly
all of them are: it is used where there is none for the machine itself.
"""

from __future__ import annotations

import ctypes
import hashlib
import platform
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import msgspec
import numpy as np
from numpy.typing import NDArray

from katmatic.state import forest, kernel, scan

Cpu = tuple[str, str]  # LLVM's name of a kind of processor, and what it can do
_P, _I, _D = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
_TYPES = {
    "run": ctypes.CFUNCTYPE(_I, *(_P,) * 13, _I, _I, _I),
    "release": ctypes.CFUNCTYPE(_I, _P, _P, _P, _P, _I, _P, _I, _P, _I, _I, _P),
    "ask": ctypes.CFUNCTYPE(None, _P, _P, _P, _I, _I),
    "add_up": ctypes.CFUNCTYPE(None, _P, _I, _I, _P, _P, _I, _P, _P, _P, _P, _P),
    "weigh": ctypes.CFUNCTYPE(None, _P, _I, _I, *(_P,) * 6, _I, _D, _I, _P),
    "scan": ctypes.CFUNCTYPE(_I, _P, _I, _I, _P, _I, _P, _P, _P, _P, _P, _P, _P),
    "settle": ctypes.CFUNCTYPE(_I, _P, _I, _P, _I, *(_P,) * 4, *(_I,) * 4, _P, _I, _I, *(_P,) * 3, _I, *(_P,) * 4),
    "number": ctypes.CFUNCTYPE(_I, _P, _I, _P, _P, _P, _I, _I, *(_P,) * 7, _I, _P, _P, _I, _P, _I, *(_P,) * 3),
    "arrange": ctypes.CFUNCTYPE(None, _P, _P, _P, _P),
    "forget": ctypes.CFUNCTYPE(None, _P, _I, _P, _P, _P, _P),
    "tidy": ctypes.CFUNCTYPE(_I, _P, _P, _P, _P, _P),
    "pack": ctypes.CFUNCTYPE(_I, _P, _I, _I, _P, _P, _P, _I),
    "intake": ctypes.CFUNCTYPE(_I, _P, _I, _I, _I, _P),
    "labels": ctypes.CFUNCTYPE(_I, _P),
    "predictions": ctypes.CFUNCTYPE(_I, _P, _I),
}
_Letter = ctypes.c_char * 1
_CALLED = ("exp", "exp2", "memcpy", "memmove", "memset", "pow")  # of the C library
# Named by the code for exceptions, which it never raises. Each has to have an address, or no name gets one.
_NEVER_CALLED = (
    "NRT_Free",
    "numba_do_raise",
    "numba_gil_ensure",
    "numba_gil_release",
    "numba_runtime_build_excinfo_struct",
    "numba_unpickle",
)
_FAILURES = {
    kernel.STATE_FULL: "the state has reached its limit",
    kernel.WAITING_FULL: "too many things wait for their moment",
    kernel.OUTPUTS_OVER: "one event made too many predictions or label versions",
}
_SOURCES = ("kernel.py", "compile.py", "forest.py", "linear.py", "scan.py")
# Every x86-64 server since 2013, by the ABI's level 3; on others the name of their plainest kind.
_LEVEL_3 = "avx avx2 bmi bmi2 cx16 f16c fma fxsr lzcnt mmx movbe popcnt sahf sse sse2 sse3 sse4.1 sse4.2 ssse3 xsave"


def go_on(about: Sequence[int], count: int, first: int, until: int) -> int:
    """`kernel.run`, of the addresses of the plan, of words and reals, and of so many rows; -2 if it failed."""
    found: int = load()["run"](*about, count, first, until)
    return found


def run(
    plan: NDArray[np.int64],
    words: NDArray[np.int64],
    reals: NDArray[np.float64],
    rows: kernel.Rows,
    first: int,
    until: int,
) -> int:
    """`kernel.run`. Raises MemoryError when a limit of the state is reached; it is of no use afterwards."""
    arrays = (plan, words, reals, *rows)
    found = go_on([array.ctypes.data for array in arrays], len(rows.kind), first, until)
    if found == -2:
        raise failure(words)
    return found


def failure(words: NDArray[np.int64]) -> MemoryError:
    """Why `kernel.run` failed."""
    return MemoryError(_FAILURES[int(words[kernel.FAILED])])


def ask(
    plan: NDArray[np.int64], words: NDArray[np.int64], reals: NDArray[np.float64], predictor: int, moment: int
) -> None:
    """`kernel.ask`."""
    load()["ask"](plan.ctypes.data, words.ctypes.data, reals.ctypes.data, predictor, moment)


def release(
    plan: NDArray[np.int64],
    words: NDArray[np.int64],
    reals: NDArray[np.float64],
    keys: NDArray[np.int64],
    tables: NDArray[np.int64],
    lists: NDArray[np.int64],
    now: int,
) -> NDArray[np.int64]:
    """`kernel.release`: which of the keys no longer matter."""
    gone = np.empty(len(keys), np.int64)
    given = [part for array in (keys, tables, lists) for part in (array.ctypes.data, len(array))]
    arena = plan.ctypes.data, words.ctypes.data, reals.ctypes.data
    return gone[: load()["release"](*arena, *given, now, gone.ctypes.data)]


def add_up(
    x: NDArray[np.float64],
    roots: NDArray[np.int64],
    depths: NDArray[np.int64],
    nodes: NDArray[np.int64],
    value: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """`forest.add_up`, onto `out`."""
    at = np.empty(forest.ROWS, np.int64)
    places = nodes.ctypes.data, nodes.ctypes.data, value.ctypes.data, at.ctypes.data, out.ctypes.data
    load()["add_up"](x.ctypes.data, *x.shape, roots.ctypes.data, depths.ctypes.data, len(roots), *places)


def weigh(x: NDArray[np.float64], columns: tuple[int, ...], start: float, *, logistic: bool) -> NDArray[np.float64]:
    """`linear.weigh`. `columns` are the addresses of what is known about them, and how many there are."""
    out = np.empty(len(x))
    load()["weigh"](_place(x), *x.shape, *columns, start, logistic, _place(out))
    return out


def read(text: bytes, at: int, fields: tuple[int, int, bytes], table: int, count: int) -> int:
    """`scan.scan`: how many of the records are not plain.

    `fields` are the address of their table, how many there are, and their names. At the address `table` go words and
    lengths (fields, records), times and fates.
    """
    column = 8 * count
    lengths, time = table + fields[1] * column, table + 2 * fields[1] * column
    found: int = load()["scan"](text, at, count, *fields, powers(), table, table, lengths, time, time + column)
    return found


def settle(
    text: bytes,
    fields: tuple[int, int, bytes],
    table: int,
    about: tuple[int, int, int, int],
    columns: tuple[int, int, int],
    rows: Sequence[int],
    *,
    count: int,
) -> int:
    """`scan.settle`, of a table as `read` makes it: how many records are out of range.

    `about` are the identity's field, the stream, horizon and ahead; `columns` their address, how many there are, and
    the width of a row; `rows` the addresses of places, now, kind, stream, time, identities and values.
    """
    lengths = table + 8 * fields[1] * count
    places, now, kind, *others = rows
    found: int = load()["settle"](
        *(text, count, *fields[:2], table, table, lengths, lengths + (lengths - table), *about, *columns),
        *(places, now, kind, kernel.EVENT, *others),
    )
    return found


def number(
    text: bytes,
    columns: tuple[int, int, int, int],
    space: int,
    about: Sequence[int],
    *,
    count: int,
    adds: bool,
    free: int,
    rows: tuple[int, int, int, bool, int, int],
) -> int:
    """`scan.number`, of the addresses of words, lengths and the key's fields, and how many these are.

    `about` are the addresses of what is known of keys, and of room to work; `free` is that of the free numbers; `rows`
    says where the numbers go, and who notes their moments.
    """
    facts, index, starts, keys, room, scratch, used = about
    found, stride, places, notes, moment, now = rows
    failed: int = load()["number"](
        *(text, count, *columns, space, facts, index, starts, keys, room, room, scratch, int(adds), free),
        *(found, stride, places, int(notes), used, moment, now),
    )
    return failed


def arrange(about: Sequence[int]) -> None:
    """`scan.arrange`, of addresses."""
    load()["arrange"](*about)


def forget(numbers: NDArray[np.int64], about: Sequence[int]) -> None:
    """`scan.forget`, of numbers and of addresses."""
    load()["forget"](numbers.ctypes.data, len(numbers), *about)


def tidy(about: Sequence[int]) -> int:
    """`scan.tidy`, of addresses."""
    found: int = load()["tidy"](*about)
    return found


def pack(numbers: NDArray[np.int64], starts: int, keys: int) -> memoryview:
    """`scan.pack`, of the numbers of n keys of some texts each."""
    n, width = numbers.shape
    size = 32 * (n * width + 1)
    while True:
        out = np.empty(size, np.uint8)
        used = load()["pack"](_place(numbers), n, width, starts, keys, _place(out), size)
        if used >= 0:
            return out.data[:used]
        size *= 8


def intake(text: bytes, at: int, count: int, moment: int, stream: int) -> int:
    """`scan.intake`, of the address of what it is told of a stream."""
    found: int = load()["intake"](text, at, count, moment, stream)
    return found


def labels(about: int) -> tuple[int, int]:
    """`scan.labels`, of an address: how many rows and bytes; (-1, ...) if they are left to others."""
    found: int = load()["labels"](about)
    return found >> 32, found & 0xFFFFFFFF


def predictions(about: int, count: int) -> tuple[int, int]:
    """`scan.predictions`, as `labels`."""
    found: int = load()["predictions"](about, count)
    return found >> 32, found & 0xFFFFFFFF


def _place(array: NDArray[Any]) -> Any:
    """Where an array lies, as ctypes takes it: to ask in this way takes half the time, if the array allows it."""
    try:
        return _Letter.from_buffer(array.data)
    except (TypeError, ValueError):
        return array.ctypes.data


@cache
def powers() -> int:
    """The address of exact powers of ten."""
    return scan.POWERS.ctypes.data


@cache
def load() -> dict[str, Any]:
    """The loops by name; compiled and kept in a file if this machine has none yet, which takes about half a minute."""
    file = found() or _make(path(_cpu(), _writable()), _cpu())
    symbols, objects = msgspec.msgpack.decode(file.read_bytes(), type=tuple[dict[str, str], list[bytes]])
    library = _c()
    for name in _CALLED:
        llvm.add_symbol(name, ctypes.cast(getattr(library, name), _P).value)
    for name in _NEVER_CALLED:
        llvm.add_symbol(name, ctypes.cast(library.abort, _P).value)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target_machine())
    for code in objects:
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    loops = {name: _TYPES[name](engine.get_function_address(symbol)) for name, symbol in symbols.items()}
    return {**loops, "engine": engine}  # the code lives as long as its engine


def found() -> Path | None:
    """The object code that will be loaded; None if the loops have to be compiled first."""
    return _there((_cpu(), *_portable()))


def prepare(*, portable: bool = False) -> Path:
    """Compile the loops for this machine, or for nearly all of its kind, unless that was done; where they lie."""
    cpu = next(iter(_portable()), None) if portable else _cpu()
    if cpu is None:
        raise OSError("this processor has less than every server since 2013: leave out --portable")
    return _there([cpu]) or _make(path(cpu, _writable()), cpu)


def _there(cpus: Iterable[Cpu]) -> Path | None:
    return next((file for cpu in cpus for folder in _folders() if (file := path(cpu, folder)).exists()), None)


def path(cpu: Cpu, folder: Path) -> Path:
    """Where the object code of this version lies in a folder, for a kind of processor."""
    facts = [version(), llvmlite.__version__, *cpu]
    digest = hashlib.sha256("\0".join(facts).encode()).hexdigest()
    return folder / f"loops-{digest[:20]}.bin"


@cache
def version() -> str:
    """Equal for equal loops: state that was made by other ones may lie in memory in another way."""
    here = Path(__file__).parent
    return hashlib.sha256(b"\0".join((here / name).read_bytes() for name in _SOURCES)).hexdigest()


def _folders() -> list[Path]:
    """Where object code may lie: beside the source, and where the user keeps such things."""
    return [Path(__file__).parent / "__pycache__", Path.home() / ".cache" / "katmatic"]


def _writable() -> Path:
    """The first of the folders that can be written to."""
    for folder in _folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".{id(folder)}"
            probe.touch()
            probe.unlink()
        except OSError:
            continue
        return folder
    raise OSError(
        f"none of {', '.join(map(str, _folders()))} can be written to, to keep compiled loops in: "
        "make one of them so, or compile before: python -m katmatic.state.compile"
    )


@cache
def target_machine(cpu: Cpu | None = None) -> Any:
    """What the loops are compiled for: a kind of processor, or this machine's."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    name, features = cpu or _cpu()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=name, features=features, opt=3, reloc="default", codemodel="jitdefault"
    )


@cache
def _cpu() -> Cpu:
    return llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()


def _portable() -> list[Cpu]:
    """The kind that nearly all machines like this one are, if it is one of them."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return [("generic", "")]
    here, wanted = llvm.get_host_cpu_features(), _LEVEL_3.split()
    return [("x86-64-v3", ",".join(f"+{name}" for name in wanted))] if all(here.get(n) for n in wanted) else []


def _c() -> Any:
    """The C library of this process."""
    return ctypes.CDLL(None) if sys.platform != "win32" else ctypes.cdll.msvcrt


def _make(file: Path, cpu: Cpu) -> Path:
    from katmatic.state.compile import object_code

    partial = file.with_suffix(f".{id(file)}")
    partial.write_bytes(msgspec.msgpack.encode(object_code(cpu)))
    partial.replace(file)
    return file
