"""Ensembles of decision trees, flattened: one compiled loop for every kind."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from katmatic.state import forest, loop

FIELDS = ("roots", "feature", "threshold", "left", "right", "missing_left", "value")


class Trees:
    """A forest or a boosted ensemble. `single`: inputs are rounded to 32 bits first, as forests of scikit-learn do."""

    def __init__(self, arrays: dict[str, NDArray[Any]], *, start: float, single: bool) -> None:
        self._roots, self._depths, self._nodes, self._value = _laid_out(*(arrays[name] for name in FIELDS))
        self._start, self._single = start, single

    def add_up(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """The start and the leaves of each row, summed."""
        with np.errstate(over="ignore"):  # what is too large for 32 bits is infinite
            rows = np.ascontiguousarray(x.astype(np.float32).astype(np.float64) if self._single else x)
        out = np.full(len(rows), self._start)
        loop.add_up(rows, self._roots, self._depths, self._nodes, self._value, out)
        return out


def _laid_out(
    roots: NDArray[np.int64],
    feature: NDArray[np.int64],
    threshold: NDArray[np.float64],
    left: NDArray[np.int64],
    right: NDArray[np.int64],
    missing_left: NDArray[np.uint8],
    value: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Roots, depths, nodes (n, 2), values as the loop has them: tree by tree, level by level, children side by side."""
    level, tree = roots, np.arange(len(roots))
    levels, trees = [], []
    depths = np.full(len(roots), -1)
    while len(level):
        depths[tree] += 1  # once, however many of its nodes are there
        levels.append(level)
        trees.append(tree)
        inner = left[level] >= 0
        level, tree = level[inner], np.repeat(tree[inner], 2)
        level = np.column_stack([left[level], right[level]]).ravel()
    old = np.concatenate(levels)[np.argsort(np.concatenate(trees), kind="stable")]
    new = np.zeros(len(feature), np.int64)
    new[old] = np.arange(len(old))
    is_leaf = left[old] < 0
    child = np.where(is_leaf, np.arange(len(old)), new[left[old]])
    about = np.where(is_leaf, 0, feature[old]) | (is_leaf | (missing_left[old] == 1)).astype(np.int64) << forest.UNKNOWN
    nodes = np.empty((len(old), 2), np.int64)
    nodes[:, 0] = np.where(is_leaf, np.inf, threshold[old]).view(np.int64)
    nodes[:, 1] = about | child << forest.CHILD
    return np.ascontiguousarray(new[roots]), depths, nodes, np.ascontiguousarray(value[old], np.float64)
