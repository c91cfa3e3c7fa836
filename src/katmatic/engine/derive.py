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
_BITS_MOST = 8  # arguments, so that their sets can be counted
_WHOLE_MOST = 2**53  # up to which a whole number is the same as a float

Column = NDArray[Any]
Rows = NDArray[np.int64] | slice  # all, while none go another way


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
    unknown = np.zeros(n, np.uint8)  # which ones, as bits
    for i, column in enumerate(columns[:_BITS_MOST]):
        unknown |= np.isnan(column).view(np.uint8) << i
    kinds = np.flatnonzero(np.bincount(unknown)).tolist() if n and len(columns) <= _BITS_MOST else []
    if len(kinds) == 1:
        values, left = _over_known(function, _with_none(columns, kinds[0]), n)
        return values, np.flatnonzero(left)
    values, left = np.full(n, np.nan), np.ones(n, np.bool_)
    for kind in kinds[:WAYS_LIMIT]:
        rows = np.flatnonzero(unknown == kind)
        given = [column[rows] for column in columns]
        values[rows], left[rows] = _over_known(function, _with_none(given, kind), len(rows))
    return values, np.flatnonzero(left)


def _with_none(columns: Sequence[Column], unknown: int) -> list[Column | None]:
    return [None if unknown >> i & 1 else column for i, column in enumerate(columns)]


def _over_known(
    function: Callable[..., Any], columns: Sequence[Column | None], n: int
) -> tuple[Column, NDArray[np.bool_]]:
    """The same for rows in which each argument is known, or None; and in which rows it has to be asked itself."""
    values, run = np.full(n, np.nan), _Run(n)
    given = [None if column is None else _Numbers(run, column) for column in columns]
    with np.errstate(all="ignore"):
        for _ in range(WAYS_LIMIT):
            rows = run.begin()
            if rows is None:
                break
            try:
                result = function(*given)
            except Exception:  # as it will say, row by row
                run.left[run.rows] = True
                continue
            if isinstance(result, _Numbers):
                values[run.rows] = result.floats[run.rows]
            elif result is not None:
                values[run.rows] = float(result)
        else:
            run.left[:] = True
    return values, run.left


class _Run:
    """The ways that rows take through a function: each run of it goes one of them."""

    def __init__(self, n: int) -> None:
        self.rows: Rows = slice(0)  # that go the present way
        self.left = np.zeros(n, np.bool_)  # to be asked by themselves
        self._open: list[tuple[list[bool], Rows]] = [([], slice(n))] if n else []
        self._way: list[bool] = []
        self._turn = 0

    def begin(self) -> Rows | None:
        """The rows of the next way up to its last known branch; None if all ways were gone."""
        if not self._open:
            return None
        self._way, self.rows = self._open.pop()
        self._turn = 0
        return self.rows

    def branch(self, truth: NDArray[np.bool_]) -> bool:
        """Which way to go here; the other one is gone later, if there are rows that go it."""
        self._turn += 1
        if self._turn <= len(self._way):
            return self._way[self._turn - 1]
        here = truth[self.rows]
        goes = bool(here.any())
        if goes and not here.all():
            rows = np.arange(len(here)) if isinstance(self.rows, slice) else self.rows
            self._open.append(([*self._way, False], rows[~here]))
            self.rows = rows[here]
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
            self._run.left |= b == 0
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
