"""Blocks of many small turns as few large ones: what looks at rows costs less by the row the more there are at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from katmatic.records import LabelBlock, PredictionBlock


def joined_predictions(blocks: Iterable[PredictionBlock]) -> list[PredictionBlock]:
    """The same rows in the same order, in one block for each predictor, version and set of columns."""
    alike: dict[tuple[Any, ...], list[PredictionBlock]] = {}
    for block in blocks:
        kind = block.predictor, block.version, block.columns, tuple(block.texts), block.score is None
        alike.setdefault(kind, []).append(block)
    return [first.followed_by(others) if others else first for first, *others in alike.values()]


def joined_labels(blocks: Iterable[LabelBlock]) -> list[LabelBlock]:
    """The same rows in the same order, in few blocks for each label: a further version of a row is in a later one."""
    alike: dict[str, list[list[LabelBlock]]] = {}
    anchors: dict[str, set[int]] = {}  # of the newest block of each label
    for block in blocks:
        mine, seen = block.anchors(), anchors.get(block.label)
        if seen is not None and seen.isdisjoint(mine):
            alike[block.label][-1].append(block)
            seen.update(mine)
        else:
            alike.setdefault(block.label, []).append([block])
            anchors[block.label] = set(mine)
    return [first.followed_by(others) if others else first for each in alike.values() for first, *others in each]
