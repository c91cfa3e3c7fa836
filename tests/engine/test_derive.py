"""Functions over columns: they give the bits that they give row by row; what cannot be so is left aside."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from katmatic.engine import features
from katmatic.engine.derive import WAYS_LIMIT, only_calculates, over_rows
from katmatic.engine.features import Anchors, Assembled
from katmatic.engine.plan import Output

AMOUNT = 3.0

NUMBERS = st.sampled_from(
    ["0", "1", "-2", "0.1", "3", "1e308", "True", "None", "a", "b", "c", "a", "b", "c", "a", "b", "c"]
)
FLOATS = (0.0, -0.0, 1.0, 0.1, -2.5, 3.0, 1e300, -1e-320, math.inf, -math.inf, math.nan)


def _larger(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(parts, st.sampled_from("+-*/"), parts).map(lambda p: f"({p[0]} {p[1]} {p[2]})"),
        st.tuples(parts, st.sampled_from(["<", "<=", ">", ">=", "==", "!=", "and", "or"]), parts).map(
            lambda p: f"({p[0]} {p[1]} {p[2]})"
        ),
        st.tuples(parts, parts, parts).map(lambda p: f"({p[0]} if {p[1]} else {p[2]})"),
        parts.map(lambda p: f"(-{p})"),
        parts.map(lambda p: f"(not {p})"),
        st.tuples(parts, st.sampled_from(["is", "is not"])).map(lambda p: f"({p[0]} {p[1]} None)"),
    )


EXPRESSIONS = st.recursive(NUMBERS, _larger, max_leaves=8)
ROWS = st.lists(st.tuples(*[st.sampled_from(FLOATS)] * 3), min_size=1, max_size=30)


def row_by_row(function, columns):
    """The values as features.py gets them by asking the function itself, and in which rows it raised."""
    made = Assembled(np.empty((len(columns[0]), 0)), {}, np.zeros(len(columns[0]), np.bool_))
    lists = [features.known(column) for column in columns]
    found = features._derive(
        Output("f", "derived", function=function, takes=("a", "b", "c")), lists, len(lists[0]), made
    )
    return np.array(found, np.float64), made.failed


@settings(max_examples=600, deadline=None)
@given(EXPRESSIONS, ROWS)
@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_it_gives_the_bits_of_row_by_row(expression, rows):
    function = eval(f"lambda a, b, c: {expression}")
    columns = list(np.array(rows, np.float64).T)
    if not only_calculates(function):
        return
    expected, failed = row_by_row(function, columns)
    values, left = over_rows(function, columns)
    settled = np.setdiff1d(np.arange(len(rows)), left)
    assert not failed[settled].any()
    assert [v.hex() for v in values[settled].tolist()] == [v.hex() for v in expected[settled].tolist()]


def test_what_only_calculates_is_told_by_its_code():
    text = "many"

    def steps(a, b):
        ratio = a / b
        return ratio if ratio < 1 else 1

    assert only_calculates(steps)
    assert only_calculates(lambda a: a * 0.5 if a is not None else None)
    for function in (
        lambda a: AMOUNT * a,
        lambda a: math.log(a) + a,
        lambda a: a**2,
        lambda a: a // 2,
        lambda a: a % 2,
        lambda a: text if a else a,
        lambda a: "few" if a else a,
        lambda a: [a],
        lambda a: (a > 1) & (a < 2),
        lambda a: 10**400 if a else a,
        lambda a: sum(x for x in (a, a)),
        math.sqrt,
        float,
    ):
        assert not only_calculates(function)


def test_each_way_is_gone_once_and_too_many_are_not():
    calls = []

    def ways(a, b):
        calls.append(1)
        return (a + b if a > 0 else a - b) if b > 0 else (a * b if a > 0 else 0)

    a, b = np.array([1.0, -1.0, 1.0, -1.0, 5.0]), np.array([1.0, 1.0, -1.0, -1.0, 2.0])
    values, left = over_rows(ways, [a, b])
    assert values.tolist() == [2.0, -2.0, -1.0, 0.0, 7.0]
    assert len(left) == 0
    assert len(calls) == 4

    many = eval("lambda a: " + "".join(f"{i} if a < {i} else " for i in range(2 * WAYS_LIMIT)) + "99")
    assert len(over_rows(many, [np.arange(2.0 * WAYS_LIMIT)])[1]) == 2 * WAYS_LIMIT


def test_what_is_unknown_or_divided_by_zero_is_left_to_be_asked():
    a, b = np.array([1.0, np.nan, 3.0, 4.0]), np.array([2.0, 2.0, 0.0, np.nan])
    values, left = over_rows(lambda a, b: a / b, [a, b])
    assert values[0] == 0.5
    assert left.tolist() == [1, 2, 3]


def test_rows_in_which_the_same_is_unknown_go_together():
    calls = []

    def ratio(a, b):
        calls.append(1)
        return a / b if b else None

    a, b = np.array([1.0, np.nan, 3.0, 4.0, 5.0, np.nan]), np.array([2.0, np.nan, np.nan, 4.0, np.nan, np.nan])
    values, left = over_rows(ratio, [a, b])
    assert np.array_equal(values, [0.5, np.nan, np.nan, 1.0, np.nan, np.nan], equal_nan=True)
    assert len(left) == 0
    assert len(calls) == 3


def test_too_many_sets_of_unknown_arguments_are_left():
    sets = 2 * WAYS_LIMIT
    columns = [np.where(np.arange(sets) >> i & 1, np.nan, 1.0) for i in range(sets.bit_length() - 1)]
    calls = []

    def first(*given):
        calls.append(given)
        return given[0]

    values, left = over_rows(first, columns)
    assert len(calls) == len(left) == WAYS_LIMIT
    settled = np.setdiff1d(np.arange(sets), left)
    assert np.array_equal(values[settled], columns[0][settled], equal_nan=True)


def test_a_division_by_zero_that_a_row_does_not_come_to_does_not_leave_it():
    a, b = np.array([1.0, 2.0, 3.0]), np.array([2.0, 0.0, -3.0])
    values, left = over_rows(lambda a, b: a / b if b else None, [a, b])
    assert np.array_equal(values, [0.5, np.nan, -1.0], equal_nan=True)
    assert len(left) == 0


def test_features_are_the_same_for_one_row_and_for_many():
    from bench.engine import app
    from katmatic.engine.plan import compile

    questions = compile(app).questions[0]
    random = np.random.default_rng(1)
    answers, amount = random.lognormal(1, 1, (50, 14)), random.lognormal(1, 1, 50)
    answers[random.random((50, 14)) < 0.1] = np.nan
    answers[random.random((50, 14)) < 0.1] = 0.0

    def assembled(rows):
        anchors = Anchors({"amount": amount[rows].tolist()}.__getitem__, list, list)
        return features.assemble(questions, answers[rows], anchors, {})

    together = assembled(slice(0, 50))
    alone = [assembled(slice(i, i + 1)) for i in range(50)]
    assert together.values.tobytes() == np.concatenate([one.values for one in alone]).tobytes()
    assert together.failed.tolist() == [bool(one.failed[0]) for one in alone]
    assert together.raised == sum(one.raised for one in alone)
