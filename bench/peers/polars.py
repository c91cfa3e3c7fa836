"""Polars: the whole history as one frame, rolling expressions over each card."""

from __future__ import annotations

from typing import Any

from bench.peers.data import COLUMNS
from katmatic.clock import process_seconds

EVENTS = 500_000


def run(given: dict[str, Any], wanted: Any) -> dict[str, Any]:
    """CPU seconds of all threads; rows of the payments `wanted`."""
    import polars as pl

    frame = pl.DataFrame({name: given[name] for name in ("time", "card", "category", "amount")}).with_columns(
        pl.col("time").cast(pl.Datetime("us")), one=pl.lit(1, pl.Int64)
    )

    def over(name: str, how: str, window: str, *by: str) -> Any:
        return getattr(pl.col(name), f"rolling_{how}_by")("time", window_size=window, closed="left").over(*by)

    began = process_seconds()
    found = frame.lazy().with_columns(
        *(over("one", "sum", w, "card").fill_null(0).alias(f"count_{w}") for w in ("1h", "24h", "7d")),
        *(over("amount", "sum", w, "card").fill_null(0.0).alias(f"sum_{w}") for w in ("1h", "24h", "7d")),
        *(over("amount", "mean", w, "card").alias(f"mean_{w}") for w in ("1h", "24h", "7d")),
        *(over("amount", "max", w, "card").alias(f"max_{w}") for w in ("1h", "24h", "7d")),
        since=(pl.col("time") - pl.col("time").shift(1).over("card")).dt.total_microseconds() / 86_400_000_000.0,
        category_24h=over("one", "sum", "24h", "card", "category").fill_null(0),
    )
    rows = found.with_columns(ratio=pl.col("amount") / pl.col("mean_24h")).select(COLUMNS).collect()
    seconds = process_seconds() - began
    chosen = rows[wanted.tolist()].select(pl.all().cast(pl.Float64).fill_null(float("nan")))
    return {"rows": chosen.to_numpy().tolist(), "seconds": seconds}
