"""Bytewax: a dataflow keyed by card, whose state holds the windows; and the same dataflow that only counts."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from bench.peers.data import DAY, SPANS
from katmatic.clock import process_seconds

EVENTS = 100_000
Item = tuple[int, int, int, int, float]  # row, time, card, category, amount


class Window:
    """One window of one card: sums that move, and the amounts that may still be the largest."""

    __slots__ = ("events", "largest", "span", "total")

    def __init__(self, span: int) -> None:
        self.span, self.total = span, 0.0
        self.events: deque[tuple[int, float]] = deque()
        self.largest: deque[tuple[int, float]] = deque()

    def ask(self, time: int) -> tuple[int, float, float, float]:
        """Count, sum, mean and maximum of [time - span, time)."""
        edge, events, largest = time - self.span, self.events, self.largest
        while events and events[0][0] < edge:
            self.total -= events.popleft()[1]
        while largest and largest[0][0] < edge:
            largest.popleft()
        if not events:
            self.total = 0.0
            return 0, 0.0, np.nan, np.nan
        return len(events), self.total, self.total / len(events), largest[0][1]

    def put(self, time: int, amount: float) -> None:
        """One more payment."""
        self.events.append((time, amount))
        self.total += amount
        while self.largest and self.largest[-1][1] <= amount:
            self.largest.pop()
        self.largest.append((time, amount))


class Card:
    """All that is known of a card."""

    __slots__ = ("by_category", "categories", "last", "windows")

    def __init__(self) -> None:
        self.windows = [Window(span) for span in SPANS.values()]
        self.last: int | None = None
        self.categories: deque[tuple[int, int]] = deque()
        self.by_category: dict[int, int] = {}

    def features(self, item: Item) -> tuple[float, ...]:
        """The features of a payment, which is then in the past."""
        _, time, _, category, amount = item
        found: list[float] = [amount]
        for window in self.windows:
            found += window.ask(time)
            window.put(time, amount)
        found.append(np.nan if self.last is None else (time - self.last) / DAY)
        self.last = time
        edge, counts, recent = time - SPANS["24h"], self.by_category, self.categories
        while recent and recent[0][0] < edge:
            counts[recent.popleft()[1]] -= 1
        found.append(counts.get(category, 0))
        recent.append((time, category))
        counts[category] = counts.get(category, 0) + 1
        mean = found[7]
        found.append(amount / mean if mean == mean and mean else np.nan)
        return tuple(found)


def run(given: dict[str, Any], wanted: Any) -> dict[str, Any]:
    """CPU seconds with the windows, and of the engine alone; rows of the payments `wanted`."""
    columns = ("time", "card", "category", "amount")
    items = list(zip(range(len(given["time"])), *(given[name].tolist() for name in columns), strict=True))
    out: list[Any] = []
    seconds = _flow(items, _featured, out)
    rows = dict(value for _, value in out)
    counted: list[Any] = []
    alone = _flow(items, _counted, counted)
    assert len(counted) == len(items)
    return {"rows": [rows[i] for i in wanted.tolist()], "seconds": seconds, "engine_only_seconds": alone}


def _featured(card: Card | None, item: Item) -> tuple[Card, Any]:
    card = card or Card()
    return card, (item[0], card.features(item))


def _counted(number: int | None, item: Item) -> tuple[int, int]:
    number = (number or 0) + 1
    return number, number


def _flow(items: list[Item], logic: Any, out: list[Any]) -> float:
    import bytewax.operators as op
    from bytewax.dataflow import Dataflow
    from bytewax.testing import TestingSink, TestingSource, run_main

    flow = Dataflow("payments")
    stream = op.input("payments", flow, TestingSource(items, batch_size=1_000))
    keyed = op.key_on("card", stream, lambda item: str(item[2]))
    op.output("out", op.stateful_map("features", keyed, logic), TestingSink(out))
    start: Any = run_main
    began = process_seconds()
    start(flow)
    return process_seconds() - began
