"""Ensembles of decision trees, flattened: one compiled loop for every kind."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

_jit: Any = njit(cache=True, nogil=True, error_model="numpy")


@_jit
def add_up(
    x: Any, roots: Any, feature: Any, threshold: Any, left: Any, right: Any, missing_left: Any, value: Any, start: Any
) -> Any:
    """`start` plus the leaves that each row of `x` falls into, tree by tree. NaN goes where the node says."""
    out = np.full(len(x), start)
    for i in range(len(x)):
        for root in roots:
            node = root
            while left[node] >= 0:
                v = x[i, feature[node]]
                goes_left = missing_left[node] == 1 if v != v else v <= threshold[node]
                node = left[node] if goes_left else right[node]
            out[i] += value[node]
    return out


class Trees:
    """A forest or a boosted ensemble. `single`: inputs are rounded to 32 bits first, as forests of scikit-learn do."""

    def __init__(self, arrays: dict[str, NDArray[Any]], *, start: float, single: bool) -> None:
        self._arrays = [arrays[name] for name in FIELDS]
        self._start, self._single = start, single

    def add_up(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum of the leaves of each row."""
        rows = x.astype(np.float32).astype(np.float64) if self._single else np.ascontiguousarray(x)
        found: NDArray[np.float64] = add_up(rows, *self._arrays, self._start)
        return found


FIELDS = ("roots", "feature", "threshold", "left", "right", "missing_left", "value")
