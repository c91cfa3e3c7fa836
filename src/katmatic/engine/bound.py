"""How much memory a declaration needs: bytes per key, per event that a window holds, and per open label, from its plan.

They are bounds: a ring has room for up to twice the events that it holds, and so do queues and tables of identities.
What Python needs for the name of a key is measured for one of 16 letters.
"""

from __future__ import annotations

import msgspec

from katmatic.engine.plan import Kept, Plan
from katmatic.state import kernel

WORD = 8
SLACK = 2  # rings and queues grow by doubling
NAME_BYTES = 220  # of a key: its text, its number, its place in the list and in the table of names, which is half empty
IDENTITY_BYTES = 128  # of an event that is kept to know its like: 16, four to eight times, as the tables double
QUEUE_WORDS = 3  # of each moment that an open label waits for


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """What one past holds of a key: so many bytes for each event within `seconds` (None: for ever)."""

    of: str  # topics, or the label
    event_bytes: int
    seconds: float | None


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """What a key of some fields takes, whatever happens, and what its windows hold beyond that."""

    key: str
    key_bytes: int
    windows: tuple[Window, ...]
    for_ever: bool  # it is never forgotten: a window has no end

    def worst_bytes(self, events: float) -> int:
        """What a key takes whose every window holds so many events."""
        return self.key_bytes + round(events * sum(window.event_bytes for window in self.windows))


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """All that grows with keys, events and labels."""

    keys: tuple[Bound, ...]
    label_bytes: dict[str, int]  # of each open label
    label_seconds: dict[str, float]  # how long after its anchor it stays, unless a silent source holds it
    identity_bytes: int  # of each event of the last `identity_seconds`
    identity_seconds: float


def bounds(plan: Plan) -> Bounds:
    """The bounds of a plan."""
    streams = [stream.policy for stream in plan.streams]
    waits = {name: 3 + sum(len(q.predictor.lead) for q in plan.questions if q.label == i)
             for i, (name, _) in enumerate(plan.labels)}  # fmt: skip
    anchor = _lines(kernel.AN_KEYS + len(plan.spaces))
    return Bounds(
        keys=tuple(_bound(plan, space) for space in range(len(plan.spaces))),
        label_bytes={name: WORD * (anchor + SLACK * QUEUE_WORDS * waits[name]) for name, _ in plan.labels},
        label_seconds={name: plan.anchor_life / 1e6 for name, _ in plan.labels},
        identity_bytes=IDENTITY_BYTES,
        identity_seconds=max((policy.duplicates.total_seconds() for policy in streams), default=0.0),
    )


def _bound(plan: Plan, space: int) -> Bound:
    mine = [kept for kept in plan.kept if kept.space == space]
    cells = sum(_lines(kept.words) + kept.stride * kernel.RING_CAPACITY_FIRST for kept in mine)
    return Bound(
        key=" and ".join(plan.spaces[space]) or "all",
        key_bytes=WORD * (cells + int(plan.tables[kernel.CELLS_PER_KEY]) + 1) + NAME_BYTES,
        windows=tuple(_window(plan, kept) for kept in mine),
        for_ever=any(kept.for_ever for kept in mine),
    )


def _window(plan: Plan, kept: Kept) -> Window:
    topics = [plan.streams[stream].schema.topic for stream in kept.streams]
    return Window(
        of=plan.labels[kept.label][0] if kept.label >= 0 else " and ".join(topics),
        event_bytes=SLACK * WORD * kept.stride + (SLACK * WORD * kept.trees + 7) // 8,  # trees: at most 1/8 of a ring
        seconds=None if kept.keep == kernel.FOREVER else kept.keep / 1e6,
    )


def _lines(words: int) -> int:
    """Words, up to the end of a cache line."""
    return -(-words // kernel.LINE_WORDS) * kernel.LINE_WORDS
