"""From JSON to the logged prediction: parse, durable log, 15 exact features, a model, the prediction logged.

In batches of 5,000: `events_per_cpu_s` with a linear model and `trees_events_per_cpu_s` with 100 boosted trees, of all
threads, with every commit synced to the disk. One event at a time, 1,000 a second: `p50_ms` and `p99_ms` from the
moment an event was due until its prediction is durable. `--events` and `--seconds` say how much of each.
"""

from __future__ import annotations

import sys
from typing import Any

from bench.report import report
from katmatic.measure import latency, throughput

EVENTS = 1_000_000
SECONDS = 20
TREES = 100


def measure() -> dict[str, Any]:
    """All figures."""
    events = _given("--events", EVENTS)
    trees = throughput(events, trees=TREES)["events_per_cpu_s"]
    return {**throughput(events), "trees_events_per_cpu_s": trees, **latency(_given("--seconds", SECONDS))}


def _given(name: str, default: int) -> int:
    return int(sys.argv[sys.argv.index(name) + 1]) if name in sys.argv else default


if __name__ == "__main__":
    report(measure)
