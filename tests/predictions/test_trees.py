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


def grown(random, features, depth):
    """A tree of any form, as nested tuples: a leaf's value, or feature, threshold, where unknown goes, both sides."""
    if depth == 0 or random.random() < 0.2:
        return float(random.random())
    kids = [grown(random, features, depth - 1), grown(random, features, int(random.integers(depth)))]
    random.shuffle(kids)
    return int(random.integers(features)), float(random.integers(4)), bool(random.integers(2)), *kids


def asked(tree, row):
    while isinstance(tree, tuple):
        feature, threshold, unknown_left, left, right = tree
        v = row[feature]
        tree = left if (unknown_left if np.isnan(v) else v <= threshold) else right
    return tree


def flat(trees):
    """Trees as a model is exported: all nodes one after the other, in some order."""
    nodes = []

    def put(tree):
        at = len(nodes)
        nodes.append((0, 0.0, -1, -1, 0, tree))
        if isinstance(tree, tuple):
            feature, threshold, unknown_left, *kids = tree
            right, left = put(kids[1]), put(kids[0])
            nodes[at] = (feature, threshold, left, right, int(unknown_left), 0.0)
        return at

    roots = [put(tree) for tree in trees]
    feature, threshold, left, right, missing_left, value = map(np.array, zip(*nodes, strict=True))
    ints = {"feature": feature, "left": left, "right": right}
    return {
        **{name: column.astype(np.int64) for name, column in ints.items()},
        "roots": np.array(roots),
        "threshold": threshold,
        "missing_left": missing_left.astype(np.uint8),
        "value": value.astype(np.float64),
    }


@pytest.mark.parametrize("seed", range(20))
def test_trees_of_any_form_give_every_row_its_leaf_and_add_them_up_in_their_order(seed):
    random = np.random.default_rng(seed)
    trees = [grown(random, 5, int(random.integers(12))) for _ in range(int(random.integers(1, 30)))]
    x = random.integers(-1, 5, (int(random.choice([1, 63, 64, 65, 200])), 5)).astype(np.float64)
    x[random.random(x.shape) < 0.2] = np.nan
    expected = []
    for row in x:
        total = 0.5
        for tree in trees:
            total += asked(tree, row)
        expected.append(total)
    assert Trees(flat(trees), start=0.5, single=False).add_up(x).tolist() == expected
