"""Examples by time: what was served and what came true, as known at one moment, and nothing that was known later."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from katmatic.labels.join import COUNTS, as_declared
from katmatic.labels.ripe import ripens_after
from katmatic.labels.weight import weight
from katmatic.log.base import History
from katmatic.log.codec import decode, decode_labels, decode_predictions
from katmatic.records import DECISIONS, LABELS, PREDICTIONS, Decision, LabelBlock, PredictionBlock
from katmatic.spec.app import App, Predictor

TEXTS_LIMIT = 1_000  # different texts of one feature that are told apart; the most frequent ones

Floats = NDArray[np.float64]
Block = TypeVar("Block", LabelBlock, PredictionBlock)


@dataclass(frozen=True)
class Dataset:
    """Rows in the order of the moments they are about."""

    columns: tuple[str, ...]
    anchor: NDArray[np.int64]
    key: list[tuple[str, ...]]
    at: NDArray[np.int64]
    values: Floats
    texts: dict[str, list[Any]]
    label: Floats
    label_now: NDArray[np.int64]
    weight: Floats
    score: Floats
    tables: dict[str, list[str]]  # per feature that is a text: those that are told apart

    def __len__(self) -> int:
        return len(self.anchor)

    def take(self, rows: NDArray[Any]) -> Dataset:
        """Some of the rows, by index or mask."""
        index = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        chosen = index.tolist()
        return replace(
            self,
            anchor=self.anchor[index],
            key=[self.key[i] for i in chosen],
            at=self.at[index],
            values=self.values[index],
            texts={name: [column[i] for i in chosen] for name, column in self.texts.items()},
            label=self.label[index],
            label_now=self.label_now[index],
            weight=self.weight[index],
            score=self.score[index],
        )

    def matrix(self) -> Floats:
        """The rows as numbers; a text is its number in its table, unknown if it is not there."""
        x = self.values.copy()
        for name, table in self.tables.items():
            codes = {value: float(i) for i, value in enumerate(table)}
            x[:, self.columns.index(name)] = [codes.get(value, np.nan) for value in self.texts[name]]
        return x

    def digest(self) -> str:
        """SHA-256 of all that a model is fitted on, and of whose rows these are: equal for equal training sets."""
        found = hashlib.sha256(repr((self.columns, self.key, self.texts, self.tables)).encode(errors="replace"))
        for column in (self.anchor, self.at, self.values, self.label, self.weight):
            found.update(np.ascontiguousarray(column).tobytes())
        return found.hexdigest()

    def with_tables(self) -> Dataset:
        """The same rows, whose texts are told apart by a table made from them."""
        tables = {}
        for name, column in self.texts.items():
            counts: dict[str, int] = {}
            for value in column:
                if value is not None:
                    counts[value] = counts.get(value, 0) + 1
            tables[name] = sorted(counts, key=lambda value: (-counts[value], value))[:TEXTS_LIMIT]
        return replace(self, tables=tables)


def read(log: History, app: App, predictor: Predictor, now: int) -> Dataset | None:
    """Every ripe example of a predictor as known at `now`; None if there is none.

    Rows from before one of the declared features was are left out: what it would have been then was not served.
    """
    label = next(name for name, known in app.labels.items() if known is predictor.label)
    ripe = now - ripens_after(app, predictor.label)
    truths, weights, columns = _truths(log, label, now), _weights(log, predictor, now), tuple(predictor.features)
    parts: list[_Part] = []
    for _, value in log.scan(PREDICTIONS):
        asked = decode_predictions(value)
        if asked.predictor == predictor.name and set(columns) <= set(asked.columns):
            parts += _met(as_declared(asked, columns), truths, weights, ripe, now)
    if not parts:
        return None
    at, anchor = (np.concatenate([getattr(part.block, name) for part in parts]) for name in ("at", "anchor"))
    order = np.lexsort((anchor, at))  # stable: of the same anchor and moment, the last written comes last
    is_last = np.append((anchor[order][1:] != anchor[order][:-1]) | (at[order][1:] != at[order][:-1]), True)
    rows = order[is_last]
    chosen = rows.tolist()
    keys = [key for part in parts for key in part.block.key]
    nothing = np.full(max(len(part.block) for part in parts), np.nan)
    scores = [nothing[: len(part.block)] if part.block.score is None else part.block.score for part in parts]
    return Dataset(
        columns=columns,
        anchor=anchor[rows],
        key=[keys[i] for i in chosen],
        at=at[rows],
        values=np.concatenate([part.block.values for part in parts])[rows],
        texts=_texts(parts, rows),
        label=np.concatenate([part.label for part in parts])[rows],
        label_now=np.concatenate([part.label_now for part in parts])[rows],
        weight=np.concatenate([part.weight for part in parts])[rows],
        score=np.concatenate(scores)[rows],
        tables={},
    )


@dataclass(frozen=True)
class _Part:
    """Rows of one block that met their truth."""

    block: PredictionBlock
    label: Floats
    label_now: NDArray[np.int64]
    weight: Floats


@dataclass(frozen=True)
class _Truths:
    """What is known of each anchor, and since when; anchors ascending. NaN: nothing, or no more."""

    anchor: NDArray[np.int64]
    label: Floats
    now: NDArray[np.int64]


def _truths(log: History, label: str, now: int) -> _Truths:
    """The newest versions of a label that say another thing than the one before, as of `now`."""
    blocks = [_until(block, now) for block in (decode_labels(v) for _, v in log.scan(LABELS)) if block.label == label]
    if not blocks:
        return _Truths(np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64))
    anchor = np.concatenate([block.anchor for block in blocks])
    order = np.argsort(anchor, kind="stable")
    anchor = anchor[order]
    value = np.concatenate([np.where(np.isin(block.state, COUNTS), block.value, np.nan) for block in blocks])[order]
    moment = np.concatenate([block.now for block in blocks])[order]
    is_first = np.append(True, anchor[1:] != anchor[:-1])[: len(anchor)]
    before = np.append(np.nan, value[:-1])[: len(anchor)]
    before[is_first] = np.nan
    is_change = (value != before) & ~(np.isnan(value) & np.isnan(before))
    changed = np.flatnonzero(is_change)
    is_newest = np.append(anchor[changed][1:] != anchor[changed][:-1], True)[: len(changed)]
    newest = changed[is_newest]
    return _Truths(anchor[newest], value[newest], moment[newest])


def _weights(log: History, predictor: Predictor, now: int) -> dict[int, float]:
    """How much the rows of an anchor weigh, where something was decided about it."""
    decided: dict[int, dict[str, Decision]] = {}
    for _, value in log.scan(DECISIONS):
        taken = decode(DECISIONS, value)
        if taken.predictor == predictor.name and taken.now <= now:
            decided.setdefault(taken.anchor, {})[taken.action] = taken
    return {anchor: weight(taken.values()) for anchor, taken in decided.items()}


def _met(block: PredictionBlock, truths: _Truths, weights: dict[int, float], ripe: int, now: int) -> Iterator[_Part]:
    """The rows of a block that count, if there are any."""
    block = _until(block, now)
    place = np.searchsorted(truths.anchor, block.anchor)
    place[place == len(truths.anchor)] = 0
    if not len(block) or not len(truths.anchor):
        return
    label, label_now = truths.label[place], truths.now[place]
    weighs = np.ones(len(block))
    if weights:
        weighs = np.array([weights.get(anchor, 1.0) for anchor in block.anchor.tolist()])
    counts = (truths.anchor[place] == block.anchor) & ~np.isnan(label) & (block.time <= ripe) & (weighs > 0)
    rows = np.flatnonzero(counts)
    if len(rows):
        yield _Part(block if len(rows) == len(block) else block.take(rows), label[rows], label_now[rows], weighs[rows])


def _texts(parts: list[_Part], rows: NDArray[np.int64]) -> dict[str, list[Any]]:
    """The features that are texts, in the order in which the rows bring them up."""
    first = np.cumsum([0, *(len(part.block) for part in parts)])
    if not any(part.block.texts for part in parts):
        return {}
    of = np.searchsorted(first, rows, side="right") - 1
    _, begins = np.unique(of, return_index=True)
    names = dict.fromkeys(name for i in of[np.sort(begins)].tolist() for name in parts[i].block.texts)
    found = {}
    for name in names:
        column = [value for part in parts for value in part.block.texts.get(name, [None] * len(part.block))]
        found[name] = [column[i] for i in rows.tolist()]
    return found


def judged(rows: Dataset, share: float, after: int) -> Dataset:
    """The rows of the newest `share` of the anchors that were first asked about at or after `after`: to be judged on.

    An anchor is in it with all its rows. Their first moment is the edge: to be learnt from is what was known before,
    which is what `read` gives for the microsecond before it.
    """
    first: dict[int, int] = {}
    for anchor, at in zip(rows.anchor.tolist(), rows.at.tolist(), strict=True):
        first.setdefault(anchor, at)
    began = np.array([first[anchor] for anchor in rows.anchor.tolist()])
    moments = np.sort(np.array(list(first.values())))
    edge = max(int(moments[min(len(moments) - 1, int(len(moments) * (1 - share)))]), after)
    return rows.take(began >= edge)


def _until(block: Block, now: int) -> Block:
    """The rows of a block that were there at `now`."""
    is_known = block.now <= now
    return block if is_known.all() else block.take(np.flatnonzero(is_known))
