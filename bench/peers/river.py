"""River: a pipeline of aggregates over rolling time, one payment at a time.

Its windows move when something is learnt, not when something is asked, so that old payments are still counted until the
card pays again. A maximum cannot be taken back, so there is none over time: River does without these three features.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import numpy as np

from bench.peers.data import COLUMNS, SPANS
from katmatic.clock import process_seconds

EVENTS = 10_000
STATS = {"count": ("one", "Sum"), "sum": ("amount", "Sum"), "mean": ("amount", "Mean")}


def run(given: dict[str, Any], wanted: Any) -> dict[str, Any]:
    """CPU seconds; rows of the payments `wanted`."""
    from river import feature_extraction, stats, utils

    def over(window: str, on: str, stat: str, by: Any) -> Any:
        rolling = utils.TimeRolling(getattr(stats, stat)(), period=timedelta(microseconds=SPANS[window]))
        return feature_extraction.Agg(on=on, by=by, how=rolling)

    named = {f"{name}_{window}": over(window, *stat, "card") for window in SPANS for name, stat in STATS.items()}
    named["category_24h"] = over("24h", "one", "Sum", ["card", "category"])
    columns = ("time", "card", "category", "amount")
    items = list(zip(*(given[name].tolist() for name in columns), strict=True))
    chosen, rows, last = set(wanted.tolist()), [], dict[int, datetime]()
    zero = datetime(1970, 1, 1)  # noqa: DTZ001 - River compares it with what it is given
    began = process_seconds()
    for i, (time, card, category, amount) in enumerate(items):
        x, t = {"card": card, "category": category, "amount": amount, "one": 1}, zero + timedelta(microseconds=time)
        found: dict[str, Any] = {name: next(iter(agg.transform_one(x).values()), None) for name, agg in named.items()}
        found["amount"] = amount
        found["since"] = (t - last[card]).total_seconds() / 86_400 if card in last else None
        found["ratio"] = amount / found["mean_24h"] if found["mean_24h"] else None
        last[card] = t
        for agg in named.values():
            agg.learn_one(x, t=t)
        if i in chosen:
            rows.append([np.nan if found.get(name) is None else float(found[name]) for name in COLUMNS])
    return {"rows": rows, "seconds": process_seconds() - began}
