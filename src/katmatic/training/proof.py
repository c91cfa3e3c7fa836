"""Zero skew, proved live: served features are computed again from the log, naively, while the pipeline runs.

A process of its own reads the log as its owner commits it, replays it (`naive.py`), and compares every logged row with
what the raw events before it say. It takes at most `CPU_SHARE` of the machine's CPU. If that is not enough, it falls
behind by a bounded amount and then passes rows over, and says how many: nothing is passed silently.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np

from katmatic.clock import Clock, SystemClock, monotonic_seconds, process_seconds, sleep
from katmatic.log.base import Batch
from katmatic.log.codec import decode_predictions
from katmatic.log.follow import Followable
from katmatic.records import PREDICTIONS, Difference, PredictionBlock, Skew, SkewReport
from katmatic.spec.app import App
from katmatic.training.naive import Checked, Replay

CPU_SHARE = 0.05  # of all cores that this process may use
BURST_SECONDS = 0.25  # of CPU that may be used at once
LEAST_SECONDS = 1e-6  # too little to sleep for
LOOK_SECONDS = 0.25  # between two looks at a log that stands still
TELL_SECONDS = 1.0  # between two reports; a difference is told at once
GROUP_RECORDS = 2_000  # records that are read before the rows made of them are asked for
GROUP_BATCHES = 200
BEHIND_SECONDS = 2.0  # further behind, only a part of the rows is computed again
BEHIND_PART = 0.5  # of the time that reading takes
BLOCK_SECONDS = 2.0  # that the rows of one block may take of the clock
DIFFERENCES_LIMIT = 10
PAUSE_SECONDS = 0.5  # at most, at once
SEED = 1


@dataclass
class _Tally:
    """What was counted of one predictor."""

    rows: int = 0
    values: int = 0
    mismatches: int = 0
    unprovable: int = 0
    skipped: int = 0


class Budget:
    """Keeps a process within a share of the CPU: `pause` sleeps off what was used beyond it."""

    def __init__(
        self,
        share: float,
        *,
        used: Callable[[], float] = process_seconds,
        passed: Callable[[], float] = monotonic_seconds,
        sleeping: Callable[[float], None] = sleep,
    ) -> None:
        self.share, self._used, self._passed, self._sleeping = share, used, passed, sleeping
        self._cpu, self._clock = used(), passed()

    @property
    def cpu_seconds(self) -> float:
        """CPU used since the beginning."""
        return self._used() - self._cpu

    @property
    def seconds(self) -> float:
        """Time passed since the beginning."""
        return self._passed() - self._clock

    @property
    def debt(self) -> float:
        """CPU seconds that were used too early."""
        return self.cpu_seconds - self.seconds * self.share

    def pause(self) -> None:
        """Wait until what was used is within the share, but for what may be used at once."""
        while self.share < 1 and (over := self.debt - BURST_SECONDS) > LEAST_SECONDS:
            self._sleeping(min(PAUSE_SECONDS, over / self.share))


def cpu_share() -> float:
    """The part of one core that is `CPU_SHARE` of all cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(1.0, CPU_SHARE * cores)


class Proof:
    """Follows a log, and computes again what was served from the row block `start` on.

    Earlier blocks may have been made under another declaration; what they were made of is read all the same.
    """

    def __init__(
        self,
        app: App,
        history: Followable,
        *,
        start: int = 0,
        share: float | None = None,
        clock: Clock | None = None,
        replay: Replay | None = None,
    ) -> None:
        self._app, self._history, self._next = app, history, start
        self._clock = clock or SystemClock()
        self._replay = replay or Replay(app)
        self._budget = Budget(cpu_share() if share is None else share)
        self._random = np.random.default_rng(SEED)
        self._blocks: deque[PredictionBlock] = deque()
        self._tallies = {name: _Tally() for name in app.predictors}
        self._differences: deque[Difference] = deque(maxlen=DIFFERENCES_LIMIT)
        self._lag = 0.0
        self._record_seconds, self._row_seconds = 1e-5, 1e-3  # of CPU; measured as it goes

    def whole(self) -> SkewReport:
        """Prove all that is committed now, and say what came of it."""
        for _ in self._groups(chain(self._history.batches(), [None])):
            pass
        return self.report()

    def follow(self, is_over: Callable[[], bool] = lambda: False) -> Iterator[SkewReport]:
        """Prove what is committed, now and later; a report every second, and with each difference."""
        told, known = -TELL_SECONDS, 0
        for _ in self._groups(self._history.follow()):
            mismatches = sum(tally.mismatches for tally in self._tallies.values())
            if mismatches > known or monotonic_seconds() - told >= TELL_SECONDS:
                told, known = monotonic_seconds(), mismatches
                yield self.report()
            if is_over():
                return

    def report(self) -> SkewReport:
        """What it has come to so far."""
        return SkewReport(
            now=self._clock.now(),
            skews=tuple(Skew(predictor=name, **vars(tally)) for name, tally in self._tallies.items()),
            differences=tuple(self._differences),
            lag_seconds=self._lag,
            cpu_seconds=self._budget.cpu_seconds,
            seconds=self._budget.seconds,
            keys_share=0.5**self._replay.halvings,
        )

    def _groups(self, batches: Iterable[Batch | None]) -> Iterator[None]:
        """Batches in groups, each with the rows that were made of it; a breath after each batch."""
        waiting: list[Batch] = []
        for batch in batches:
            if batch is not None:
                waiting.append(batch)
                if sum(map(len, waiting)) < GROUP_RECORDS and len(waiting) < GROUP_BATCHES:
                    continue
            if waiting:
                self._read_rows(waiting[-1].now)
            for each in waiting:
                self._lag = max(0.0, (self._clock.now() - each.now) / 1e6)
                self._prove(each)
                yield
                self._budget.pause()
            waiting = []
            if batch is None:
                self._lag = 0.0
                yield
                sleep(LOOK_SECONDS)

    def _read_rows(self, now: int) -> None:
        """The logged rows up to a moment; one block beyond it may be read, too."""
        if self._blocks and self._blocks[-1].now[0] > now:
            return
        for position, value in self._history.scan(PREDICTIONS, self._next):
            self._next = position + 1
            block = decode_predictions(value)
            if len(block):
                self._blocks.append(block)
                if block.now[0] > now:
                    return

    def _prove(self, batch: Batch) -> None:
        began, rows = process_seconds(), 0
        while self._blocks and self._blocks[0].now[0] <= batch.now:
            block = self._blocks.popleft()
            tally = self._tallies.get(block.predictor)
            if tally is None:
                continue
            is_other = set(block.columns) != set(self._app.predictors[block.predictor].features)
            if is_other or block.now[0] < batch.now:  # of another declaration, or of a batch that is over
                tally.skipped += len(block)
                continue
            chosen = self._chosen(len(block), len(batch))
            tally.skipped += len(block) - len(chosen)
            rows += len(chosen)
            self._replay.expect([block.row(i) for i in chosen])
        for checked in self._replay.apply(batch):
            self._count(checked)
        took = process_seconds() - began
        if rows:
            mine = max(0.0, took - len(batch) * self._record_seconds) / rows
            self._row_seconds += 0.2 * (mine - self._row_seconds)
        elif len(batch):
            self._record_seconds += 0.2 * (took / len(batch) - self._record_seconds)

    def _chosen(self, rows: int, records: int) -> list[int]:
        """Which rows of a block are computed again: all, if there is time."""
        if self._budget.share >= 1:
            return list(range(rows))
        seconds = BLOCK_SECONDS * self._budget.share
        if self._lag > BEHIND_SECONDS:
            seconds = min(seconds, BEHIND_PART * records * self._record_seconds)
        most = max(1, int(seconds / max(self._row_seconds, 1e-6)))
        if rows <= most:
            return list(range(rows))
        chosen: list[int] = np.sort(self._random.choice(rows, most, replace=False)).tolist()
        return chosen

    def _count(self, checked: Checked) -> None:
        row = checked.row
        tally = self._tallies[row.predictor]
        if checked.feature == next(iter(row.features), "") or not checked.feature:
            tally.rows += 1
        if checked.verdict == "proved":
            tally.values += 1
        elif checked.verdict == "unprovable":
            tally.unprovable += 1
        else:
            tally.mismatches += 1
            self._differences.appendleft(
                Difference(
                    predictor=row.predictor,
                    anchor=row.anchor,
                    key=row.key,
                    at=row.at,
                    feature=checked.feature,
                    served=repr(checked.served),
                    found=repr(checked.found),
                )
            )
