"""Ensembles of trees, flattened: the compiled loop answers like the trees, whatever the rows look like in memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from katmatic.predictions.trees import Trees

# One tree: feature 1 at 0.5; on its left feature 0 at -1 (unknown goes left).
ARRAYS = {
    "roots": np.array([0], np.int64),
    "feature": np.array([1, 0, 0, 0, 0], np.int64),
    "threshold": np.array([0.5, -1.0, 0, 0, 0]),
    "left": np.array([1, 3, -1, -1, -1], np.int64),
    "right": np.array([2, 4, -1, -1, -1], np.int64),
    "missing_left": np.array([0, 1, 0, 0, 0], np.uint8),
    "value": np.array([0, 0, 0.3, 0.1, 0.2]),
}


def by_hand(row):
    first, second = row
    if not second <= 0.5:  # unknown goes right
        return 0.3
    return 0.1 if first != first or first <= -1 else 0.2


numbers = st.one_of(st.just(np.nan), st.sampled_from([0.5, -1.0, np.inf, -np.inf]), st.floats(-3, 3, width=32))


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(st.tuples(numbers, numbers), min_size=1, max_size=20), order=st.sampled_from("CF"))
def test_the_loop_answers_like_the_tree_by_hand(rows, order):
    x = np.array(rows, order=order)
    for single in (False, True):
        assert Trees(ARRAYS, start=0.0, single=single).add_up(x).tolist() == [by_hand(row) for row in rows]


def test_trees_add_up_onto_the_start():
    twice = {name: np.concatenate([array, array]) for name, array in ARRAYS.items()}
    twice["roots"] = np.array([0, 5])
    for name in ("left", "right"):
        twice[name][5:] = np.where(ARRAYS[name] >= 0, ARRAYS[name] + 5, -1)
    assert Trees(twice, start=1.0, single=False).add_up(np.array([[0.0, 0.0]])).tolist() == [pytest.approx(1.4)]


def test_forests_look_at_32_bits():
    above = np.array([[0.0, 0.5 + 1e-12]])
    assert Trees(ARRAYS, start=0.0, single=False).add_up(above).tolist() == [0.3]
    assert Trees(ARRAYS, start=0.0, single=True).add_up(above).tolist() == [0.2]


def test_what_is_too_large_for_32_bits_is_infinite():
    assert Trees(ARRAYS, start=0.0, single=True).add_up(np.array([[0.0, 1e300]])).tolist() == [0.3]


def test_no_rows_give_no_answers():
    assert Trees(ARRAYS, start=0.0, single=True).add_up(np.empty((0, 2))).tolist() == []
