"""A small application for the tests of what runs it: somebody rings at a door; will it be opened within a minute?"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

from katmatic import App, Event, Key, Retrain, Time, future, past
from katmatic.moment import to_datetime, to_micros

NOON = to_micros(datetime(2025, 4, 21, 12, tzinfo=UTC))
SECOND = 1_000_000


class Ring(Event):
    """Somebody rings."""

    visitor: Key
    at: Time
    loudness: float = 1.0


class Opened(Event):
    """Somebody opens."""

    visitor: Key
    at: Time


def door(*, model=None, retrain=None, features=None, **more) -> App:
    """Rings and openings may come five seconds late."""
    app = App("door")
    app.source(Ring, lateness="5s")
    app.source(Opened, lateness="5s")
    opened = future.any(Opened, per=Ring, within="1m")
    app.predict(
        "open",
        opened,
        features={
            "rings_1h": past.count(Ring, "1h", by=Ring.visitor),
            "loudness_1h": past.mean(Ring.loudness, "1h", by=Ring.visitor),
            "opened_1d": past.mean(opened, "1d", by=Ring.visitor),
            "hour": lambda event: event.at.hour,
            **(features or {}),
        },
        model=model or HistGradientBoostingClassifier(max_iter=20),
        retrain=retrain or Retrain(rows=50),
        **more,
    )
    return app


def ring(visitor: str, at: int, loudness: float = 1.0) -> bytes:
    """A ring as its sender writes it."""
    return msgspec.json.encode({"visitor": visitor, "at": to_datetime(at).isoformat(), "loudness": loudness})


def opened(visitor: str, at: int) -> bytes:
    """An opening as its sender writes it."""
    return msgspec.json.encode({"visitor": visitor, "at": to_datetime(at).isoformat()})


def visits(number: int, seed: int = 1, first: int = NOON) -> list[tuple[int, str, bytes]]:
    """A history of rings, mostly answered for friends; with repeats, late ones and what cannot be read: (now, topic,
    bytes), in the order of arrival.
    """
    random = np.random.default_rng(seed)
    found: list[tuple[int, str, bytes]] = []
    now = first
    for _ in range(number):
        now += int(random.integers(1, 20)) * SECOND
        visitor = f"v{int(random.integers(0, 12))}"
        at = now - int(random.random() < 0.1) * 20 * SECOND
        value = ring(visitor, at, float(random.integers(1, 5)))
        found.append((now, "ring", value))
        if random.random() < 0.1:
            found.append((now, "ring", value))
        if random.random() < 0.03:
            found.append((now, "ring", b"{nothing"))
        if random.random() < (0.8 if visitor < "v5" else 0.1):
            later = now + int(random.integers(1, 60)) * SECOND
            found.append((later, "opened", opened(visitor, later)))
    return sorted(found, key=lambda each: each[0])
