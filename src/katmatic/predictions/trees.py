"""Ensembles of decision trees, flattened: one compiled loop for every kind."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from katmatic.state import loop

FIELDS = ("roots", "feature", "threshold", "left", "right", "missing_left", "value")


class Trees:
    """A forest or a boosted ensemble. `single`: inputs are rounded to 32 bits first, as forests of scikit-learn do."""

    def __init__(self, arrays: dict[str, NDArray[Any]], *, start: float, single: bool) -> None:
        self._arrays = [np.ascontiguousarray(arrays[name]) for name in FIELDS]
        self._start, self._single = start, single

    def add_up(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """The start and the leaves of each row, summed."""
        with np.errstate(over="ignore"):  # what is too large for 32 bits is infinite
            rows = np.ascontiguousarray(x.astype(np.float32).astype(np.float64) if self._single else x)
        out = np.full(len(rows), self._start)
        loop.add_up(rows, self._arrays, out)
        return out
