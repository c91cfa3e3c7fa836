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
SETTLED_LIMIT = 10_000  # labels that were settled before their anchor was asked about

_Ordered = tuple[Any, NDArray[np.int64]]
_LEARNT = (LabelState.FINAL, LabelState.REVISED, LabelState.PROVISIONAL)


class OnlineLearner:
    """One predictor's online model, as River has them: `predict_proba_one` (or `predict_one`) and `learn_one`.

    A row is learnt once, when its label first has a value; what an online model has learnt cannot be taken back.
    Unknown features are left out of a row. It is one version that goes on learning: 0 before the first row, then 1.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.learnt = 0  # rows
        self.errors, self.said = 0, ""  # rows on which the model raised since it was last asked, and the last error
        self._model = copy.deepcopy(predictor.model)
        self._is_binary = predictor.label.is_binary
        self._waiting: dict[int, list[dict[str, Any]]] = {}
        self._settled: dict[int, float] = {}

    @property
    def version(self) -> int:
        """1 once something was learnt."""
        return min(self.learnt, 1)

    def apply(
        self,
        predictions: Sequence[tuple[PredictionBlock, NDArray[np.int64]]],
        labels: Sequence[tuple[LabelBlock, NDArray[np.int64]]],
    ) -> list[PredictionBlock]:
        """Answer and learn in the given order; the blocks with their scores.

        A block in which the first row was learnt comes as two: before that, nobody answered.
        """
        steps: list[tuple[int, int, int, int]] = []
        for b, (_, orders) in enumerate(predictions):
            steps += [(order, 0, b, i) for i, order in enumerate(orders.tolist())]
        for b, (_, orders) in enumerate(labels):
            steps += [(order, 1, b, i) for i, order in enumerate(orders.tolist())]
        steps.sort()
        rows = [_rows(block) for block, _ in predictions]
        scores = [np.full(len(block), np.nan) for block, _ in predictions]
        ready = [np.zeros(len(block), np.bool_) for block, _ in predictions]
        for _, kind, b, i in steps:
            if kind == 0:
                ready[b][i] = self.learnt > 0
                scores[b][i] = self._answer(rows[b][i]) if self.learnt else math.nan
                self._wait(int(predictions[b][0].anchor[i]), rows[b][i])
            else:
                self._hear(labels[b][0], i)
        found = []
        for (block, _), score, is_ready in zip(predictions, scores, ready, strict=True):
            if not is_ready.all():
                found.append(block.take(np.flatnonzero(~is_ready)))
            if is_ready.any():
                index = np.flatnonzero(is_ready)
                found.append(replace(block.take(index), version=1, score=score[index]))
        return found

    def score(self, block: PredictionBlock) -> PredictionBlock:
        """The block with its scores; nothing is learnt."""
        if not self.learnt:
            return block
        return replace(block, version=1, score=np.array([self._answer(row) for row in _rows(block)], np.float64))

    def _answer(self, row: dict[str, Any]) -> float:
        """The answer; NaN if the model raises, or does not know: it is the user's."""
        try:
            if not self._is_binary:
                found = self._model.predict_one(row)
                value = math.nan if found is None else float(found)
            else:
                chances = self._model.predict_proba_one(row)
                value = float(chances[True] if True in chances else 1.0 - chances[False])
        except Exception:
            return math.nan
        return value if math.isfinite(value) else math.nan

    def _wait(self, anchor: int, row: dict[str, Any]) -> None:
        if anchor in self._settled:
            self._learn(row, self._settled[anchor])
            return
        self._waiting.setdefault(anchor, []).append(row)
        if len(self._waiting) > WAITING_LIMIT:
            del self._waiting[next(iter(self._waiting))]

    def _hear(self, block: LabelBlock, i: int) -> None:
        anchor, state, value = int(block.anchor[i]), block.state[i], float(block.value[i])
        if state == LabelState.CENSORED:
            self._waiting.pop(anchor, None)
            self._settled.pop(anchor, None)
        elif state in _LEARNT and not math.isnan(value):
            rows = self._waiting.pop(anchor, None)
            for row in rows or ():
                self._learn(row, value)
            if rows is None and state != LabelState.PROVISIONAL:
                self._settled[anchor] = value
                if len(self._settled) > SETTLED_LIMIT:
                    del self._settled[next(iter(self._settled))]

    def _learn(self, row: dict[str, Any], value: float) -> None:
        try:
            self._model.learn_one(row, value > 0.5 if self._is_binary else value)
        except Exception as error:  # the model is the user's: this row is lost to it
            self.errors += 1
            self.said = f"{type(error).__name__}: {error}"
        else:
            self.learnt += 1

    def dump(self) -> bytes:
        """The model and the rows that wait, as bytes."""
        return pickle.dumps((self._model, self._waiting, self._settled, self.learnt))

    def load(self, data: bytes) -> None:
        """Become what was dumped. The bytes come from our own checkpoint, whose checksum was verified."""
        self._model, self._waiting, self._settled, self.learnt = pickle.loads(data)


def _rows(block: PredictionBlock) -> list[dict[str, Any]]:
    """Each row as a dict of the features that are known."""
    columns = []
    for j, name in enumerate(block.columns):
        numbers, texts = block.values[:, j].tolist(), block.texts.get(name)
        columns.append(
            numbers if texts is None else [n if t is None else t for n, t in zip(numbers, texts, strict=True)]
        )
    return [
        {name: value for name, value in zip(block.columns, row, strict=True) if value is not None and value == value}
        for row in zip(*columns, strict=True)
    ]
