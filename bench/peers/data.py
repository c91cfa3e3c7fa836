"""The payments that every engine is given, and the names of what is asked about each."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.engine import EVENTS, history

COLUMNS = (
    "amount",
    *(f"{name}_{window}" for window in ("1h", "24h", "7d") for name in ("count", "sum", "mean", "max")),
    "since",
    "category_24h",
    "ratio",
)
HOUR = 3_600_000_000
SPANS = {"1h": HOUR, "24h": 24 * HOUR, "7d": 168 * HOUR}
DAY = 86_400_000_000.0


def first(events: int) -> dict[str, Any]:
    """The first payments of `bench.engine`, as close together as there, but in order: few engines take late ones."""
    given = history(EVENTS)
    order = np.argsort(given["time"], kind="stable")
    given = {name: values[order] for name, values in given.items()}
    given["now"] = given["time"]
    is_new = np.append(True, given["time"][1:] != given["time"][:-1])  # of one moment, one
    return {name: values[is_new][:events] for name, values in given.items()}
