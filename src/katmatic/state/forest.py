"""The compiled loop over flattened decision trees: which leaves rows fall into (see predictions/trees.py)."""

from __future__ import annotations

COMPILED: list[str] = []  # names of the functions that others here call

ROWS = 64  # that go through a tree together: their steps do not wait for each other, and the tree stays near
# Bits of a node's second word: its feature, whether what is unknown goes left, where its left child is; the right one
# is next to it. The first word is the threshold. A leaf leads to itself.
FEATURE, UNKNOWN, CHILD = 0x7FFFFFFF, 31, 32


def add_up(x, rows, width, roots, depths, count, nodes, thresholds, value, at, out):
    """Add to `out` the leaves that each row of `x` falls into, tree by tree. NaN goes where the node says.

    `thresholds` is the memory of `nodes`, as floats; `at` is room for `ROWS` words.
    """
    for first in range(0, rows, ROWS):
        last = min(first + ROWS, rows)
        for tree in range(count):
            for i in range(first, last):
                at[i - first] = roots[tree]
            for _ in range(depths[tree]):
                moved = 0
                for i in range(first, last):
                    node = at[i - first]
                    about = nodes[2 * node + 1]
                    v = x[i * width + (about & FEATURE)]
                    left = int(v <= thresholds[2 * node]) | (int(v != v) & (about >> UNKNOWN))
                    to = (about >> CHILD) + 1 - (left & 1)
                    moved |= to ^ node
                    at[i - first] = to
                if moved == 0:
                    break
            for i in range(first, last):
                out[i] += value[at[i - first]]
