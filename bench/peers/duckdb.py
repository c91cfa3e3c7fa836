"""DuckDB: the whole history as one table, window functions over each card."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.peers.data import COLUMNS, SPANS
from katmatic.clock import process_seconds

EVENTS = 500_000


def run(given: dict[str, Any], wanted: Any) -> dict[str, Any]:
    """CPU seconds of all threads; rows of the payments `wanted`."""
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET enable_progress_bar = false")
    columns = {name: given[name] for name in ("time", "card", "category", "amount")}
    columns["row"] = np.arange(len(columns["time"]))
    connection.execute(f"CREATE TABLE payments AS SELECT {', '.join(columns)} FROM columns")
    parts = [
        f"count(*) OVER w_{w} AS count_{w}, coalesce(sum(amount) OVER w_{w}, 0) AS sum_{w}, "
        f"avg(amount) OVER w_{w} AS mean_{w}, max(amount) OVER w_{w} AS max_{w}"
        for w in SPANS
    ]
    windows = [
        f"w_{w} AS (PARTITION BY card ORDER BY time RANGE BETWEEN {span} PRECEDING AND 1 PRECEDING)"
        for w, span in SPANS.items()
    ]
    day = SPANS["24h"]
    asked = (
        f"SELECT row, amount, {', '.join(parts)}, "
        "(time - lag(time) OVER (PARTITION BY card ORDER BY time)) / 86400000000.0 AS since, "
        f"count(*) OVER (PARTITION BY card, category ORDER BY time RANGE BETWEEN {day} PRECEDING AND 1 PRECEDING) "
        "AS category_24h, amount / mean_24h AS ratio "
        f"FROM payments WINDOW {', '.join(windows)}"
    )
    began = process_seconds()
    connection.execute(f"CREATE TABLE found AS {asked}")
    seconds = process_seconds() - began
    columns = {"row": wanted}
    rows = connection.execute(
        f"SELECT {', '.join(COLUMNS)} FROM found JOIN columns USING (row) ORDER BY row"
    ).fetchall()
    return {"rows": [[np.nan if x is None else float(x) for x in row] for row in rows], "seconds": seconds}
