"""Simulated time: what arrived once, or might arrive, goes through a pipeline in the order of its moments."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby

from katmatic.clock import ManualClock
from katmatic.pipeline import BATCH_LIMIT, Pipeline, Turn
from katmatic.sources.base import Arrival

GRAIN = 1_000_000  # microseconds: what arrives within one second is read together


def drive(
    pipeline: Pipeline,
    clock: ManualClock,
    arrivals: Iterable[Arrival],
    *,
    until: int | None = None,
    grain: int = GRAIN,
    pace: Callable[[int], None] = lambda moment: None,
    after: Callable[[Turn], None] = lambda turn: None,
    send: Callable[[str, list[bytes]], object] | None = None,
) -> None:
    """Feed `arrivals` (in the order of `now`) to a pipeline, and move its clock; what is due in between happens.

    `pace` is told each moment before the clock moves there: it may wait. `after` is told each turn. `until`: where the
    clock stands in the end. `send` hands records in, if not to the log.
    """
    hand_in = send or pipeline.log.append
    for group in _grouped(arrivals, grain):
        moment = group[-1].now
        _pass(pipeline, clock, group[0].now - 1, pace, after)
        pace(moment)
        clock.move_to(moment)
        for topic, records in groupby(group, key=lambda arrival: arrival.topic):
            hand_in(topic, [arrival.value for arrival in records])
        remaining = len(group)
        while remaining > 0:
            turn = pipeline.turn(limit=BATCH_LIMIT)
            remaining -= len(turn.batch)
            after(turn)
    if until is not None:
        _pass(pipeline, clock, until, pace, after)
        pace(until)
        clock.move_to(until)
    after(pipeline.turn())


def pass_until(pipeline: Pipeline, clock: ManualClock, moment: int) -> None:
    """Move the clock to `moment`; what is due in between happens at its time."""
    drive(pipeline, clock, (), until=moment)


def _pass(
    pipeline: Pipeline,
    clock: ManualClock,
    moment: int,
    pace: Callable[[int], None],
    after: Callable[[Turn], None],
) -> None:
    while (due := pipeline.state.next_due) <= moment:
        pace(due)
        clock.move_to(due)
        after(pipeline.turn())


def merged(*sources: Iterator[Arrival]) -> Iterator[Arrival]:
    """Several sources as one, in the order of their moments; of equal moments, in the order of the sources."""
    return heapq.merge(*sources, key=lambda arrival: arrival.now)


def _grouped(arrivals: Iterable[Arrival], grain: int) -> Iterator[list[Arrival]]:
    group: list[Arrival] = []
    for arrival in arrivals:
        if group and (arrival.now - group[0].now >= max(grain, 1) or len(group) >= BATCH_LIMIT):
            yield group
            group = []
        group.append(arrival)
    if group:
        yield group
