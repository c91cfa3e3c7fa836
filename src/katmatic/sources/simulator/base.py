"""What every simulated world gives: arrivals, and the truth behind them, kept apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Protocol
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from katmatic.moment import to_micros
from katmatic.sources.base import Arrival

SECOND = 1_000_000
DAY_SECONDS = 86_400


@dataclass(frozen=True)
class Truth:
    """What no event tells, as columns: per anchor its key, its time, the chance that the label is 1, and what came."""

    key: list[str]
    time: NDArray[np.int64]
    probability: NDArray[np.float64]
    outcome: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.key)


class World(Protocol):
    """A simulated school, shop or bank: the same seed gives the same bytes, wherever one begins to look."""

    def arrivals(self, start: date | None = None, days: int | None = None) -> Iterator[Arrival]:
        """The messages that arrive in `days` days from `start`, in the order of their `now`."""
        ...

    def truth(self, start: date | None = None, days: int | None = None) -> Truth:
        """The chances and outcomes behind the anchors of the same days."""
        ...


def generator(seed: int, *path: int) -> np.random.Generator:
    """Chance for one purpose (one day, one stream), independent of what was drawn for the others."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=path)))


def midnight(day: date, zone: ZoneInfo) -> int:
    """The moment at which a local day begins."""
    return to_micros(datetime.combine(day, time(), tzinfo=zone))


def in_order(now: NDArray[np.int64], topics: Sequence[str], values: Sequence[bytes]) -> Iterator[Arrival]:
    """Messages by arrival; those of one moment in the order in which they are given."""
    moments = now.tolist()
    for i in np.argsort(now, kind="stable").tolist():
        yield Arrival(moments[i], topics[i], values[i])


def expit(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The probability of log odds."""
    return 1 / (1 + np.exp(-x))
