"""Blocks of many small turns as few large ones: what looks at rows costs less by the row the more there are at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

from katmatic.records import Keys, LabelBlock, PredictionBlock

_PREDICTION_COLUMNS = ("anchor", "time", "at", "now", "lead", "values", "failed")
_LABEL_COLUMNS = ("anchor", "time", "version", "state", "value", "now", "evidence")


def joined_predictions(blocks: Iterable[PredictionBlock]) -> list[PredictionBlock]:
    """The same rows in the same order, in one block for each predictor, version and set of columns."""
    alike: dict[tuple[Any, ...], list[PredictionBlock]] = {}
    for block in blocks:
        kind = block.predictor, block.version, block.columns, tuple(block.texts), block.score is None
        alike.setdefault(kind, []).append(block)
    return [_predictions(each) if len(each) > 1 else each[0] for each in alike.values()]


def joined_labels(blocks: Iterable[LabelBlock]) -> list[LabelBlock]:
    """The same rows in the same order, in few blocks for each label: a further version of a row is in a later one."""
    alike: dict[str, list[list[LabelBlock]]] = {}
    anchors: dict[str, set[int]] = {}  # of the newest block of each label
    for block in blocks:
        mine, seen = block.anchor.tolist(), anchors.get(block.label)
        if seen is not None and seen.isdisjoint(mine):
            alike[block.label][-1].append(block)
            seen.update(mine)
        else:
            alike.setdefault(block.label, []).append([block])
            anchors[block.label] = set(mine)
    return [_labels(each) if len(each) > 1 else each[0] for groups in alike.values() for each in groups]


def _predictions(blocks: Sequence[PredictionBlock]) -> PredictionBlock:
    scores = [block.score for block in blocks if block.score is not None]
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(block, name) for block in blocks]) for name in _PREDICTION_COLUMNS
    }
    return replace(
        blocks[0],
        **columns,
        key=_keys([block.key for block in blocks]),
        texts={name: list(chain.from_iterable(block.texts[name] for block in blocks)) for name in blocks[0].texts},
        score=np.concatenate(scores) if scores else None,
    )


def _labels(blocks: Sequence[LabelBlock]) -> LabelBlock:
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(block, name) for block in blocks]) for name in _LABEL_COLUMNS
    }
    return replace(blocks[0], **columns, key=_keys([block.key for block in blocks]))


def _keys(keys: Sequence[Sequence[tuple[str, ...]]]) -> Sequence[tuple[str, ...]]:
    """All of them; as their texts are made for all at once, that costs less than to look at each."""
    first, *others = keys
    return first.followed_by(others) if isinstance(first, Keys) else list(chain.from_iterable(keys))
