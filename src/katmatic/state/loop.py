"""The compiled loops, from a file of object code; made first where there is none."""

from __future__ import annotations

import ctypes
import hashlib
import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite
import llvmlite.binding as llvm
import msgspec
import numpy as np
from numpy.typing import NDArray

from katmatic.state import kernel

_P, _I, _D = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
_TYPES = {
    "run": ctypes.CFUNCTYPE(_I, *(_P,) * 13, _I, _I, _I),
    "ask": ctypes.CFUNCTYPE(None, _P, _P, _P, _I, _I),
    "add_up": ctypes.CFUNCTYPE(None, _P, _I, _I, _P, _I, _P, _P, _P, _P, _P, _P, _P),
}
_CALLED = ("exp2", "memcpy", "memmove", "memset", "pow")  # of the C library
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
_SOURCES = ("kernel.py", "compile.py", "forest.py")
_HERE, _OWN = Path(__file__).parent, Path.home() / ".cache" / "katmatic"


class Cpu(NamedTuple):
    """A processor, as LLVM names it."""

    name: str
    features: str


ANY = Cpu("generic", "")  # every processor of this architecture: what an image carries


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
    found: int = load()["run"](*(array.ctypes.data for array in arrays), len(rows.kind), first, until)
    if found == -2:
        raise MemoryError(_FAILURES[int(words[kernel.FAILED])])
    return found


def ask(
    plan: NDArray[np.int64], words: NDArray[np.int64], reals: NDArray[np.float64], predictor: int, moment: int
) -> None:
    """`kernel.ask`."""
    load()["ask"](plan.ctypes.data, words.ctypes.data, reals.ctypes.data, predictor, moment)


def add_up(x: NDArray[np.float64], arrays: list[NDArray[Any]], out: NDArray[np.float64]) -> None:
    """`forest.add_up`, onto `out`."""
    roots, *rest = arrays
    pointers = [array.ctypes.data for array in rest]
    load()["add_up"](x.ctypes.data, *x.shape, roots.ctypes.data, len(roots), *pointers, out.ctypes.data)


@cache
def load() -> dict[str, Any]:
    """The loops by name; compiled and kept in a file if this machine has none yet, which takes about half a minute."""
    file = ready()
    if file is None:
        file = path()
        make(file)
    symbols, objects = msgspec.msgpack.decode(file.read_bytes(), type=tuple[dict[str, str], list[bytes]])
    library = _c()
    for name in _CALLED:
        llvm.add_symbol(name, ctypes.cast(getattr(library, name), _P).value)
    for name in _NEVER_CALLED:
        llvm.add_symbol(name, ctypes.cast(library.abort, _P).value)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target_machine(host()))
    for code in objects:
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    found = {name: _TYPES[name](engine.get_function_address(symbol)) for name, symbol in symbols.items()}
    return {**found, "engine": engine}  # the code lives as long as its engine


def path(cpu: Cpu | None = None) -> Path:
    """Where the object code of this version is kept: for `cpu`, or for this machine."""
    name = _name(cpu or host())
    folder = _HERE / "__pycache__"
    try:
        folder.mkdir(exist_ok=True)
        probe = folder / f".{name}"
        probe.touch()
        probe.unlink()
    except OSError:
        folder = _OWN
    return folder / name


def ready() -> Path | None:
    """The object code that is there: this machine's, or else the one for any; None if it has to be compiled first."""
    names, folders = (_name(host()), _name(ANY)), (_HERE / "__pycache__", _OWN)
    return next((folder / name for name in names for folder in folders if (folder / name).exists()), None)


def _name(cpu: Cpu) -> str:
    facts = [(_HERE / name).read_bytes() for name in _SOURCES]
    facts += [llvmlite.__version__.encode(), cpu.name.encode(), cpu.features.encode()]
    digest = hashlib.sha256(b"\0".join(facts)).hexdigest()[:20]
    return f"loops-{digest}.bin"


def target_machine(cpu: Cpu) -> Any:
    """What the loops are compiled for."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    name, features = cpu
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=name, features=features, opt=3, reloc="default", codemodel="jitdefault"
    )


@cache
def host() -> Cpu:
    """The processor of this machine."""
    return Cpu(llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten())


def _c() -> Any:
    """The C library of this process."""
    return ctypes.CDLL(None) if sys.platform != "win32" else ctypes.cdll.msvcrt


def make(file: Path, cpu: Cpu | None = None) -> None:
    """Compile the loops into a file, for `cpu` or for this machine: half a minute, once."""
    from katmatic.state.compile import object_code

    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{id(file)}")
    partial.write_bytes(msgspec.msgpack.encode(object_code(cpu or host())))
    partial.replace(file)
