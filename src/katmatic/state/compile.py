"""The compiler of the inner loops: Numba's work, done once per machine and kept as object code.

What runs the pipeline loads that code (state/loop.py) and needs neither a compiler nor Numba, which takes 90 MB of
memory and a third of a second at every start. `python -m katmatic.state.compile` makes it ahead of time, with
`--portable` for nearly all machines of this kind.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import cfunc, config, njit, types
from numba.core import cgutils
from numba.core.typing.templates import signature
from numba.extending import intrinsic

from katmatic.state import forest, kernel, linear, loop, scan

_INT, _FLOAT, _BYTE = types.CPointer(types.int64), types.CPointer(types.float64), types.CPointer(types.uint8)
_COUNT = types.int64

SIGNATURES: dict[str, tuple[ModuleType, Any]] = {
    "run": (
        kernel,
        _COUNT(
            *(_INT, _INT, _FLOAT),
            *(_INT, _INT, _INT, _INT, _INT, _INT, _INT, _FLOAT, _BYTE, _BYTE),
            *(_COUNT, _COUNT, _COUNT),
        ),
    ),
    "ask": (kernel, types.void(_INT, _INT, _FLOAT, _COUNT, _COUNT)),
    "release": (kernel, _COUNT(*(_INT, _INT, _FLOAT), *(_INT, _COUNT, _INT, _COUNT, _INT, _COUNT), _COUNT, _INT)),
    "add_up": (
        forest,
        types.void(*(_FLOAT, _COUNT, _COUNT, _INT, _INT, _COUNT), *(_INT, _FLOAT, _FLOAT, _INT, _FLOAT)),
    ),
    "weigh": (
        linear,
        types.void(*(_FLOAT, _COUNT, _COUNT, _INT, _INT), *(_FLOAT,) * 4, _COUNT, types.float64, _COUNT, _FLOAT),
    ),
    "scan": (
        scan,
        _COUNT(*(_BYTE, _COUNT, _COUNT, _INT, _COUNT, _BYTE, _FLOAT), *(_INT, _FLOAT, _INT, _INT, _INT)),
    ),
    "settle": (
        scan,
        _COUNT(
            *(_BYTE, _COUNT, _INT, _COUNT, _INT, _FLOAT, _INT, _INT, _COUNT, _COUNT, _COUNT, _COUNT),
            *(_INT, _COUNT, _COUNT, _INT, _INT, _INT, _COUNT, _INT, _INT, _INT, _FLOAT),
        ),
    ),
    "number": (
        scan,
        _COUNT(
            *(_BYTE, _COUNT, _INT, _INT, _INT, _COUNT, _COUNT),
            *(_INT, _INT, _INT, _INT, _INT, _BYTE, _INT, _COUNT, _INT),
            *(_INT, _COUNT, _INT, _COUNT, _INT, _INT, _INT),
        ),
    ),
    "arrange": (scan, types.void(_INT, _INT, _INT, _INT)),
    "forget": (scan, types.void(_INT, _COUNT, _INT, _INT, _INT, _INT)),
    "tidy": (scan, _COUNT(_INT, _INT, _INT, _INT, _INT)),
    "pack": (scan, _COUNT(_INT, _COUNT, _COUNT, _INT, _INT, _BYTE, _COUNT)),
    "intake": (scan, _COUNT(_BYTE, _COUNT, _COUNT, _COUNT, _INT)),
    "labels": (scan, _COUNT(_INT)),
    "predictions": (scan, _COUNT(_INT, _COUNT)),
}


@intrinsic
def _prefetch(typing_context: Any, words: Any, at: Any) -> Any:
    """One instruction: have a cache line brought near."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        target = builder.bitcast(builder.gep(arguments[0], [arguments[1]]), byte)
        kind = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [target, flag(0), flag(3), flag(1)])
        return context.get_dummy_value()

    return signature(types.none, words, types.int64), generate


@intrinsic
def _slide(typing_context: Any, words: Any, at: Any, count: Any, by: Any) -> Any:
    """Words move to where some of them may lie."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        words, at, count, by = arguments
        source = builder.gep(words, [at])
        cgutils.raw_memmove(builder, builder.gep(source, [by]), source, count, 8)
        return context.get_dummy_value()

    return signature(types.none, words, types.int64, types.int64, types.int64), generate


@intrinsic
def _add_lanes(typing_context: Any, reals: Any, values: Any, stride: Any, count: Any, to: Any) -> Any:
    """Several sums at once, each in its lane of a vector."""
    wide, whole = ir.VectorType(ir.DoubleType(), kernel.LANES), ir.IntType(64)
    zeros, ones = ir.Constant(wide, [0.0] * kernel.LANES), ir.Constant(wide, [1.0] * kernel.LANES)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        reals, values, stride, count, to = arguments
        places = [builder.gep(reals, [builder.add(to, whole(kernel.LANES * part))]) for part in range(6)]
        places = [builder.bitcast(place, wide.as_pointer()) for place in places]
        found = [cgutils.alloca_once_value(builder, builder.load(place, align=8)) for place in places]
        with cgutils.for_range_slice(builder, whole(0), count, whole(kernel.LANES), intp=whole) as (i, _):
            x, first = zeros, builder.add(values, builder.mul(i, stride))
            for lane in range(kernel.LANES):
                place = builder.gep(reals, [builder.add(first, builder.mul(whole(lane), stride))])
                x = builder.insert_element(x, builder.load(place), ir.IntType(32)(lane))
            number, s, r, u, least, most = (builder.load(part) for part in found)
            known = builder.fcmp_ordered("ord", x, x)
            number = builder.fadd(number, builder.select(known, ones, zeros))
            least = builder.select(builder.fcmp_ordered("<", x, least), x, least)
            most = builder.select(builder.fcmp_ordered(">", x, most), x, most)
            s, e = _two_sums(builder, s, builder.select(known, x, zeros))
            r, e = _two_sums(builder, r, e)
            for value, part in zip((number, s, r, builder.fadd(u, e), least, most), found, strict=True):
                builder.store(value, part)
        for part, place in zip(found, places, strict=True):
            builder.store(builder.load(part), place, align=8)
        return context.get_dummy_value()

    return signature(types.none, reals, *(types.int64,) * 4), generate


def _two_sums(builder: Any, a: Any, b: Any) -> tuple[Any, Any]:
    """`kernel._two_sum` in every lane."""
    s = builder.fadd(a, b)
    v = builder.fsub(s, a)
    return s, builder.fadd(builder.fsub(a, builder.fsub(s, v)), builder.fsub(b, v))


@intrinsic
def _word(typing_context: Any, text: Any, at: Any) -> Any:
    """Eight bytes at any address, as one word."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        whole = ir.IntType(64)
        source = builder.bitcast(builder.gep(arguments[0], [arguments[1]]), whole.as_pointer())
        return builder.load(source, align=1)

    return signature(types.int64, text, types.int64), generate


@intrinsic
def _put(typing_context: Any, text: Any, at: Any, word: Any) -> Any:
    """Eight bytes to any address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target = builder.bitcast(builder.gep(arguments[0], [arguments[1]]), ir.IntType(64).as_pointer())
        builder.store(arguments[2], target, align=1)
        return context.get_dummy_value()

    return signature(types.none, text, types.int64, types.int64), generate


@intrinsic
def _zeros(typing_context: Any, word: Any) -> Any:
    """How many of the lowest bits are 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return signature(types.int64, types.int64), generate


def _pointer(kind: Any) -> Any:
    """An address as a pointer."""

    @intrinsic
    def pointer(typing_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(kind))

        return signature(kind, types.int64), generate

    return pointer


_INSTRUCTIONS = {
    "_prefetch": _prefetch,
    "_slide": _slide,
    "_add_lanes": _add_lanes,
    "_word": _word,
    "_put": _put,
    "_zeros": _zeros,
    "_ints": _pointer(_INT),
    "_floats": _pointer(_FLOAT),
    "_letters": _pointer(_BYTE),
}


def object_code(cpu: loop.Cpu) -> tuple[dict[str, str], list[bytes]]:
    """Every loop's symbol, by name, and the object code of each, for a kind of processor."""
    vars(config).update(CPU_NAME=cpu[0], CPU_FEATURES=cpu[1])  # Numba looks at them when it compiles its first function
    symbols, objects = {}, []
    before = {module: dict(vars(module)) for module in (kernel, forest, linear, scan)}
    try:
        for module in before:
            vars(module).update({name: made for name, made in _INSTRUCTIONS.items() if name in vars(module)})
            inlined = vars(module).get("INLINED", ())
            for name in module.COMPILED:
                compiler = njit(error_model="numpy", forceinline=name in inlined)
                setattr(module, name, compiler(before[module][name]))
        machine = loop.target_machine(cpu)
        for name, (module, kind) in SIGNATURES.items():
            made = cfunc(kind, error_model="numpy")(before[module][name])
            compiled = llvm.parse_assembly(made.inspect_llvm())
            symbols[name] = made.native_name
            objects.append(machine.emit_object(compiled))
    finally:
        for module, known in before.items():
            vars(module).update(known)
    return symbols, objects


if __name__ == "__main__":
    print(f"compiled: {loop.prepare(portable='--portable' in sys.argv)}")
