"""Exactness: random reads of every aggregate against a count by brute force, and sums that do not drift.

`--reads 1000000`: at random moments while readings come in, 5 % of them late by up to an hour, 3 % twice, 1 % too late
to count, and with the pipeline stopped and recovered from its checkpoint and its log again and again, a random sensor
at a random moment of the past day is read: 12 aggregates over three windows each. Each is compared with a scan of all
readings of that sensor that came before. Whole numbers, texts, values and moments must be equal; `sum`, `mean`, `std`
and `ewm` to a billionth, and `worst_relative` has how far they were. `mismatches` has the number of those that were
not.

`--updates 100000000`: one window is moved over so many readings of very unequal size; the sum and the mean are compared
with those of the readings that are in the window, added up anew. `plain_drift` is how far a running sum of plain floats
has come from there. Sums are kept as three floats whose sum is exact (error-free transformations), so that what was
added and taken away leaves nothing behind.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from bench.report import report
from katmatic import App, Event, Key, Rank, Time, future, past
from katmatic.clock import ManualClock, monotonic_seconds
from katmatic.engine.ask import ask, candidates_of
from katmatic.engine.plan import compile
from katmatic.engine.step import State
from katmatic.log.sqlite import SqliteLog
from katmatic.pipeline import Pipeline
from katmatic.state import kernel, loop
from katmatic.state.files import FileCheckpoints

READS, READINGS, READINGS_LEAST, CHUNKS = 1_000_000, 400_000, 40_000, 200
SENSORS, ITEMS, ZIPF = 100, 40, 0.7
START = 1_700_000_000_000_000
SECOND, DAY = 1_000_000, 86_400_000_000
SPACING = 2 * SECOND  # between two readings
LATE, TWICE, TOO_LATE = 0.05, 0.03, 0.01
RESTARTS_EVERY = 10  # chunks
SAVED = 0.3  # share of the chunks after which the state is kept
SEED = 4
TOLERANCE = 1e-9
K = 3
WINDOWS = {"10m": 600 * SECOND, "6h": 6 * 3600 * SECOND, "ever": None}
OPS = ("count", "sum", "mean", "std", "min", "max", "distinct", "last", "first", "since", "ewm", "top")
ROUNDED = ("std", "ewm")  # sums of rounded terms
UPDATES_CHUNK = 20_000
CHECKS = 2_000
DRIFT_WINDOW = 3_600 * SECOND

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Reading(Event):
    """A sensor tells of an item."""

    sensor: Key
    item: Key
    amount: float
    number: int
    at: Time


class Probe(Event):
    """Never comes; it is asked about."""

    sensor: Key
    item: Key
    at: Time


class Model:
    """Never asked: only features count here."""

    def fit(self, rows: Any, labels: Any) -> None:
        """Nothing to learn."""

    def predict_proba(self, rows: Any) -> Any:
        """Nothing to say."""


def declared() -> App:
    """Every aggregate over three windows."""
    app = App("exact")
    app.source(Reading, lateness="10m", horizon="1d", duplicates="1d", ahead="1h")
    app.source(Probe, horizon="1d")
    features: dict[str, Any] = {}
    for name, span in WINDOWS.items():
        window = None if span is None else name
        for op in ("sum", "mean", "std", "min", "max", "last", "first"):
            features[f"{op}_{name}"] = getattr(past, op)(Reading.amount, window, by=Probe.sensor)
        features[f"distinct_{name}"] = past.distinct(Reading.number, window, by=Probe.sensor)
        features[f"count_{name}"] = past.count(Reading, window, by=Probe.sensor)
        features[f"since_{name}"] = past.since(Reading, window, by=Probe.sensor)
        if span is not None:
            features[f"ewm_{name}"] = past.ewm(Reading.amount, name, by=Probe.sensor)
    label = future.any(Reading, per=Probe, within="1m")
    for name, span in WINDOWS.items():
        top = past.top(Reading.item, None if span is None else name, k=K, by=Probe.sensor)
        mine = features if span is None else {"readings": features["count_10m"]}
        app.predict(f"top-{name}", label, features=mine, model=Model(), rank=Rank(candidates=[top]))
    return app


# ------------------------------------------------------------------------------------------------------ what happens


@dataclass
class History:
    """Readings in the order of their arrival; `counts` says which have an effect."""

    now: Integers
    time: Integers
    sensor: Integers
    item: Integers
    amount: Floats
    number: Integers
    counts: NDArray[np.bool_]

    def json(self, i: int) -> bytes:
        """Reading `i` as its sender writes it."""
        return json.dumps(
            {
                "sensor": f"s{self.sensor[i]}",
                "item": f"i{self.item[i]}",
                "amount": float(self.amount[i]),
                "number": int(self.number[i]),
                "at": int(self.time[i]),
            }
        ).encode()


def happened(readings: int) -> History:
    """Readings, some of them late, too late, and twice."""
    random = np.random.default_rng(SEED)
    now = START + np.arange(readings, dtype=np.int64) * SPACING
    kind = random.random(readings)
    age = random.integers(0, SPACING, readings)
    age = np.where(kind < LATE, random.integers(0, 3600 * SECOND, readings), age)
    too_late = kind > 1 - TOO_LATE
    age = np.where(too_late, DAY + random.integers(1, DAY, readings), age)
    weight = 1 / np.arange(1, SENSORS + 1) ** ZIPF
    sign = np.where(random.random(readings) < 0.5, -1.0, 1.0)
    columns = {
        "now": now,
        "time": now - age,
        "sensor": random.choice(SENSORS, readings, p=weight / weight.sum()),
        "item": random.integers(0, ITEMS, readings),
        "amount": sign * random.lognormal(0, 4, readings),
        "number": random.integers(-30, 30, readings),
    }
    # Some whole moments, so that times are equal and the order of arrival decides.
    columns["time"] = np.where(
        random.random(readings) < 0.2, columns["time"] // 10_000_000 * 10_000_000, columns["time"]
    )
    again = np.flatnonzero(random.random(readings) < TWICE)
    back = random.integers(0, 50, len(again))
    order = np.sort(np.concatenate([np.arange(readings), again]), kind="stable")
    is_copy = np.concatenate([[False], order[1:] == order[:-1]])
    found = {name: column[order] for name, column in columns.items()}
    source = np.arange(len(order))
    source[is_copy] = np.maximum(source[is_copy] - 1 - back, 0)
    for name in ("time", "sensor", "item", "amount", "number"):
        found[name] = np.where(is_copy, found[name][source], found[name])
    seen: set[tuple[Any, ...]] = set()
    fresh = np.zeros(len(order), np.bool_)
    rows = zip(*(found[name].tolist() for name in ("time", "sensor", "item", "amount", "number")), strict=True)
    for i, row in enumerate(rows):
        fresh[i] = row not in seen
        seen.add(row)
    return History(**found, counts=fresh & (found["time"] >= found["now"] - DAY))


# ----------------------------------------------------------------------------------------------------- by brute force


@njit(cache=False)
def brute(
    sensors: Integers,
    moments: Integers,
    starts: Integers,
    stops: Integers,
    time: Integers,
    arrived: Integers,
    amount: Floats,
    number: Integers,
    item: Integers,
    appeared: Integers,
    weight: Floats,
    span: int,
    out: Floats,
    top: Integers,
) -> None:
    """Every aggregate for each read, by a scan of the readings of its sensor, in the order of their arrival.

    A reading is never of a later moment than that of its arrival: what arrived before a window began is not looked at.
    Sums are kept in two floats (error-free), so that they are right to some 100 bits. `weight` halves with every
    halflife of a reading's age, relative to any moment.
    """
    for r in range(len(sensors)):
        first, last, t = starts[sensors[r]], stops[sensors[r]], moments[r]
        begin = t - span
        n, high, low = 0, 0.0, 0.0
        least, most = np.inf, -np.inf
        t_last, v_last, t_first, v_first = -1, np.nan, -1, np.nan
        numbers = np.zeros(64, np.uint8)
        items = np.zeros(64, np.int64)
        near = first + np.searchsorted(arrived[first:last], begin)
        for i in range(near, last):
            if time[i] < begin or time[i] >= t:
                continue
            v = amount[i]
            n += 1
            s = high + v
            b = s - high
            low += (high - (s - b)) + (v - b)
            high = s
            least, most = min(least, v), max(most, v)
            if time[i] >= t_last:
                t_last, v_last = time[i], v
            if t_first < 0 or time[i] < t_first:
                t_first, v_first = time[i], v
            numbers[number[i] + 32] = 1
            items[item[i]] += 1
        total = high + low
        mean = total / n if n else np.nan
        squares, weighed, weights = 0.0, 0.0, 0.0
        for i in range(near, last):
            if begin <= time[i] < t:
                squares += (amount[i] - mean) ** 2
        if len(weight):
            for i in range(first, last):
                if time[i] < t:
                    weighed += weight[i] * amount[i]
                    weights += weight[i]
        out[r, 0], out[r, 1], out[r, 2] = n, total, mean
        out[r, 3] = np.sqrt(squares / (n - 1)) if n > 1 else np.nan
        out[r, 4], out[r, 5] = (least, most) if n else (np.nan, np.nan)
        out[r, 6], out[r, 7], out[r, 8] = numbers.sum(), v_last, v_first
        out[r, 9] = (t - t_last) / 86_400_000_000 if n else np.nan
        out[r, 10] = weighed / weights if weights > 0 else np.nan
        for k in range(top.shape[1]):
            best = -1
            for code in range(len(items)):
                if items[code] > 0 and (
                    best < 0
                    or items[code] > items[best]
                    or (items[code] == items[best] and appeared[code] < appeared[best])
                ):
                    best = code
            top[r, k] = best
            if best >= 0:
                items[best] = 0


class Naive:
    """All readings so far, by sensor."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._appeared = np.full(64, 2**62, np.int64)
        self._stop = 0

    def upto(self, stop: int) -> None:
        """Know the readings before `stop`."""
        h = self._history
        for i in range(self._stop, stop):  # in any record that is not dead, also a duplicate
            if h.time[i] >= h.now[i] - DAY:
                self._appeared[h.item[i]] = min(self._appeared[h.item[i]], i)
        self._stop = stop
        mine = np.flatnonzero(h.counts[:stop])
        self._order = mine[np.argsort(h.sensor[mine], kind="stable")]
        bounds = np.searchsorted(h.sensor[self._order], np.arange(SENSORS + 1))
        self._starts, self._stops = bounds[:-1], bounds[1:]

    def read(self, sensors: Integers, moments: Integers, window: str) -> tuple[Floats, Integers]:
        """The aggregates but `top`, and `top`."""
        h, span = self._history, WINDOWS[window]
        out, top = np.empty((len(sensors), len(OPS) - 1)), np.empty((len(sensors), K), np.int64)
        order, time = self._order, h.time[self._order]
        lives, rest = np.divmod(time.max() - time, span or 1)  # so that only a part below one halflife is rounded
        weight = np.zeros(0) if span is None else np.ldexp(2.0 ** -(rest / span), -lives)
        brute(
            sensors,
            moments,
            self._starts,
            self._stops,
            time,
            h.now[order],
            h.amount[order],
            h.number[order],
            h.item[order],
            self._appeared,
            weight,
            2**61 if span is None else span,
            out,
            top,
        )
        return out, top


# ------------------------------------------------------------------------------------------------------------- reads


def reads(number: int) -> dict[str, Any]:
    """Compare so many reads."""
    began = monotonic_seconds()
    history = happened(min(READINGS, max(READINGS_LEAST, number)))
    naive = Naive(history)
    random = np.random.default_rng(SEED + 1)
    tally = Tally()
    restarts = replayed = 0
    done = 0
    cuts = np.linspace(0, len(history.now), CHUNKS + 1).astype(int).tolist()
    with tempfile.TemporaryDirectory() as name:
        folder, clock = Path(name), ManualClock(START)
        pipeline = _started(folder, clock)
        for chunk, (start, stop) in enumerate(itertools.pairwise(cuts)):
            for first in range(start, stop, 500):
                last = min(first + 500, stop)
                clock.move_to(int(history.now[last - 1]))
                pipeline.log.append("reading", [history.json(i) for i in range(first, last)])
                pipeline.turn()
            if random.random() < SAVED:
                pipeline.save()
            if chunk % RESTARTS_EVERY == RESTARTS_EVERY - 1:
                pipeline.log.close()  # what is not in the checkpoint is read again
                pipeline = _started(folder, clock)
                replayed += pipeline.recover()
                restarts += 1
            naive.upto(stop)
            some = (number * (chunk + 1)) // CHUNKS - done
            sensors = random.integers(0, SENSORS, some)
            moments = clock.now() - random.integers(0, DAY - SECOND, some)
            near = history.time[random.integers(0, stop, some)]  # often exactly at a reading
            moments = np.where((random.random(some) < 0.3) & (near > clock.now() - DAY + SECOND), near, moments)
            tally.compare(pipeline, naive, sensors, np.minimum(moments, clock.now()), clock.now())
            done += some
        counts = dict(pipeline.state.store.counts)
        pipeline.log.close()
    assert counts["applied"] + counts["late"] == int(history.counts.sum())
    return {
        "reads": done,
        "values": tally.values,
        "readings": {name: counts[name] for name in ("events", "applied", "late", "duplicate", "dead")},
        "restarts": restarts,
        "records_read_again": replayed,
        "mismatches": tally.mismatches,
        "worst_relative": tally.worst,
        "seconds": round(monotonic_seconds() - began),
    }


def _started(folder: Path, clock: ManualClock) -> Pipeline:
    return Pipeline(declared(), SqliteLog(folder / "log.db"), clock, checkpoints=FileCheckpoints(folder / "kept"))


class Tally:
    """How often the engine and the brute force differ."""

    def __init__(self) -> None:
        self.mismatches = dict.fromkeys(OPS, 0)
        self.worst = dict.fromkeys(("sum", "mean", *ROUNDED), 0.0)
        self.values = 0

    def compare(self, pipeline: Pipeline, naive: Naive, sensors: Integers, moments: Integers, now: int) -> None:
        """Ask both the same."""
        plan, state = pipeline.plan, pipeline.state
        asked = [
            {"sensor": f"s{sensor}", "item": "i0", "at": moment}
            for sensor, moment in zip(sensors.tolist(), moments.tolist(), strict=True)
        ]
        whole = next(question for question in plan.questions if question.name == "top-ever")
        block = ask(plan, state, whole, asked, now)
        for window in WINDOWS:
            expected, tops = naive.read(sensors, moments, window)
            for j, op in enumerate(OPS[:-1]):
                if f"{op}_{window}" in block.columns:
                    self._numbers(op, block.values[:, block.columns.index(f"{op}_{window}")], expected[:, j])
            question = next(question for question in plan.questions if question.name == f"top-{window}")
            found = candidates_of(plan, state, question, asked, now)
            for of, codes in zip(found, tops.tolist(), strict=True):
                self.mismatches["top"] += of != [f"i{code}" for code in codes if code >= 0]
            self.values += len(asked)

    def _numbers(self, op: str, found: Floats, wanted: Floats) -> None:
        self.values += len(found)
        both = np.isnan(found) & np.isnan(wanted)
        if op in ("sum", "mean", *ROUNDED):
            off = np.abs(found - wanted) / np.maximum(np.abs(wanted), np.finfo(np.float64).tiny)
            off = np.where(found == wanted, 0.0, off)
            self.worst[op] = max(self.worst[op], float(np.nanmax(np.where(both, 0.0, off))))
            wrong = ~both & ~(off <= TOLERANCE)
        else:
            wrong = ~both & (found != wanted)
        self.mismatches[op] += int(wrong.sum())


# ------------------------------------------------------------------------------------------------------------- drift


@njit(cache=False)
def moved(total: float, values: Floats, left: Floats) -> float:
    """A running sum as one would write it: add what comes, take away what goes."""
    for i in range(len(values)):
        total += values[i]
        total -= left[i]
    return total


def drift(updates: int) -> dict[str, Any]:
    """Move one window over so many readings of very unequal size."""
    began = monotonic_seconds()
    app = App("drift")
    app.source(Reading, horizon="0s", duplicates="0s")
    app.source(Probe, horizon="1m")
    features = {op: getattr(past, op)(Reading.amount, "1h", by=Probe.sensor) for op in ("sum", "mean", "std")}
    app.predict("drift", future.any(Reading, per=Probe, within="1m"), features=features, model=Model())
    plan = compile(app)
    state = State(plan)
    store, stream = state.store, plan.by_topic["reading"]
    keys = np.full(max(len(plan.spaces), 1), -1, np.int64)
    for space, names in enumerate(plan.spaces):
        values: Any = {"sensor": "s0", "item": "i0"}
        key = tuple(values[name] for name in names)
        keys[space] = store.keys.numbers(space, [key[0] if len(key) == 1 else key])[0]
    inside = DRIFT_WINDOW // SECOND  # one reading a second
    kept = np.zeros(0)
    wrong = {"sum": 0, "mean": 0, "std": 0}
    worst_std, plain, checks = 0.0, 0.0, 0
    every = max(1, updates // UPDATES_CHUNK // CHECKS)
    for number, (first, amounts) in enumerate(_amounts(updates)):
        n = len(amounts)
        time = START + np.arange(first, first + n, dtype=np.int64) * SECOND
        rows = kernel.Rows(
            kind=np.full(n, kernel.EVENT),
            stream=np.full(n, stream),
            time=time,
            now=time,
            pos=np.arange(first, first + n),
            identity=np.arange(first, first + n),
            keys=np.tile(keys, (n, 1)),
            values=np.tile(amounts[:, None], (1, plan.widths[0])),
            masks=np.ones((n, plan.widths[1]), np.uint8),
            fate=np.empty(n, np.uint8),
        )
        assert loop.run(plan.tables, store.words, store.reals, rows, 0, int(time[-1])) < 0
        gone = np.concatenate([np.zeros(max(0, min(n, inside - first))), kept])[:n] if first < inside else kept[:n]
        gone = np.concatenate([gone, amounts])[:n]  # a chunk that is longer than the window
        plain = moved(plain, amounts, gone)
        kept = np.concatenate([kept, amounts])[-inside:]
        if number % every == 0 or first + n == updates:
            checks += 1
            moment = int(time[-1]) + 1
            block = ask(plan, state, plan.questions[0], [{"sensor": "s0", "item": "i0", "at": moment}], moment)
            found = dict(zip(block.columns, block.values[0].tolist(), strict=True))
            total = math.fsum(kept)
            wrong["sum"] += found["sum"] != total
            wrong["mean"] += found["mean"] != _mean(kept)
            std = float(np.std(kept.astype(np.longdouble), ddof=1))
            worst_std = max(worst_std, abs(found["std"] - std) / std)
            wrong["std"] += abs(found["std"] - std) > TOLERANCE * std
            last_plain, last_total = plain, total
    return {
        "updates": updates,
        "in_window": len(kept),
        "checks": checks,
        "bits_different": {"sum": wrong["sum"], "mean": wrong["mean"]},
        "std_mismatches": wrong["std"],
        "std_worst_relative": worst_std,
        "plain_drift": abs(last_plain - last_total) / abs(last_total),
        "seconds": round(monotonic_seconds() - began),
    }


def _amounts(updates: int) -> Iterator[tuple[int, Floats]]:
    random = np.random.default_rng(SEED + 2)
    for first in range(0, updates, UPDATES_CHUNK):
        n = min(UPDATES_CHUNK, updates - first)
        yield first, random.lognormal(0, 6, n)  # from 1e-11 to 1e12


def _mean(values: Floats) -> float:
    ratios = [value.as_integer_ratio() for value in values.tolist()]
    common = max(below for _, below in ratios)
    total: int = sum(above * (common // below) for above, below in ratios)
    return float(total / (common * len(ratios)))


def measure() -> dict[str, Any]:
    """What was asked for."""
    if "--updates" in sys.argv:
        return drift(int(sys.argv[sys.argv.index("--updates") + 1]))
    return reads(int(sys.argv[sys.argv.index("--reads") + 1]) if "--reads" in sys.argv else READS)


if __name__ == "__main__":
    report(measure)
