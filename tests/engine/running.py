"""The engine and the oracle through the same history, and what came out of each in one form."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from katmatic import App
from katmatic.engine.plan import Plan, compile
from katmatic.engine.step import Changes, State, step
from katmatic.log.base import Batch, Slice
from katmatic.records import LabelVersion, Prediction
from katmatic.spec.event import Event
from katmatic.testing.oracle import Oracle, Record

Moments = Sequence[tuple[int, Sequence[Record]]]
ROUNDED = ("ewm", "std", "decayed", "range")  # sums of rounded terms; every other answer is equal in every bit


class Running:
    """The engine, fed with moments; remembers all that came out, in order."""

    def __init__(self, app: App) -> None:
        self.plan: Plan = compile(app)
        self.state = State(self.plan)
        self.position = self.sequence = 0
        self.outcomes: list[Prediction | LabelVersion] = []
        self.dead: list[tuple[int, str, bytes, int]] = []
        self.holds: list[str] = []
        self.counts: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.anchors: dict[int, Event] = {}

    def batch(self, now: int, records: Sequence[Record]) -> Batch:
        """Records as the log hands them over: their positions go on."""
        slices = []
        for topic, value in records:
            slices.append(Slice(topic, self.position, [value]))
            self.position += 1
        self.sequence += 1
        return Batch(self.sequence, now, slices)

    def apply(self, moments: Moments) -> Changes:
        """All of the moments in one step."""
        changes = step(self.plan, self.state, *(self.batch(now, records) for now, records in moments))
        self.outcomes += in_order(changes)
        self.dead += [(d.position, d.topic, d.payload, d.now) for d in changes.dead]
        self.holds += changes.holds
        self.counts.update(changes.counts)
        self.errors.update(changes.errors)
        for block, _ in changes.predictions:
            self.anchors.update((position, changes.event(position)) for position in block.anchor.tolist())
        return changes

    def reload(self) -> None:
        """Go on from a checkpoint."""
        data = self.state.dump()
        self.state = State(self.plan)
        self.state.load(data)


def in_order(changes: Changes) -> list[Prediction | LabelVersion]:
    """Predictions and label versions of a step, in the order in which they came about."""
    found = [(int(orders[i]), block.row(i)) for block, orders in changes.predictions for i in range(len(block))]
    found += [(int(orders[i]), block.row(i)) for block, orders in changes.labels for i in range(len(block))]
    return [row for _, row in sorted(found, key=lambda pair: pair[0])]


def all_at_once(moments: Moments) -> Iterator[Moments]:
    """One step."""
    yield moments


def one_by_one(moments: Moments) -> Iterator[Moments]:
    """A batch and a step for each record, and for each tick."""
    for now, records in moments:
        for record in records:
            yield [(now, [record])]
        if not records:
            yield [(now, [])]


def at_random(moments: Moments, seed: int) -> Iterator[Moments]:
    """Moments cut into batches anywhere, and batches put together to steps of any length."""
    random = Random(seed)
    step: list[tuple[int, Sequence[Record]]] = []
    for now, records in moments:
        rest = list(records)
        while True:
            size = random.randint(0, len(rest))
            step.append((now, rest[:size]))
            rest = rest[size:]
            if random.random() < 0.3:
                yield step
                step = []
            if not rest:
                break
    yield step


def answered(app: App, moments: Moments) -> Oracle:
    """What the oracle says."""
    oracle = Oracle(app)
    for now, records in moments:
        oracle.apply(now, records)
    return oracle


def assert_equal(engine: Running, oracle: Oracle) -> None:
    """Both say the same: the same rows in the same order, with the same values."""
    for i, (found, wanted) in enumerate(zip(engine.outcomes, oracle.outcomes, strict=False)):
        difference = _difference(found, wanted)
        assert difference is None, f"outcome {i}: {difference}\nengine {found}\noracle {wanted}"
    assert engine.outcomes[len(oracle.outcomes) :] == []
    assert oracle.outcomes[len(engine.outcomes) :] == []
    assert engine.dead == oracle.dead
    assert engine.holds == oracle.holds
    assert +engine.counts == +oracle.counts
    assert +engine.errors == +oracle.errors
    assert engine.anchors == {f.position: f.event for f in oracle.facts if f.position in engine.anchors}
    conserved = sum(engine.counts[fate] for fate in ("applied", "duplicate", "late", "dead"))
    assert engine.counts["events"] == conserved


def _difference(found: Any, wanted: Any) -> str | None:
    if type(found) is not type(wanted):
        return f"{type(found).__name__}, not {type(wanted).__name__}"
    for name in found.__struct_fields__:
        one, other = getattr(found, name), getattr(wanted, name)
        if name == "features":
            wrong = [key for key in other if not is_same(key, one.get(key), other[key])]
            if wrong or list(one) != list(other):
                return ", ".join(f"{key}: {one.get(key)!r}, not {other[key]!r}" for key in wrong)
        elif one != other:
            return f"{name}: {one!r}, not {other!r}"
    return None


def is_same(name: str, found: Any, wanted: Any) -> bool:
    """Whether two values of a feature are equal."""
    if name.startswith(ROUNDED) and found is not None and wanted is not None:
        return math.isclose(found, wanted, rel_tol=1e-9, abs_tol=1e-9)
    return bool(found == wanted)
