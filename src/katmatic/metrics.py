"""Counters, gauges and histograms in memory: no I/O and no clock, so that every layer may count."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence

Labels = tuple[tuple[str, str], ...]

# Upper bounds in seconds, four per decade: a percentile read from them is at most 1.8 times off.
LATENCY_SECONDS = tuple(round(m * 10.0**e, 7) for e in range(-5, 2) for m in (1, 1.8, 3.2, 5.6))


class Metrics:
    """All figures of one process, by name and labels.

    >>> metrics = Metrics()
    >>> metrics.add("events_total", 3, topic="gate"); metrics.value("events_total", topic="gate")
    3.0
    """

    def __init__(self) -> None:
        self._values: dict[tuple[str, Labels], float] = {}
        self._histograms: dict[tuple[str, Labels], Histogram] = {}
        self._lock = threading.Lock()

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Count `amount` more."""
        key = (name, tuple(sorted(labels.items())))
        with self._lock:
            self._values[key] = self._values.get(key, 0.0) + amount

    def set(self, name: str, value: float, **labels: str) -> None:
        """Say what a gauge shows now."""
        with self._lock:
            self._values[(name, tuple(sorted(labels.items())))] = float(value)

    def renew(self, name: str, label: str, values: Mapping[str, float], **labels: str) -> None:
        """Say what a gauge shows now for each of these texts of `label`, and for no other, beside the `labels`."""
        mine = set(labels.items())
        with self._lock:
            for known in [key for key in self._values if key[0] == name and mine <= set(key[1])]:
                if dict(known[1]).get(label) not in values:
                    del self._values[known]
            for text, value in values.items():
                self._values[(name, tuple(sorted({**labels, label: text}.items())))] = float(value)

    def observe(self, name: str, value: float, times: int = 1, **labels: str) -> None:
        """Put a measured value, seen `times` over, into a histogram of seconds."""
        key = (name, tuple(sorted(labels.items())))
        with self._lock:
            if key not in self._histograms:
                self._histograms[key] = Histogram(LATENCY_SECONDS)
            self._histograms[key].add(value, times)

    def value(self, name: str, **labels: str) -> float:
        """What a counter or gauge shows; 0 if it was never touched."""
        return self._values.get((name, tuple(sorted(labels.items()))), 0.0)

    def quantile(self, name: str, q: float, **labels: str) -> float | None:
        """The value below which the share `q` of a histogram's observations lie; None without any."""
        found = self._histograms.get((name, tuple(sorted(labels.items()))))
        return found.quantile(q) if found else None

    def values(self) -> Iterator[tuple[str, Labels, float]]:
        """Every counter and gauge."""
        with self._lock:
            found = sorted(self._values.items())
        for (name, labels), value in found:
            yield name, labels, value

    def histograms(self) -> Iterator[tuple[str, Labels, Histogram]]:
        """Every histogram."""
        with self._lock:
            found = sorted(self._histograms.items(), key=lambda item: item[0])
        for (name, labels), histogram in found:
            yield name, labels, histogram


class Histogram:
    """Counts of values by upper bound."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def add(self, value: float, times: int = 1) -> None:
        """Count `value`, seen `times` over."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def quantile(self, q: float) -> float | None:
        """The value at the share `q`, interpolated within its bucket; None of nothing."""
        total = sum(self.counts)
        if not total:
            return None
        rank, below = q * total, 0
        for i, count in enumerate(self.counts):
            if below + count >= rank and count:
                low = self.bounds[i - 1] if i else 0.0
                high = self.bounds[min(i, len(self.bounds) - 1)]
                return low + (high - low) * (rank - below) / count
            below += count
        return self.bounds[-1]
