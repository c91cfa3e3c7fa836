"""Examples by time: what was served and what came true, as known at one moment, and nothing that was known later."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from katmatic.labels.join import Joiner
from katmatic.labels.ripe import ripens_after
from katmatic.log.base import History
from katmatic.log.codec import decode, decode_labels, decode_predictions
from katmatic.records import DECISIONS, LABELS, PREDICTIONS, ExampleBlock, LabelBlock, PredictionBlock
from katmatic.spec.app import App, Predictor

NO_LIMIT = 1 << 62
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
    joiner = Joiner(predictor, limit=NO_LIMIT)
    newest: dict[tuple[int, int], tuple[ExampleBlock, int]] = {}

    def keep(block: ExampleBlock | None) -> None:
        if block is not None:
            for i, name in enumerate(zip(block.anchor.tolist(), block.at.tolist(), strict=True)):
                newest[name] = (block, i)

    for _, value in log.scan(DECISIONS):
        taken = decode(DECISIONS, value)
        if taken.predictor == predictor.name and taken.now <= now:
            joiner.decisions([taken])
    for _, value in log.scan(LABELS):
        labels = decode_labels(value)
        if labels.label == label:
            joiner.labels(_until(labels, now))
    for _, value in log.scan(PREDICTIONS):
        asked = decode_predictions(value)
        if asked.predictor == predictor.name and set(predictor.features) <= set(asked.columns):
            keep(joiner.predictions(_until(asked, now)))
    rows = [(block, i) for block, i in newest.values() if _counts(block, i, ripe)]
    if not rows:
        return None
    rows.sort(key=lambda row: (row[0].at[row[1]], row[0].anchor[row[1]]))
    names = dict.fromkeys(name for block, _ in rows for name in block.texts)
    return Dataset(
        columns=rows[0][0].columns,
        anchor=_column(rows, "anchor"),
        key=[block.key[i] for block, i in rows],
        at=_column(rows, "at"),
        values=np.array([block.values[i] for block, i in rows]),
        texts={name: [block.texts[name][i] if name in block.texts else None for block, i in rows] for name in names},
        label=_column(rows, "label"),
        label_now=_column(rows, "label_now"),
        weight=_column(rows, "weight"),
        score=_column(rows, "score"),
        tables={},
    )


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


def _counts(block: ExampleBlock, i: int, ripe: int) -> bool:
    return bool(block.time[i] <= ripe and block.weight[i] > 0 and not np.isnan(block.label[i]))


def _column(rows: Iterable[tuple[ExampleBlock, int]], name: str) -> NDArray[Any]:
    return np.array([getattr(block, name)[i] for block, i in rows])
