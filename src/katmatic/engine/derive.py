"""A function of the user's over many rows at once, where that gives the very bits of row by row.

A function that only calculates, that is, whose bytecode touches nothing but its arguments and numbers, is called with
columns instead of numbers. Where it branches, it is called once for each way that some row goes. Whatever a column
cannot answer as a number would (a division by zero, arithmetic with None) is left to be asked row by row.
"""

from __future__ import annotations

import dis
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import numpy as np
from numpy.typing import NDArray

WAYS_LIMIT = 16  # through one function, and sets of unknown arguments: what is beyond is asked row by row

# Those that only move and compute numbers; a name that is not here, as of a later Python, leaves its function aside.
_PLAIN = {
    *("RESUME", "NOP", "CACHE", "EXTENDED_ARG", "NOT_TAKEN", "POP_TOP", "COPY", "SWAP", "TO_BOOL", "RETURN_VALUE"),
    *("LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_FAST_LOAD_FAST", "LOAD_FAST_BORROW", "LOAD_FAST_BORROW_LOAD_FAST_BORROW"),
    *("STORE_FAST", "STORE_FAST_LOAD_FAST", "STORE_FAST_STORE_FAST", "LOAD_CONST", "LOAD_SMALL_INT", "RETURN_CONST"),
    *("BINARY_OP", "COMPARE_OP", "IS_OP", "UNARY_NEGATIVE", "UNARY_NOT", "JUMP_FORWARD"),
    *("JUMP_IF_FALSE_OR_POP", "JUMP_IF_TRUE_OR_POP", "POP_JUMP_IF_FALSE", "POP_JUMP_IF_TRUE"),
    *("POP_JUMP_IF_NONE", "POP_JUMP_IF_NOT_NONE", "POP_JUMP_FORWARD_IF_FALSE", "POP_JUMP_FORWARD_IF_TRUE"),
    *("POP_JUMP_FORWARD_IF_NONE", "POP_JUMP_FORWARD_IF_NOT_NONE"),
}
_OPERATORS = {"+", "-", "*", "/", "+=", "-=", "*=", "/="}
_WHOLE_MOST = 2**53  # up to which a whole number is the same as a float

Column = NDArray[Any]
Rows = NDArray[np.bool_]  # which of all


def only_calculates(function: Callable[..., Any]) -> bool:
    """Whether a function does nothing but calculate with its arguments and with numbers.

    >>> only_calculates(lambda a, b: a / b if b else None), only_calculates(lambda a: round(a))
    (True, False)
    """
    if not isinstance(function, FunctionType):
        return False
    code = function.__code__
    return all(_is_number(value) for value in code.co_consts) and all(
        step.opname in _PLAIN and (step.opname != "BINARY_OP" or step.argrepr in _OPERATORS)
        for step in dis.get_instructions(code)
    )


def over_rows(function: Callable[..., Any], columns: Sequence[Column]) -> tuple[Column, NDArray[np.int64]]:
    """The values of a function that only calculates, NaN for unknown, and the rows for which it has to be asked itself.

    `columns` are its arguments, floats of equal number; NaN is unknown: rows in which the same ones are unknown go
    together, with None for these.
    """
    n = len(columns[0])
    values, left = np.full(n, np.nan), np.zeros(n, np.bool_)
    kinds: list[tuple[list[Column | None], Rows]] = [([], np.ones(n, np.bool_))]
    for column in columns:
        unknown = np.isnan(column)
        if not unknown.any():
            kinds = [([*known, column], rows) for known, rows in kinds]
            continue
        kinds = [
            ([*known, given], some)
            for known, rows in kinds
            for given, some in ((column, rows & ~unknown), (None, rows & unknown))
            if some.any()
        ]
        for _, rows in kinds[WAYS_LIMIT:]:
            left |= rows
        del kinds[WAYS_LIMIT:]
    with np.errstate(all="ignore"):
        for given, rows in kinds:
            _go(function, given, rows, values, left)
    return values, np.flatnonzero(left)


def _go(
    function: Callable[..., Any], given: Sequence[Column | None], rows: Rows, values: Column, left: NDArray[np.bool_]
) -> None:
    """The values of some rows, in each of which the same arguments are known, and which of them are left."""
    run = _Run(rows, left)
    arguments = [None if column is None else _Numbers(run, column) for column in given]
    for _ in range(WAYS_LIMIT):
        if not run.begin():
            return
        try:
            result = function(*arguments)
        except Exception:  # as it will say, row by row
            left |= run.rows
            continue
        if isinstance(result, _Numbers):
            np.copyto(values, result.floats, where=run.rows)
        elif result is not None:
            np.copyto(values, float(result), where=run.rows)
    left |= rows


class _Run:
    """The ways that rows take through a function: each run of it goes one of them."""

    def __init__(self, rows: Rows, left: NDArray[np.bool_]) -> None:
        self.rows = rows  # that go the present way
        self.left = left  # to be asked by themselves
        self._open: list[tuple[list[bool], Rows]] = [([], rows)]
        self._way: list[bool] = []
        self._turn = 0

    def begin(self) -> bool:
        """Go the next way, up to its last known branch; whether there was one."""
        if not self._open:
            return False
        self._way, self.rows = self._open.pop()
        self._turn = 0
        return True

    def branch(self, truth: NDArray[np.bool_]) -> bool:
        """Which way to go here; the other one is gone later, if there are rows that go it."""
        self._turn += 1
        if self._turn <= len(self._way):
            return self._way[self._turn - 1]
        here, others = self.rows & truth, self.rows & ~truth
        goes = bool(here.any())
        if goes and others.any():
            self._open.append(([*self._way, False], others))
            self.rows = here
        self._way = [*self._way, goes]
        return goes


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, bool | int | float) and abs(value) <= _WHOLE_MOST)


def _operator(compute: Callable[[Column, Column], Column]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    def forth(self: _Numbers, other: Any) -> Any:
        return self.combine(compute, self, other)

    def back(self: _Numbers, other: Any) -> Any:
        return self.combine(compute, other, self)

    return forth, back


class _Numbers:
    """A number of each row, which calculates as a float does; or a truth of each, from a comparison."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, run: _Run, values: Column) -> None:
        self._run, self._values = run, values

    @property
    def floats(self) -> Column:
        """The numbers; of truths 1 and 0."""
        return self._values.astype(np.float64, copy=False)

    def __bool__(self) -> bool:
        return self._run.branch(self._values != 0)

    def combine(self, compute: Callable[[Column, Column], Column], left: Any, right: Any) -> Any:
        """A number of each row from two; NotImplemented, as of a number, if one is none."""
        if left is None or right is None:
            return NotImplemented
        a, b = (
            side._number() if isinstance(side, _Numbers) else np.asarray(side, np.float64) for side in (left, right)
        )
        if compute is np.divide:
            self._run.left |= self._run.rows & (b == 0)
        return _Numbers(self._run, compute(a, b))

    def _number(self) -> Column:
        if self._values.dtype == np.bool_:
            raise TypeError("whole numbers, of which 0 has no sign: they are left to be asked row by row")
        return self._values

    __add__, __radd__ = _operator(np.add)
    __sub__, __rsub__ = _operator(np.subtract)
    __mul__, __rmul__ = _operator(np.multiply)
    __truediv__, __rtruediv__ = _operator(np.divide)
    __lt__, _ = _operator(np.less)
    __le__, _ = _operator(np.less_equal)
    __gt__, _ = _operator(np.greater)
    __ge__, _ = _operator(np.greater_equal)

    def __eq__(self, other: object) -> Any:
        return False if other is None else self.combine(np.equal, self, other)

    def __ne__(self, other: object) -> Any:
        return True if other is None else self.combine(np.not_equal, self, other)

    def __neg__(self) -> _Numbers:
        return _Numbers(self._run, -self._number())
