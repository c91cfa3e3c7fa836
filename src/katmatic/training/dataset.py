"""Examples by time: what was served and what came true, as known at one moment; splits that keep the future out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from katmatic.labels.join import Joiner
from katmatic.labels.ripe import ripens_after
from katmatic.log.base import History
from katmatic.log.codec import decode, decode_labels, decode_predictions
from katmatic.records import DECISIONS, LABELS, PREDICTIONS, ExampleBlock
from katmatic.spec.app import App, Predictor

NO_LIMIT = 1 << 62
TEXTS_LIMIT = 1_000  # different texts of one feature that are told apart; the most frequent ones

Floats = NDArray[np.float64]


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
    """Every ripe example of a predictor as known at `now`; None if there is none."""
    label = next(name for name, known in app.labels.items() if known is predictor.label)
    ripe = now - ripens_after(app, predictor.label)
    joiner = Joiner(predictor, limit=NO_LIMIT)
    newest: dict[tuple[int, int], tuple[ExampleBlock, int]] = {}

    def keep(block: ExampleBlock | None) -> None:
        if block is not None:
            for i, name in enumerate(zip(block.anchor.tolist(), block.at.tolist(), strict=True)):
                newest[name] = (block, i)

    decisions = (decode(DECISIONS, value) for _, value in log.scan(DECISIONS))
    joiner.decisions([found for found in decisions if found.predictor == predictor.name and found.now <= now])
    for _, value in log.scan(LABELS):
        labels = decode_labels(value)
        if labels.label == label and len(labels) and labels.now[0] <= now:
            joiner.labels(labels)
    for _, value in log.scan(PREDICTIONS):
        predictions = decode_predictions(value)
        if predictions.predictor == predictor.name:
            keep(joiner.predictions(predictions))
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


def split(rows: Dataset, share: float, after: int) -> tuple[Dataset, Dataset]:
    """Rows to learn from, and the newest `share` of the anchors to be judged on; the latter all lie after `after`.

    An anchor is in one of the two with all its rows, and what is learnt from was known before the first question of the
    others was asked.
    """
    first: dict[int, int] = {}
    for anchor, at in zip(rows.anchor.tolist(), rows.at.tolist(), strict=True):
        first.setdefault(anchor, at)
    began = np.array([first[anchor] for anchor in rows.anchor.tolist()])
    moments = np.sort(np.array(list(first.values())))
    edge = max(int(moments[min(len(moments) - 1, int(len(moments) * (1 - share)))]), after)
    return rows.take((began < edge) & (rows.label_now < edge)), rows.take(began >= edge)


def _counts(block: ExampleBlock, i: int, ripe: int) -> bool:
    return bool(block.time[i] <= ripe and block.weight[i] > 0 and not np.isnan(block.label[i]))


def _column(rows: Iterable[tuple[ExampleBlock, int]], name: str) -> NDArray[Any]:
    return np.array([getattr(block, name)[i] for block, i in rows])
