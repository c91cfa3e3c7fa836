"""Linear models with what stands before them, in one compiled loop: unknown values filled in, columns scaled."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from katmatic.state import loop


class Linear:
    """A linear or logistic model, after a step that fills in (or none) and one that scales (or none)."""

    def __init__(self, facts: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        self._start, self._is_logistic = float(facts["intercept"]), facts["link"] == "logit"
        sources = np.arange(len(facts["columns"]))
        marks, fills = np.zeros(len(sources), np.int64), np.full(len(sources), np.nan)
        weights = np.asarray(arrays["coef"], np.float64)
        means, scales = np.zeros(len(weights)), np.ones(len(weights))
        for step in facts["steps"]:
            if step["name"] == "fill":
                kept, marked = arrays[step["kept"]], arrays[step["marked"]]
                sources = np.concatenate([kept, marked])
                marks = np.repeat([0, 1], [len(kept), len(marked)])
                fills = np.concatenate([arrays[step["fill"]][kept], np.zeros(len(marked))])
            else:
                means, scales = arrays[step["mean"]], arrays[step["scale"]]
        kinds = np.int64, np.int64, np.float64, np.float64, np.float64, np.float64
        given = sources, marks, fills, means, scales, weights
        self._arrays = [np.ascontiguousarray(a, kind) for a, kind in zip(given, kinds, strict=True)]
        lengths = {len(array) for array in self._arrays}
        if len(lengths) != 1 or not ((sources >= 0) & (sources < len(facts["columns"]))).all():
            raise ValueError(f"arrays of {sorted(lengths)} columns, of {len(facts['columns'])} features")
        self._width = len(facts["columns"])
        self._columns = *(array.ctypes.data for array in self._arrays), len(weights)

    def predict(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """The value, or the chance, for each row of x; ValueError if it has other columns than the model."""
        if x.shape[1:] != (self._width,):
            raise ValueError(f"rows of shape {x.shape[1:]}, where the model has {self._width} features")
        return loop.weigh(np.ascontiguousarray(x, np.float64), self._columns, self._start, logistic=self._is_logistic)
