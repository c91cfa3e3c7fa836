"""How much memory the state takes: a million keys with ten windows each, and whether a month of new keys makes it grow.

A million cards of `bench.million` pay three times each, over three days: `bytes_per_key` is what the process has grown
by for each, `bound_bytes_per_key` what `katmatic doctor` says of such a card at most, labels and duplicates left out;
`rss_gb` is all of the process at its peak, with a checkpoint being made. Then six weeks in which a new card comes and
pays twice every few seconds, and is not heard of again: `month_ratio` is the memory after six weeks over that after
two, one of which fills the windows, so that the next is the first of steady use. All but `known_keys` were forgotten.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.million import app
from bench.report import report
from katmatic.engine.bound import bounds
from katmatic.engine.plan import compile
from katmatic.engine.step import State, step
from katmatic.log.base import Batch, Slice

KEYS, PAYMENTS = 1_000_000, 3
WEEKLY = 200_000  # new cards a week
WEEKS, STEADY = 6, 2
BATCH = 5_000
START = 1_700_000_000_000_000
DAY = 86_400_000_000


def batches(cards: Any, times: Any) -> Iterator[Batch]:
    """Payments of these cards at these times, by thousands."""
    amounts = np.round(np.random.default_rng(1).lognormal(3, 1, len(cards)), 2)
    size = min(BATCH, len(cards) // 2000)  # shorter than the horizon of payments
    for number, first in enumerate(range(0, len(cards), size), 1):
        part = slice(first, first + size)
        rows = zip(cards[part].tolist(), amounts[part].tolist(), times[part].tolist(), strict=True)
        values = [b'{"card": "C%09d", "amount": %r, "at": %.6f}' % (c, a, t / 1e6) for c, a, t in rows]
        yield Batch(number, int(times[part][-1]), [Slice("payment", first, values)])


def resident() -> int:
    """Bytes of this process that are in memory now."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def many(keys: int) -> dict[str, Any]:
    """The memory of so many keys."""
    plan = compile(app)
    state, before = State(plan), resident()
    random = np.random.default_rng(2)
    cards = np.concatenate([random.permutation(keys) for _ in range(PAYMENTS)])
    times = START + np.arange(len(cards)) * (3 * DAY // len(cards))
    for batch in batches(cards, times):
        step(plan, state, batch)
    grown = resident() - before
    dumped = len(state.dump())
    bound = next(bound for bound in bounds(plan).keys if bound.key == "card")
    events = next(window.event_bytes for window in bound.windows if window.of == "payment")
    return {
        "keys": state.store.keys.known,
        "windows": len(plan.questions[0].outputs),
        "payments": len(cards),
        "bytes_per_key": round(grown / keys),
        "bound_bytes_per_key": bound.key_bytes + PAYMENTS * events,
        "state_gb": round(state.store.bytes_used / 1e9, 2),
        "checkpoint_gb": round(dumped / 1e9, 2),
        "rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }


def month(weekly: int) -> dict[str, Any]:
    """The memory after two weeks, and after six, of cards that come and go."""
    plan = compile(app)
    state, before = State(plan), resident()
    cards = np.repeat(np.arange(WEEKS * weekly), 2)
    times = START + np.arange(len(cards)) * (7 * DAY // (2 * weekly))
    sizes: list[int] = []
    done = 0
    for batch in batches(cards, times):
        step(plan, state, batch)
        done += len(batch)
        assert state.store.counts["dead"] == 0
        if done >= 2 * weekly * (len(sizes) + 1):
            sizes.append(resident() - before)
    return {
        "month_keys": WEEKS * weekly,
        "month_ratio": round(sizes[-1] / sizes[STEADY - 1], 2),
        "weeks_mb": [round(size / 1e6) for size in sizes],
        "known_keys": state.store.keys.known,
    }


def measure() -> dict[str, Any]:
    """Both, each in a process of its own."""
    keys = int(sys.argv[sys.argv.index("--keys") + 1]) if "--keys" in sys.argv else KEYS
    fresh = multiprocessing.get_context("spawn")
    found: dict[str, Any] = {}
    for part, size in ((many, keys), (month, min(WEEKLY, keys))):
        with fresh.Pool(1) as pool:
            found |= pool.apply(part, (size,))
    return found


if __name__ == "__main__":
    report(measure)
