"""Does an event cost the same after 100,000 others and after 100,000,000, and with a thousand keys and with a million?

`events`: one stream of card payments, one a second, of 50,000 cards, with the 15 exact features of `bench.engine`; the
CPU time of an event in the last half of each decade, up to `--events` (10^8: `--events 100000000`; the engine is run on
with a stream that is made as it goes, nothing is stored). Its windows of a week are full from 600,000 events on.
`keys`: the same with 10^3 to 10^6 cards that all pay alike (up to `--keys`), once each card was seen twice, or a
million events have passed; `ns_of_the_system_by_keys` is what the system took of it, to give new memory. `path`: the
whole durable path (JSON, log, features, score, prediction logged) while its log grows, up to `--path` events. All in
nanoseconds of CPU per event; `--plot FILE` draws them.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bench.engine import app
from bench.report import report
from katmatic.clock import ManualClock, process_seconds
from katmatic.engine.features import Anchors, assemble
from katmatic.engine.plan import Plan, compile
from katmatic.engine.step import State
from katmatic.measure import CATEGORIES, FIRST, SPACING, WARM_EVENTS, ZIPF, payments, ready
from katmatic.pipeline import BATCH_LIMIT
from katmatic.state import kernel, loop

EVENTS, KEYS, PATH = 1_000_000, 1_000_000, 100_000
CARDS = 50_000
CHUNK = 5_000
PIECE = 250_000  # events that are made at once
LEAST = 1_000_000  # events of each number of keys, and as many that are measured
SECOND = 1_000_000
START = 1_700_000_000_000_000


class Stream:
    """Payments of so many cards without end, and an engine that takes them in."""

    def __init__(self, cards: int, *, zipf: bool) -> None:
        self.plan: Plan = compile(app)
        self.state = State(self.plan)
        self.system_seconds = 0.0  # of CPU, so far
        self._cards, self._random, self._at = cards, np.random.default_rng(1), 0
        weight = 1 / np.arange(1, cards + 1) ** (ZIPF if zipf else 0.0)
        self._shares = np.cumsum(weight / weight.sum())

    def take(self, events: int) -> float:
        """The CPU seconds that so many more payments take; making them is not counted."""
        seconds = 0.0
        while events > 0:
            size = min(PIECE, events)
            card = np.minimum(np.searchsorted(self._shares, self._random.random(size)), self._cards - 1)
            category = self._random.integers(0, CATEGORIES, size)
            codes = {
                ("card",): card,
                ("category",): self._cards + category,
                ("card", "category"): self._cards + CATEGORIES + card * CATEGORIES + category,
            }
            keys = np.stack([codes[space] for space in self.plan.spaces], axis=1)
            amount = np.round(self._random.lognormal(3, 1, size), 2)
            identity = self._random.integers(-(2**62), 2**62, size)
            began, before = process_seconds(), os.times().system
            for first in range(0, size, CHUNK):
                part = slice(first, min(first + CHUNK, size))
                self._apply(keys[part], amount[part], identity[part])
            seconds += process_seconds() - began
            self.system_seconds += os.times().system - before
            events -= size
        return seconds

    def _apply(self, keys: Any, amount: Any, identity: Any) -> None:
        size, store, questions, width = len(amount), self.state.store, self.plan.questions[0], self.plan.widths[2]
        pos = np.arange(self._at, self._at + size)
        self._at += size
        time = START + pos * SECOND
        batch = kernel.Rows(
            kind=np.full(size, kernel.EVENT),
            stream=np.zeros(size, np.int64),
            time=time,
            now=time,
            pos=pos,
            identity=identity,
            keys=keys,
            values=amount[:, None],
            masks=np.ones((size, 1), np.uint8),
            fate=np.empty(size, np.uint8),
        )
        assert loop.run(self.plan.tables, store.words, store.reals, batch, 0, int(time[-1])) < 0
        answers = store.reals[kernel.OUT_FEATURES_AT : kernel.OUT_FEATURES_AT + size * width].reshape(size, width)
        made = assemble(questions, answers, Anchors({"amount": amount}.__getitem__, list, list), store.codes)
        assert not made.failed.any()


def decades(most: int, first: int = 100_000) -> list[int]:
    """Powers of ten from the first on, up to the most."""
    return [10**k for k in range(3, 10) if first <= 10**k <= most]


def of_events(most: int) -> dict[int, int]:
    """Nanoseconds of an event, by how many there were."""
    stream, found, there = Stream(CARDS, zipf=True), {}, 0
    stream.take(1000)
    for number in decades(most):
        half = number // 2
        stream.take(half - there)
        found[number] = round(1e9 * stream.take(number - half) / (number - half))
        there = number
    return found


def of_keys(most: int) -> tuple[dict[int, int], dict[int, int]]:
    """Nanoseconds of an event, by how many keys there are; and the system's part of them."""
    found, system = {}, {}
    for number in decades(most, 1000):
        stream = Stream(number, zipf=False)
        stream.take(max(2 * number, min(LEAST, 100 * number)))
        events = min(LEAST, 100 * number)
        before = stream.system_seconds
        found[number] = round(1e9 * stream.take(events) / events)
        system[number] = round(1e9 * (stream.system_seconds - before) / events)
    return found, system


def of_path(most: int) -> dict[int, int]:
    """Nanoseconds of an event on the whole durable path, by how many are in the log."""
    found, there, clock = {}, WARM_EVENTS, ManualClock(FIRST)
    warm, times = payments(WARM_EVENTS, FIRST, SPACING)
    with tempfile.TemporaryDirectory() as folder, ready(Path(folder), clock, warm, times) as pipeline:
        for number in decades(most):
            seconds = measured = 0.0
            while there < number:
                values, times = payments(BATCH_LIMIT, FIRST + there * SPACING, SPACING, seed=there)
                clock.move_to(int(times[-1]))
                began = process_seconds()
                pipeline.log.append("payment", values)
                pipeline.turn()
                there += BATCH_LIMIT
                if there > number // 2:
                    seconds, measured = seconds + process_seconds() - began, measured + BATCH_LIMIT
            found[number] = round(1e9 * seconds / measured)
    return found


def plot(found: dict[str, Any], file: str) -> None:
    """Draw the three curves."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "katmatic", "font.size": 9})
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(9, 2.8), layout="constrained")
    for axis, name, title in zip(
        axes,
        ("events", "keys", "path"),
        ("features: events so far", "features: keys", "whole durable path: events in the log"),
        strict=True,
    ):
        numbers = sorted(found[name].items())
        axis.plot([x for x, _ in numbers], [y / 1000 for _, y in numbers], marker="o", color="#1f6f8b")
        axis.set_xscale("log")
        axis.set_ylim(0, max([1.5 * y / 1000 for _, y in numbers], default=1))
        axis.set_xlabel(title)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("µs of CPU per event")
    figure.savefig(file, metadata={"Date": None})


def measure() -> dict[str, Any]:
    """The three curves, and how much dearer the dearest point of each is than the cheapest."""
    found = {"events": of_events(_given("--events", EVENTS))}
    found["keys"], system = of_keys(_given("--keys", KEYS))
    found["path"] = of_path(_given("--path", PATH))
    if "--plot" in sys.argv:
        plot(found, sys.argv[sys.argv.index("--plot") + 1])
    spread = {name: round(max(curve.values()) / min(curve.values()), 2) for name, curve in found.items() if curve}
    curves = {f"ns_by_{name}": curve for name, curve in found.items()}
    return {**curves, "ns_of_the_system_by_keys": system, "spread": spread}


def _given(name: str, default: int) -> int:
    return int(sys.argv[sys.argv.index(name) + 1]) if name in sys.argv else default


if __name__ == "__main__":
    report(measure)
