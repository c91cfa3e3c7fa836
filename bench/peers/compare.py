"""Events per CPU second of Bytewax, River, Polars and DuckDB beside ours, on the features of `bench.engine`.

All get the same payments as columns or tuples, in order and without JSON, and give all 15 features of each payment;
each in the way that its documentation shows, in a process of its own, whose CPU time counts with all threads. The
streams (Bytewax, River) get fewer, so that it ends in minutes. `ratios` are ours over theirs. `engine_only` is Bytewax
with the same dataflow that only counts: what the engine takes before the user's windows. `backfill_ratio` is ours over
Polars: both go over a history that is there as columns.

`agree` is the share of the sampled values that equal ours, whole numbers exactly, others within 1e-9: River's windows
only move when a card pays, and it has no maximum over time. A peer that is not installed is named in `missing`:
`pip install -r requirements-peers.txt`. `--events N` gives everybody at most so many.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import sys
from importlib import import_module
from typing import Any

import numpy as np

from bench import engine
from bench.peers.data import first
from katmatic.engine.plan import compile
from katmatic.engine.step import State

PEERS = ("bytewax", "river", "polars", "duckdb")
OURS = 500_000
SAMPLE = 300
ROUNDS = 5  # of ours and of those that take seconds; the best counts


def sample(events: int) -> Any:
    """Which payments are compared: half of them late in the stream, where windows are full."""
    random = np.random.default_rng(3)
    return np.unique([*random.integers(0, events, SAMPLE // 2), *random.integers(events // 2, events, SAMPLE // 2)])


def ours(events: int) -> dict[str, Any]:
    """Our rows, and the CPU seconds."""
    plan, given, wanted = compile(engine.app), first(events), sample(events)
    engine.run(plan, State(plan), first(1000), np.arange(0))  # loads or compiles the kernel
    rounds = [engine.run(plan, State(plan), given, wanted) for _ in range(ROUNDS)]
    return {"rows": rounds[0][0].tolist(), "seconds": min(seconds for _, seconds in rounds)}


def theirs(name: str, events: int) -> dict[str, Any]:
    """The rows of a peer, and its CPU seconds."""
    run, given, wanted = import_module(f"bench.peers.{name}").run, first(events), sample(events)
    rounds = [run(given, wanted) for _ in range(ROUNDS if name in ("polars", "duckdb") else 1)]
    return dict(min(rounds, key=lambda found: found["seconds"]))


def agreeing(found: Any, wanted: Any) -> float:
    """The share of values that are equal."""
    one, other = np.array(found, np.float64), np.array(wanted, np.float64)
    same = np.isclose(one, other, rtol=1e-9, atol=1e-9, equal_nan=True)
    return round(float(same.mean()), 4)


def measure() -> dict[str, Any]:
    """All that is installed, one after the other."""
    most = int(sys.argv[sys.argv.index("--events") + 1]) if "--events" in sys.argv else OURS
    fresh = multiprocessing.get_context("spawn")

    def alone(function: Any, *arguments: Any) -> dict[str, Any]:
        with fresh.Pool(1) as pool:
            return dict(pool.apply(function, arguments))

    mine = alone(ours, most)
    rates = {"ours": round(most / mine["seconds"])}
    agree: dict[str, float] = {}
    missing = []
    for name in PEERS:
        if importlib.util.find_spec(name) is None:
            missing.append(name)
            continue
        events = min(most, import_module(f"bench.peers.{name}").EVENTS)
        found = alone(theirs, name, events)
        rates[name] = round(events / found["seconds"])
        if "engine_only_seconds" in found:
            rates[f"{name}_engine_only"] = round(events / found["engine_only_seconds"])
        wanted = mine if events == most else alone(ours, events)
        agree[name] = agreeing(found["rows"], wanted["rows"])
    ratios = {name: round(rates["ours"] / rate, 1) for name, rate in rates.items() if name != "ours"}
    return {
        "events": most,
        "events_per_cpu_s": rates,
        "ratios": ratios,
        "backfill_ratio": ratios.get("polars"),
        "agree": agree,
        "missing": missing,
    }
