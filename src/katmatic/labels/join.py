"""Predictions meet the newest versions of their labels: examples, for figures; models learn from `training.dataset`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import repeat
from math import nan

import numpy as np

from katmatic.labels.weight import weight
from katmatic.parts import Fifo
from katmatic.records import Decision, Example, LabelBlock, LabelState, PredictionBlock

ANCHORS_LIMIT = 200_000  # whose predictions wait for a truth, or for another one

COUNTS = (LabelState.PROVISIONAL, LabelState.FINAL, LabelState.REVISED)
_COUNTS = {int(state) for state in COUNTS}
_UNDECIDED: Mapping[str, Decision] = {}


class _Anchor:
    """What is kept of one anchor."""

    __slots__ = ("decisions", "label", "label_now", "rows")

    def __init__(self) -> None:
        self.rows: list[tuple[tuple[str, ...], int, int, float]] = []  # key, time, at, score
        self.label: float | None = None
        self.label_now = 0
        self.decisions = _UNDECIDED  # by action

    def examples(self, position: int) -> list[Example]:
        """All its rows as they are known now."""
        return [self.example(position, *row) for row in self.rows]

    def example(self, position: int, key: tuple[str, ...], time: int, at: int, score: float) -> Example:
        """One row as it is known now."""
        label = nan if self.label is None else self.label
        weighs = weight(self.decisions.values()) if self.decisions else 1.0
        return Example(position, key, time, at, label, self.label_now, score, weighs)


class Joiner:
    """Joins the predictions of one predictor with their labels, in whatever order the two come.

    Each call gives the rows that became known by it, or changed; a row whose label became void comes with a NaN label.
    What is remembered is bounded: of more than `limit` anchors the oldest are forgotten.
    """

    def __init__(self, limit: int = ANCHORS_LIMIT) -> None:
        self._limit = limit
        self._anchors: Fifo[_Anchor] = Fifo()

    def predictions(self, block: PredictionBlock) -> list[Example]:
        """Take in predictions."""
        found = []
        scores = repeat(nan, len(block)) if block.score is None else block.score.tolist()
        rows = zip(block.key, block.time.tolist(), block.at.tolist(), scores, strict=True)
        for position, row in zip(block.anchor.tolist(), rows, strict=True):
            anchor = self._anchors.get(position) or self._add(position)
            anchor.rows.append(row)
            if anchor.label is not None:
                found.append(anchor.example(position, *row))
        self._forget()
        return found

    def labels(self, block: LabelBlock) -> list[Example]:
        """Take in label versions."""
        changed: dict[int, _Anchor] = {}
        columns = (block.anchor, block.state, block.value, block.now)
        for position, state, value, now in zip(*(column.tolist() for column in columns), strict=True):
            label = value if state in _COUNTS and value == value else None
            anchor = self._anchors.get(position)
            if anchor is None:
                if label is None:
                    continue
                anchor = self._add(position)
            if label != anchor.label:
                anchor.label, anchor.label_now = label, now
                changed[position] = anchor
        self._forget()
        return [example for position, anchor in changed.items() for example in anchor.examples(position)]

    def decisions(self, taken: Sequence[Decision]) -> list[Example]:
        """Take in what was done about predictions: it says how much their rows weigh."""
        changed: dict[int, _Anchor] = {}
        for decision in taken:
            anchor = self._anchors.get(decision.anchor) or self._add(decision.anchor)
            before = weight(anchor.decisions.values())
            anchor.decisions = {**anchor.decisions, decision.action: decision}
            if weight(anchor.decisions.values()) != before and anchor.label is not None:
                changed[decision.anchor] = anchor
        self._forget()
        return [example for position, anchor in changed.items() for example in anchor.examples(position)]

    def _add(self, position: int) -> _Anchor:
        anchor = _Anchor()
        self._anchors.add(position, anchor)
        return anchor

    def _forget(self) -> None:
        while len(self._anchors) > self._limit:
            self._anchors.pop_oldest()


def as_declared(block: PredictionBlock, columns: tuple[str, ...]) -> PredictionBlock:
    """The block with these columns; it may have been logged when others were declared."""
    if block.columns == columns:
        return block
    values = np.full((len(block), len(columns)), np.nan)
    for j, name in enumerate(columns):
        if name in block.columns:
            values[:, j] = block.values[:, block.columns.index(name)]
    texts = {name: column for name, column in block.texts.items() if name in columns}
    return replace(block, columns=columns, values=values, texts=texts)
