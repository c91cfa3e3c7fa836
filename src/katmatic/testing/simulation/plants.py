"""Bugs that are planted on purpose, to see that the simulation finds them. Nothing outside of tests plants one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from katmatic.disk import Region
from katmatic.log.base import Batch
from katmatic.log.sqlite import SqliteLog
from katmatic.pipeline import Pipeline
from katmatic.spec.app import App, windows
from katmatic.state.files import FileCheckpoints

LOSES_EVERY = 7  # commits with records
BATCHES_BACK = 3  # ticks that are not kept among them


@dataclass(frozen=True)
class Plant:
    """What the simulated process is made of."""

    log: Callable[..., SqliteLog] = SqliteLog
    pipeline: Callable[..., Pipeline] = Pipeline
    checkpoints: Callable[..., FileCheckpoints] = FileCheckpoints
    is_in_engine: bool = False  # so it is in undisturbed lives, too, and only the oracle can tell

    def undisturbed(self) -> Plant:
        """What a life without disk is made of."""
        return Plant(pipeline=self.pipeline) if self.is_in_engine else NO_PLANT


class LosesCommits(SqliteLog):
    """A commit is acknowledged, and nothing is written."""

    _commits = 0

    def _write(self, batch: Batch, *rest: Any, **more: Any) -> Any:
        self._commits += bool(batch.slices)
        if batch.slices and self._commits % LOSES_EVERY == 0:
            return {}, 0
        return super()._write(batch, *rest, **more)


class _Unsynced:
    """A region of which nothing is made durable on purpose."""

    def __init__(self, region: Region) -> None:
        self.read, self.write, self.close = region.read, region.write, region.close

    def sync(self) -> None:
        """Do nothing."""


class SyncsLate(SqliteLog):
    """A commit is acknowledged before it is synced."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._head.region = _Unsynced(self._head.region)


class ForgetsHead(SqliteLog):
    """What the process before left in the head is written over."""

    def _take_over(self, path: Path) -> None:
        pass


class ForgetsTicks(SqliteLog):
    """A tick is not kept, though labels were held at its moment."""

    def commit(
        self,
        batch: Batch,
        written: Mapping[str, Sequence[bytes]],
        fed: Mapping[str, Sequence[bytes]] = {},
        *,
        keep: bool = False,
    ) -> None:
        """Commit, and keep no tick."""
        super().commit(batch, written, fed)


class AppliesTwice(Pipeline):
    """A restart applies the last batches that the checkpoint knows once more."""

    def _load(self) -> int:
        return max(super()._load() - BATCHES_BACK, 0)


class SavesWithoutPosition(FileCheckpoints):
    """The state is kept under the position of the one before."""

    def save(self, name: str, sequence: int, state: bytes) -> None:
        """Keep it at the wrong place."""
        found = self.latest(name)
        super().save(name, found[0] if found else sequence, state)


class LooksTooFarBack(Pipeline):
    """Windows begin a microsecond too early."""

    def __init__(self, app: App, *given: Any, **more: Any) -> None:
        with _declared_otherwise(app, longer=timedelta(microseconds=1)):
            super().__init__(app, *given, **more)


class HearsSilence(Pipeline):
    """Labels are settled while their source is silent."""

    def __init__(self, app: App, *given: Any, **more: Any) -> None:
        before = dict(app.sources)
        app.sources.update({kind: replace(policy, silence=None) for kind, policy in before.items()})
        try:
            super().__init__(app, *given, **more)
        finally:
            app.sources.update(before)


@contextmanager
def _declared_otherwise(app: App, *, longer: timedelta) -> Iterator[None]:
    mine = {id(each): each for predictor in app.predictors.values() for each in windows(predictor)}
    lengths = [(each, each.window) for each in mine.values() if each.window is not None and each.op != "ewm"]
    for window, length in lengths:
        object.__setattr__(window, "window", length + longer)
    try:
        yield
    finally:
        for window, length in lengths:
            object.__setattr__(window, "window", length)


NO_PLANT = Plant()
PLANTS = {
    "": NO_PLANT,
    "lost-commit": Plant(log=LosesCommits),
    "late-sync": Plant(log=SyncsLate),
    "forgotten-head": Plant(log=ForgetsHead),
    "forgotten-tick": Plant(log=ForgetsTicks),
    "double-apply": Plant(pipeline=AppliesTwice),
    "state-without-position": Plant(checkpoints=SavesWithoutPosition),
    "window-off-by-a-microsecond": Plant(pipeline=LooksTooFarBack, is_in_engine=True),
    "settled-while-silent": Plant(pipeline=HearsSilence, is_in_engine=True),
}
