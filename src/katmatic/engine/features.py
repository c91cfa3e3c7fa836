"""Feature rows: the kernel's answers, the anchor's fields and the user's functions, as columns of one predictor."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from katmatic.engine.derive import over_rows
from katmatic.engine.plan import Output, Questions
from katmatic.engine.validate import local
from katmatic.state.columns import Numbering

ROWS_AT_ONCE = 16  # from so many on, a function that only calculates is quicker over columns: bench/engine.py
_PLAIN = {float, bool, type(None), str}


class Anchors:
    """What the rows of one block say about their anchors, as far as a feature asks for it: lists, or floats."""

    def __init__(
        self,
        field: Callable[[str], list[Any] | NDArray[np.float64]],
        events: Callable[[], Sequence[Any]],
        now: Callable[[], list[Any]],
    ) -> None:
        self.field, self.events, self.now = field, events, now


@dataclass
class Assembled:
    """The features of n rows."""

    values: NDArray[np.float64]  # (n, F), NaN for unknown
    texts: dict[str, list[Any]]  # the features that are texts
    failed: NDArray[np.bool_]  # rows in which a function of the user's raised
    raised: int = 0  # how often one did
    said: dict[str, str] = field(default_factory=dict)  # what the last of them said, by feature


def assemble(
    questions: Questions, answers: NDArray[np.float64], anchors: Anchors, codes: dict[Any, Numbering]
) -> Assembled:
    """The features of `questions`, from what the kernel answered and the functions of the user make of it."""
    n = len(answers)
    made = Assembled(np.empty((n, len(questions.columns))), {}, np.zeros(n, np.bool_))
    values, texts = made.values, made.texts
    for to, of in questions.blocks:
        values[:, to] = answers[:, of]
    if not questions.others:
        return made
    place = questions.places
    lists: dict[str, list[Any]] = {}

    def listed(name: str) -> list[Any]:
        if name == "event":
            return list(anchors.events())
        if name == "now":
            return anchors.now()
        if name not in lists:
            lists[name] = known(values[:, place[name]])
        return lists[name]

    for output in questions.others:
        column = values[:, place[output.name]]
        if output.calculates and n >= ROWS_AT_ONCE and not any(name in texts for name in output.takes):
            assert output.function is not None
            given = [np.ascontiguousarray(values[:, place[name]]) for name in output.takes]
            column[:], left = over_rows(output.function, given)
            if len(left):
                found: list[Any] = _derive(output, [known(each[left]) for each in given], len(left), made, left)
                column[left] = np.array(found, np.float64)
            continue
        if output.kind == "window":
            found = _decoded(output, answers, codes)
        elif output.kind == "field":
            given_field = anchors.field(output.field)
            if isinstance(given_field, np.ndarray):
                column[:] = given_field
                continue
            found = given_field
        else:
            found = _derive(output, [listed(name) for name in output.takes], n, made)
        kinds = set(map(type, found))
        if output.name in questions.texts or str in kinds:
            lists[output.name] = texts[output.name] = found
            column.fill(np.nan)
            if kinds & {float, bool}:  # a text for some rows: each is kept as what it is, whatever is beside it
                lists[output.name] = found = [_clean(value) for value in found]
                column[:] = np.array([None if isinstance(value, str) else value for value in found], np.float64)
                texts[output.name] = [value if isinstance(value, str) else None for value in found]
            continue
        column[:] = np.array(found, np.float64)  # None becomes NaN
    return made


def known(column: NDArray[np.float64]) -> list[Any]:
    """A column as numbers, None where unknown."""
    found: list[Any] = column.tolist()
    for i in np.flatnonzero(np.isnan(column)).tolist():
        found[i] = None
    return found


def _decoded(output: Output, answers: NDArray[np.float64], codes: dict[Any, Numbering]) -> list[Any]:
    assert output.codes is not None
    names = codes[output.codes].names
    block = answers[:, output.at : output.at + output.width]
    if output.width > 1 or output.name.startswith("candidates["):
        return [[names[int(code)] for code in row if code == code] for row in block.tolist()]
    return [None if code != code else names[int(code)] for code in block[:, 0].tolist()]


def _derive(
    output: Output, given: list[list[Any]], n: int, made: Assembled, rows: NDArray[np.int64] | None = None
) -> list[Any]:
    """A function's values for n rows; where it raised is noted, by the numbers of the rows.

    Unknown propagates: a TypeError over a None gives None.
    """
    assert output.function is not None
    try:
        found = list(map(output.function, *given)) if given else [output.function() for _ in range(n)]
        return found if set(map(type, found)) <= _PLAIN else [_clean(value) for value in found]
    except Exception:  # the user's function may raise anything: then row by row
        found, wrong, said = _row_by_row(output, given, n)
    made.failed[wrong if rows is None else rows[wrong]] = True
    made.raised += len(wrong)
    if said:
        made.said[output.name] = said
    return found


def _row_by_row(output: Output, given: list[list[Any]], n: int) -> tuple[list[Any], list[int], str]:
    assert output.function is not None
    found: list[Any] = []
    wrong, said = [], ""
    features = [name not in ("event", "now") for name in output.takes]
    for i in range(n):
        row = [column[i] for column in given]
        try:
            found.append(_clean(output.function(*row)))
        except Exception as error:
            found.append(None)
            unknown = any(value is None for value, feature in zip(row, features, strict=True) if feature)
            if not (unknown and isinstance(error, TypeError)):
                wrong.append(i)
                said = f"{type(error).__name__}: {error}"
    return found, wrong, said


def _clean(value: Any) -> Any:
    """A value that a column can hold: a number, a text, or None."""
    if type(value) is float:
        return None if value != value else value
    if value is None or isinstance(value, str):
        return value
    number = float(value)
    return None if math.isnan(number) else number


def moments(column: NDArray[np.int64], zone: Any) -> list[Any]:
    """A column of moments as aware datetimes in the app's zone."""
    return [local(moment, zone) for moment in column.tolist()]
