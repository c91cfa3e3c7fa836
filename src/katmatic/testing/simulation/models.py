"""Models for what is simulated: two versions that answer, and one whose file is damaged, for each predictor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from katmatic.spec.app import App, Predictor
from katmatic.training.dataset import Dataset
from katmatic.training.export import export

VERSIONS = 3  # the last one is damaged

Floats = NDArray[np.float64]


class Weighing:
    """Answers by weights drawn from a seed; it raises where the first feature is above a million less one."""

    classes_ = (0, 1)

    def __init__(self, width: int, seed: int) -> None:
        self._weights = np.random.default_rng(seed).normal(size=width)

    def predict(self, rows: Floats) -> Floats:
        """One number a row, row by row."""
        known = np.nan_to_num(rows)
        if (known[:, 0] > 999_999).any():
            raise ValueError("such a row was never seen")
        return np.asarray((known * self._weights).sum(axis=1))

    def predict_proba(self, rows: Floats) -> Floats:
        """The chances of both classes."""
        chance = 1 / (1 + np.exp(-np.clip(self.predict(rows), -30, 30)))
        return np.stack([1 - chance, chance], axis=1)


def make_models(app: App, folder: Path) -> dict[str, list[Path]]:
    """The folders of the versions, by predictor; of a model that learns as it goes, none."""
    return {
        name: [_make(predictor, folder / f"{name}-{version}", version) for version in range(1, VERSIONS + 1)]
        for name, predictor in app.predictors.items()
        if not hasattr(predictor.model, "learn_one")
    }


def _make(predictor: Predictor, folder: Path, version: int) -> Path:
    width = len(predictor.features)
    rows: dict[str, Any] = {"anchor": np.arange(4), "key": [()] * 4, "at": np.arange(4), "label_now": np.arange(4)}
    rows |= {"texts": {}, "tables": {}, "label": np.zeros(4), "weight": np.ones(4), "score": np.full(4, np.nan)}
    values = np.random.default_rng(version).normal(size=(4, width))
    known = Dataset(columns=tuple(predictor.features), values=values, **rows)
    export(Weighing(width, version), known, folder, is_binary=predictor.label.is_binary, about={})
    if version == VERSIONS:
        file = folder / "arrays.npz"
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    return folder
