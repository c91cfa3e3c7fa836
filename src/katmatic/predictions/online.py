"""Online models answer and learn row by row, in the one order of predictions and labels."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from katmatic.records import LabelBlock, LabelState, PredictionBlock
from katmatic.spec.app import Predictor

WAITING_LIMIT = 500_000  # anchors whose rows wait for their label

_Ordered = tuple[Any, NDArray[np.int64]]
_LEARNT = (LabelState.FINAL, LabelState.REVISED, LabelState.PROVISIONAL)


class OnlineLearner:
    """One predictor's online model, as River has them: `predict_proba_one` (or `predict_one`) and `learn_one`.

    A row is learnt once, when its label first has a value; what an online model has learnt stays learnt. Unknown
    features are left out of a row. `version` counts the rows learnt.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.version = 0
        self._model = copy.deepcopy(predictor.model)
        self._is_binary = predictor.label.is_binary
        self._waiting: dict[int, list[dict[str, Any]]] = {}

    def apply(
        self,
        predictions: Sequence[tuple[PredictionBlock, NDArray[np.int64]]],
        labels: Sequence[tuple[LabelBlock, NDArray[np.int64]]],
    ) -> list[PredictionBlock]:
        """Answer and learn in the given order; the blocks with their scores."""
        steps: list[tuple[int, int, int, int]] = []
        for b, (_, orders) in enumerate(predictions):
            steps += [(order, 0, b, i) for i, order in enumerate(orders.tolist())]
        for b, (_, orders) in enumerate(labels):
            steps += [(order, 1, b, i) for i, order in enumerate(orders.tolist())]
        steps.sort()
        rows = [_rows(block) for block, _ in predictions]
        scores = [np.full(len(block), np.nan) for block, _ in predictions]
        before = self.version
        for _, kind, b, i in steps:
            if kind == 0:
                scores[b][i] = self._answer(rows[b][i])
                self._wait(int(predictions[b][0].anchor[i]), rows[b][i])
            else:
                self._learn(labels[b][0], i)
        return [
            replace(block, version=max(before, 1), score=score)
            for (block, _), score in zip(predictions, scores, strict=True)
        ]

    def score(self, block: PredictionBlock) -> PredictionBlock:
        """The block with its scores; nothing is learnt."""
        score = np.array([self._answer(row) for row in _rows(block)], np.float64)
        return replace(block, version=max(self.version, 1), score=score)

    def _answer(self, row: dict[str, Any]) -> float:
        try:
            if self._is_binary:
                found = self._model.predict_proba_one(row)
                return float(found.get(True, found.get(1, 1.0 - found[False] if False in found else 0.5)))
            return float(self._model.predict_one(row) or 0.0)
        except Exception:  # the model is the user's: this row is marked
            return math.nan

    def _wait(self, anchor: int, row: dict[str, Any]) -> None:
        self._waiting.setdefault(anchor, []).append(row)
        if len(self._waiting) > WAITING_LIMIT:
            del self._waiting[next(iter(self._waiting))]

    def _learn(self, block: LabelBlock, i: int) -> None:
        anchor, value = int(block.anchor[i]), float(block.value[i])
        if block.state[i] == LabelState.CENSORED:
            self._waiting.pop(anchor, None)
        elif block.state[i] in _LEARNT and not math.isnan(value):
            for row in self._waiting.pop(anchor, ()):
                self._model.learn_one(row, value > 0.5 if self._is_binary else value)
                self.version += 1

    def dump(self) -> bytes:
        """The model and the rows that wait, as bytes."""
        return pickle.dumps((self._model, self._waiting, self.version))

    def load(self, data: bytes) -> None:
        """Become what was dumped. The bytes come from our own checkpoint, whose checksum was verified."""
        self._model, self._waiting, self.version = pickle.loads(data)


def _rows(block: PredictionBlock) -> list[dict[str, Any]]:
    """Each row as a dict of the features that are known."""
    columns = [
        block.texts[name] if name in block.texts else block.values[:, j].tolist()
        for j, name in enumerate(block.columns)
    ]
    return [
        {name: value for name, value in zip(block.columns, row, strict=True) if value is not None and value == value}
        for row in zip(*columns, strict=True)
    ]
