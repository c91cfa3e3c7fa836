"""Blocks of many small turns as few large ones: what looks at rows costs less by the row the more there are at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from katmatic.records import Keys, LabelBlock, PredictionBlock


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
    first, scores = blocks[0], [block.score for block in blocks if block.score is not None]
    anchor, time, at, now, lead = _moments(
        [block.anchor for block in blocks],
        [block.time for block in blocks],
        [block.at for block in blocks],
        [block.now for block in blocks],
        [block.lead for block in blocks],
    )
    return PredictionBlock(
        predictor=first.predictor,
        columns=first.columns,
        anchor=anchor,
        key=_keys([block.key for block in blocks]),
        time=time,
        at=at,
        now=now,
        lead=lead,
        values=np.concatenate([block.values for block in blocks]),
        texts={name: list(chain.from_iterable(block.texts[name] for block in blocks)) for name in first.texts},
        failed=np.concatenate([block.failed for block in blocks]),
        version=first.version,
        score=np.concatenate(scores) if scores else None,
    )


def _labels(blocks: Sequence[LabelBlock]) -> LabelBlock:
    anchor, time, version, now, evidence = _moments(
        [block.anchor for block in blocks],
        [block.time for block in blocks],
        [block.version for block in blocks],
        [block.now for block in blocks],
        [block.evidence for block in blocks],
    )
    return LabelBlock(
        label=blocks[0].label,
        anchor=anchor,
        key=_keys([block.key for block in blocks]),
        time=time,
        version=version,
        state=np.concatenate([block.state for block in blocks]),
        value=np.concatenate([block.value for block in blocks]),
        now=now,
        evidence=evidence,
    )


def _moments(*columns: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Columns of integers, each in parts, as rows of one array: one call for all costs half of one for each."""
    return np.concatenate([part for column in columns for part in column]).reshape(len(columns), -1)


def _keys(keys: Sequence[Sequence[tuple[str, ...]]]) -> Sequence[tuple[str, ...]]:
    """All of them; as their texts are made for all at once, that costs less than to look at each."""
    first, *others = keys
    return first.followed_by(others) if isinstance(first, Keys) else list(chain.from_iterable(keys))
