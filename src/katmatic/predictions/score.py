"""The champion answers: a block of questions gets its scores and its version."""

from __future__ import annotations

from math import isfinite
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from katmatic.records import PredictionBlock
from katmatic.spec.app import Predictor

FEW = 64  # answers that Python looks through as quickly as NumPy


class Model(Protocol):
    """An exported model: rows in, answers out."""

    def predict(self, values: NDArray[np.float64], texts: dict[str, list[Any]]) -> NDArray[np.float64]:
        """The chance of the label (or its value) for each of n rows of F features."""
        ...


class Scorer:
    """Answers for one predictor with one version at a time; `install` changes it between two blocks."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.version = 0
        self._model: Model | None = None

    def install(self, version: int, model: Model) -> None:
        """From the next block on, this model answers."""
        self._model, self.version = model, version

    def score(self, block: PredictionBlock) -> PredictionBlock:
        """The block with its scores: None before the first model; NaN where the model raised."""
        if self._model is None:
            return block
        try:
            score = _answers(self._model, block.values, block.texts)
        except Exception:  # the model is the user's: then row by row
            score = np.array([self._one(block, i) for i in range(len(block))])
        if len(score) > FEW or not all(map(isfinite, score.tolist())):
            score = np.where(np.isfinite(score), score, np.nan)
        return block.answered(self.version, score)

    def _one(self, block: PredictionBlock, i: int) -> float:
        assert self._model is not None
        texts = {name: values[i : i + 1] for name, values in block.texts.items()}
        try:
            return float(_answers(self._model, block.values[i : i + 1], texts)[0])
        except Exception:  # this row is marked
            return float("nan")


def _answers(model: Model, values: NDArray[np.float64], texts: dict[str, list[Any]]) -> NDArray[np.float64]:
    """One answer for each row; ValueError if the model gives more, or fewer."""
    found = np.array(model.predict(values, texts), np.float64)  # a copy: the model may use its own again
    if found.shape != (len(values),):
        raise ValueError(f"answers of shape {found.shape} for {len(values)} rows")
    return found
