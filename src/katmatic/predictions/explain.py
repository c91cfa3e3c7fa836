"""Why an answer is what it is: each feature replaced by what is usual, and what that changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from katmatic.records import NOTHING, Prediction, PredictionBlock

REASONS_MOST = 5
USUAL_MOST = 200  # rows that are asked about for each feature


def reasons(
    answer: Callable[[PredictionBlock], PredictionBlock], asked: Prediction, usual: PredictionBlock
) -> list[tuple[str, float]]:
    """How much each feature raised (above 0) or lowered the answer, the largest effect first, at most `REASONS_MOST`.

    Occlusion: the answer less the mean answer with the feature taken from rows of `usual` (an even choice of them).
    """
    usual = usual.take(np.unique(np.linspace(0, len(usual) - 1, min(len(usual), USUAL_MOST)).astype(np.int64)))
    n, columns = len(usual), usual.columns
    if asked.score is None or not n or tuple(asked.features) != columns:
        return []
    row = np.array([_number(asked.features[name]) for name in columns])
    effects = []
    for j, name in enumerate(columns):
        values = np.tile(row, (n, 1))
        values[:, j] = usual.values[:, j]
        texts = {other: usual.texts[other] if other == name else [asked.features[other]] * n for other in usual.texts}
        block = answer(replace(usual, values=values, texts=texts, lead=np.full(n, NOTHING)))
        told = block.score[~np.isnan(block.score)] if block.score is not None else np.empty(0)
        if len(told):
            effects.append((name, asked.score - float(told.mean())))
    known = [(name, effect) for name, effect in effects if abs(effect) > 1e-9]
    return sorted(known, key=lambda effect: -abs(effect[1]))[:REASONS_MOST]


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
