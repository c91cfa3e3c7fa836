"""Predictions meet the newest versions of their labels: examples, with the features as they were served."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from katmatic.labels.weight import weight
from katmatic.records import Decision, ExampleBlock, LabelBlock, LabelState, PredictionBlock
from katmatic.spec.app import Predictor

ANCHORS_LIMIT = 200_000  # whose predictions wait for a truth, or for another one

COUNTS = (LabelState.PROVISIONAL, LabelState.FINAL, LabelState.REVISED)
_Row = tuple[PredictionBlock, int]


@dataclass(slots=True)
class _Anchor:
    rows: list[_Row] = field(default_factory=list)
    label: float | None = None
    label_now: int = 0
    decisions: dict[str, Decision] = field(default_factory=dict)  # by action


class Joiner:
    """Joins the predictions of one predictor with their labels, in whatever order the two come.

    Each call gives the rows that became known by it, or changed; a row whose label became void comes with a NaN label.
    Features are those that are declared now: in a row from before one was declared, it is unknown. What is remembered
    is bounded: of more than `limit` anchors the oldest are forgotten.
    """

    def __init__(self, predictor: Predictor, limit: int = ANCHORS_LIMIT) -> None:
        self._name, self._limit, self._columns = predictor.name, limit, tuple(predictor.features)
        self._anchors: OrderedDict[int, _Anchor] = OrderedDict()  # of a dict, to find the oldest is slow

    def predictions(self, block: PredictionBlock) -> ExampleBlock | None:
        """Take in predictions."""
        block, rows = as_declared(block, self._columns), []
        for i, position in enumerate(block.anchor.tolist()):
            anchor = self._anchor(position)
            anchor.rows.append((block, i))
            if anchor.label is not None:
                rows.append((block, i, anchor))
        self._forget()
        return self._examples(rows)

    def labels(self, block: LabelBlock) -> ExampleBlock | None:
        """Take in label versions."""
        changed: dict[int, _Anchor] = {}
        columns = zip(
            block.anchor.tolist(), block.state.tolist(), block.value.tolist(), block.now.tolist(), strict=True
        )
        for position, state, value, now in columns:
            label = value if state in COUNTS and value == value else None
            if label is None and position not in self._anchors:
                continue
            anchor = self._anchor(position)
            if label != anchor.label:
                anchor.label, anchor.label_now = label, now
                changed[position] = anchor
        self._forget()
        return self._examples([(*row, anchor) for anchor in changed.values() for row in anchor.rows])

    def decisions(self, taken: Sequence[Decision]) -> ExampleBlock | None:
        """Take in what was done about predictions: it says how much their rows weigh."""
        changed = []
        for decision in taken:
            anchor = self._anchor(decision.anchor)
            before = weight(anchor.decisions.values())
            anchor.decisions[decision.action] = decision
            if weight(anchor.decisions.values()) != before:
                changed.append(anchor)
        self._forget()
        return self._examples([(*row, a) for a in changed if a.label is not None for row in a.rows])

    def _anchor(self, position: int) -> _Anchor:
        found = self._anchors.get(position)
        if found is None:
            found = self._anchors[position] = _Anchor()
        return found

    def _forget(self) -> None:
        while len(self._anchors) > self._limit:
            self._anchors.popitem(last=False)

    def _examples(self, rows: Sequence[tuple[PredictionBlock, int, _Anchor]]) -> ExampleBlock | None:
        if not rows:
            return None
        nan = float("nan")
        return ExampleBlock(
            predictor=self._name,
            columns=self._columns,
            anchor=_ints(block.anchor[i] for block, i, _ in rows),
            key=[block.key[i] for block, i, _ in rows],
            time=_ints(block.time[i] for block, i, _ in rows),
            at=_ints(block.at[i] for block, i, _ in rows),
            lead=_ints(block.lead[i] for block, i, _ in rows),
            values=np.array([block.values[i] for block, i, _ in rows]).reshape(len(rows), len(self._columns)),
            texts={
                name: [block.texts[name][i] if name in block.texts else None for block, i, _ in rows]
                for name in dict.fromkeys(name for block, _, _ in rows for name in block.texts)
            },
            label=np.array([nan if anchor.label is None else anchor.label for _, _, anchor in rows]),
            label_now=_ints(anchor.label_now for _, _, anchor in rows),
            weight=np.array([weight(anchor.decisions.values()) for _, _, anchor in rows]),
            score=np.array([nan if block.score is None else block.score[i] for block, i, _ in rows]),
            version=_ints(block.version for block, _, _ in rows),
        )


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


def _ints(values: Iterable[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.fromiter(values, np.int64)
