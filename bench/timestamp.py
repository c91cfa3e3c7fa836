"""How long it takes to read a time, in CPU nanoseconds: `python -m bench.timestamp [--json]`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np

from bench.report import report
from katmatic.clock import process_seconds
from katmatic.moment import to_micros
from katmatic.timestamp import parse_many, parse_micros

BATCH, ROUNDS = 100_000, 5
KATHMANDU, BERLIN = ZoneInfo("Asia/Kathmandu"), ZoneInfo("Europe/Berlin")


def measure() -> dict[str, int]:
    """CPU nanoseconds per value, by case; `peer_` is the standard library."""
    texts, seconds = times()
    halves = [number + 0.123456 for number in seconds]
    offsets = [f"{text}.123456+05:45" for text in texts]
    cases: dict[str, Callable[[], object]] = {
        "batch_local_kathmandu": lambda: parse_many(texts, KATHMANDU),
        "batch_local_berlin": lambda: parse_many(texts, BERLIN),
        "batch_offset_micros": lambda: parse_many(offsets, KATHMANDU),
        "batch_int": lambda: parse_many(seconds, KATHMANDU),
        "batch_float": lambda: parse_many(halves, KATHMANDU),
        "lone_text": lambda: [parse_micros(text, KATHMANDU) for text in texts],
        "lone_int": lambda: [parse_micros(number, KATHMANDU) for number in seconds],
        "peer_fromisoformat": lambda: [to_micros(datetime.fromisoformat(t).replace(tzinfo=KATHMANDU)) for t in texts],
    }
    return {f"{name}_ns": round(nanoseconds(case)) for name, case in cases.items()}


def times() -> tuple[list[str], list[int]]:
    """A month of seconds, in order, and how a reader writes them."""
    rng = np.random.default_rng(0)
    seconds = np.sort(1_745_222_520 + rng.integers(0, 30 * 86_400, BATCH)).tolist()
    return [datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%d %H:%M:%S") for second in seconds], seconds


def nanoseconds(case: Callable[[], object]) -> float:
    """CPU time per value: the least of a few rounds."""
    case()
    rounds = []
    for _ in range(ROUNDS):
        start = process_seconds()
        case()
        rounds.append(process_seconds() - start)
    return min(rounds) / BATCH * 1e9


if __name__ == "__main__":
    report(measure)
