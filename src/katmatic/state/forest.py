"""The compiled loop over flattened decision trees: which leaves rows fall into (see predictions/trees.py)."""

from __future__ import annotations

COMPILED: list[str] = []  # names of the functions that others here call


def add_up(x, rows, width, roots, count, feature, threshold, left, right, missing_left, value, out):
    """Add to `out` the leaves that each row of `x` falls into, tree by tree. NaN goes where the node says."""
    for i in range(rows):
        for tree in range(count):
            node = roots[tree]
            while left[node] >= 0:
                v = x[i * width + feature[node]]
                goes_left = missing_left[node] == 1 if v != v else v <= threshold[node]
                node = left[node] if goes_left else right[node]
            out[i] += value[node]
