"""One application living through a script: its process dies and comes back, its disk and its clock go wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from katmatic.clock import SystemClock
from katmatic.errors import KatmaticError, LogError
from katmatic.live import Live
from katmatic.log.base import Batch, History
from katmatic.log.codec import encode
from katmatic.log.memory import MemoryLog
from katmatic.log.sqlite import SqliteLog, open_readonly
from katmatic.pipeline import Turn
from katmatic.records import DECISIONS, MODELS, ModelVersion
from katmatic.spec.event import schema
from katmatic.testing.simulation.disk import SimulatedDisk
from katmatic.testing.simulation.plants import NO_PLANT, Plant
from katmatic.testing.simulation.script import SECOND, Happening, Script
from katmatic.testing.simulation.vfs import simulated

WAL_BYTES = 12 * 8192  # so that pages move into the main file every few commits
HEAD_BYTES = 32 * 1024  # so that batches move into the tables every few commits, too
FATES = ("applied", "duplicate", "late", "dead")
TROUBLES_LIMIT = 1_000  # attempts at one thing, before it counts as stuck

Models = dict[str, list[Path]]


class Different(AssertionError):
    """What must be equal, or must hold, is not, or does not."""


def check(claim: bool, otherwise: str) -> None:
    """Raise Different unless `claim` is true."""
    if not claim:
        raise Different(otherwise)


@dataclass
class Sent:
    """A record that a source has sent, until it knows that it is durable."""

    topic: str
    value: bytes
    is_posted: bool = False  # by another process
    times: int = 0  # how often it was handed in
    promise: Future[range] | None = None
    position: int | None = None  # as acknowledged
    is_durable: bool = False


class Life:
    """One process: what it holds in memory is gone with it."""

    def __init__(self, world: World) -> None:
        self.clock = SystemClock(lambda: world.machine * 1000)
        script, plant = world.script, world.plant
        self.log: SqliteLog | MemoryLog = MemoryLog()
        checkpoints = None
        if world.disk is not None:
            self.log = plant.log(
                world.disk.folder / "log.db", wal_bytes=WAL_BYTES, head_bytes=HEAD_BYTES, disk=world.disk
            )
            checkpoints = plant.checkpoints(world.disk.folder / "checkpoints", disk=world.disk)
        try:
            self.pipeline = plant.pipeline(script.app, self.log, self.clock, checkpoints=checkpoints)
            self.pipeline.recover()
            self.live = Live(self.pipeline)
            self.live.rebuild()
        except BaseException:
            self.end()
            raise
        self.pipeline.watchers += [self.live, world]

    def end(self) -> None:
        """Let go of the files. On a dead disk this changes nothing."""
        with contextlib.suppress(KatmaticError):
            self.log.close()


class World:
    """A script as it goes; without a disk there is one life in memory, and nothing goes wrong."""

    def __init__(self, script: Script, models: Models, folder: Path | None = None, plant: Plant = NO_PLANT) -> None:
        self.script, self.models, self.plant = script, models, plant
        self.machine = script.start
        self.sent: list[Sent] = []
        self.lives = 0
        self._folder, self._versions = folder, 0
        self._topics = {schema(event).topic for event in script.app.events}
        self._events = 0  # read so far
        self._known: list[tuple[int, str, bytes]] = []  # what was seen to be durable: moment, topic, value by position
        self._told: dict[int, int] = {}  # moments of the batches that watchers were told of, by sequence
        self._broken: Different | None = None
        self._power = False
        self._full_for = self._seen_failures = 0
        self.disk: SimulatedDisk | None = None
        if folder is not None:
            self.disk = SimulatedDisk(self._room(), np.random.default_rng([script.seed, 0xD1]))

    def go(self) -> None:
        """All of the script, and then time until nothing is open. Raises Different."""
        with self._on_disk():
            self._begin()
        for happening in self.script.happenings:
            self._pass(happening.gap)
            self._happen(happening)
        if self.disk is not None:
            self.disk.dies_at, self.disk.fails_at, self.disk.is_full = None, range(0), False
            self.disk.slow = lambda: None
        self._pass(self.script.end)
        self._work(self._turns)
        check(all(sent.is_durable for sent in self.sent), "something that was sent was never acknowledged")

    def close(self) -> None:
        """End the process in order."""
        with self._on_disk():
            self.life.end()

    def history(self) -> History:
        """What the log holds, once this is closed; close it."""
        assert self.disk is not None
        return open_readonly(self.disk.folder / "log.db")

    # --------------------------------------------------------------------------------------------------- what happens

    def _happen(self, happening: Happening) -> None:
        what = happening.what
        if what in ("send", "post"):
            self.sent += [Sent(*record, is_posted=what == "post") for record in happening.records]
        elif what == "model" and self.models:
            self.sent.append(Sent(MODELS, encode(self._version(happening.number))))
        elif self.disk is not None:
            self._go_wrong(self.disk, happening)
        self._work(self._turns)

    def _go_wrong(self, disk: SimulatedDisk, happening: Happening) -> None:
        match happening.what:
            case "crash":
                disk.dies_at, self._power = disk.writes + happening.number, happening.is_power
            case "fails":
                first = disk.writes + 1
                disk.fails_at = range(first, first + happening.number)
            case "full":
                disk.is_full, self._full_for = True, happening.number
            case "slow":
                disk.slow = lambda: self._tire(happening.number)
            case "jump":
                self.machine += happening.number
            case "save":
                self._work(self._save)
            case "restart":
                self._work(self._restart)
            case "second":
                self._work(self._second)
            case "spoil":
                for file in sorted(disk.folder.glob("checkpoints/*.checkpoint"))[-1:]:
                    disk.spoil(file)
            case "outage":
                self._die(disk)
                self.machine += happening.number * 10 * SECOND
                self._begin_again()

    def _version(self, number: int) -> ModelVersion:
        self._versions += 1
        names = list(self.models)
        folders = self.models[names[number % len(names)]]
        return ModelVersion(
            predictor=names[number % len(names)],
            version=self._versions,
            action="promoted",
            reason="it was drawn",
            now=self.machine,
            artifact=str(folders[self._versions % len(folders)]),
        )

    def _tire(self, microseconds: int) -> None:
        self.machine += microseconds

    def _save(self) -> None:
        with contextlib.suppress(LogError):  # the one before is still there
            self.life.pipeline.save()
        self._raise_if_dead()

    def _restart(self) -> None:
        with contextlib.suppress(LogError):
            self.life.pipeline.save()
        self._raise_if_dead()
        self.life.end()
        self._raise_if_dead()
        self._begin()

    def _second(self) -> None:
        """Another instance on the same directory is refused, and does no harm."""
        assert self.disk is not None
        try:
            SqliteLog(self.disk.folder / "log.db").close()
        except LogError as error:
            check("another owner" in str(error), f"a second instance was told: {error}")
        else:
            raise Different("a second instance was let in")

    # ------------------------------------------------------------------------------------------------ time and work

    def _pass(self, span: int) -> None:
        """Let the machine's time pass; what falls due on the way happens at its moment."""
        until = self.machine + span
        while (due := self.life.pipeline.state.next_due) <= until:
            self.machine = max(self.machine, due)
            self._work(self._turns)
        self.machine = max(self.machine, until)

    def _turns(self) -> None:
        """Hand in what is to be sent, and take turns until nothing waits."""
        for sent in self.sent:
            if sent.promise is None and not sent.is_durable:
                self._hand_in(sent)
        while True:
            turn = self.life.pipeline.turn()
            if self._broken is not None:
                raise self._broken
            if not turn.batch.slices and not turn.decisions:
                break
        for sent in self.sent:
            if sent.promise is not None and sent.promise.done() and not sent.is_durable:
                sent.position, sent.is_durable = sent.promise.result().start, True

    def _hand_in(self, sent: Sent) -> None:
        sent.times += 1
        if self.disk is not None and sent.is_posted:
            with closing(open_readonly(self.disk.folder / "log.db")) as other:
                other.post(sent.topic, [sent.value])
            sent.is_durable = True
        else:
            sent.promise = self.life.log.append(sent.topic, [sent.value])

    def _work(self, do: Callable[[], None]) -> None:
        """Do it, again and again while the disk is full or fails; in another life if it died meanwhile."""
        for _ in range(TROUBLES_LIMIT):
            try:
                with self._on_disk():
                    do()
                    self._raise_if_dead()
                return
            except (KatmaticError, OSError) as error:
                self._overcome(error)
        raise Different("it is stuck: nothing goes on")

    def _overcome(self, error: Exception) -> None:
        disk = self.disk
        if disk is None:
            raise Different(f"in an undisturbed life: {error}") from error
        if disk.is_dead:
            self._die(disk)
            self._begin_again()
            return
        if disk.failures == self._seen_failures:
            raise Different(f"on a disk that works: {error}") from error
        self._seen_failures = disk.failures
        self._full_for -= 1
        disk.is_full = disk.is_full and self._full_for > 0
        if not self.script.is_gentle:
            self.machine += SECOND  # until it tries again

    def _raise_if_dead(self) -> None:
        if self.disk is not None and self.disk.is_dead:
            raise LogError("the process", found="its end", expected="life", do="begin again")

    # ------------------------------------------------------------------------------------------------- life and death

    def _die(self, disk: SimulatedDisk) -> None:
        """The process is gone, and with it all that it held in memory."""
        disk.is_dead = True
        with simulated(disk):
            self.life.end()
        self.disk = disk.after(self._room(), is_power_cut=self._power)
        self.disk.is_full, self._seen_failures = disk.is_full, 0

    def _begin_again(self) -> None:
        for _ in range(TROUBLES_LIMIT):
            try:
                with self._on_disk():
                    self._begin()
                return
            except (KatmaticError, OSError) as error:
                disk = self.disk
                assert disk is not None
                if not disk.is_dead and disk.failures == self._seen_failures:
                    raise Different(f"it does not come back: {error}") from error
                self._seen_failures = disk.failures
                self._full_for -= 1
                disk.is_full = disk.is_full and self._full_for > 0
                if disk.is_dead:
                    self.disk = disk.after(self._room(), is_power_cut=self._power)
                    self._seen_failures = 0
        raise Different("it does not come back")

    def _begin(self) -> None:
        self.life = Life(self)
        self.lives += 1
        if self.disk is None:
            return
        log = self.life.log
        batches = list(log.batches())
        records = [
            (batch.now, piece.topic, value) for batch in batches for piece in batch.slices for value in piece.values
        ]
        check(records[: len(self._known)] == self._known, "what was durable is not there any more, or has changed")
        there = {batch.sequence: batch.now for batch in batches}
        for sequence, now in self._told.items():
            check(there.get(sequence) == now, f"batch {sequence} was committed, and is not there")
        for sent in self.sent:
            if sent.position is not None:
                check(
                    records[sent.position : sent.position + 1] != []
                    and records[sent.position][1:] == (sent.topic, sent.value),
                    f"what was acknowledged at position {sent.position} is not there",
                )
        self._known = records
        self._events = sum(topic in self._topics and value != b"" for _, topic, value in records)
        self._conserve()
        self._resume(log, records)

    def _resume(self, log: SqliteLog | MemoryLog, records: list[tuple[int, str, bytes]]) -> None:
        """What sources do when they are back: they ask what is durable, or blindly send again."""
        mine = [record[1:] for record in records if record[1] != DECISIONS]
        waiting = sum(len(log.pending(topic)) for topic in {sent.topic for sent in self.sent})
        durable = len(mine) + waiting
        if not self.script.sends_blindly:
            check([(sent.topic, sent.value) for sent in self.sent[: len(mine)]] == mine, "what was sent came otherwise")
        for i, sent in enumerate(self.sent):
            sent.promise = None
            if not self.script.sends_blindly:
                check(i < durable or not sent.is_durable, f"what was posted is gone: {sent.topic} {sent.value!r}")
                sent.is_durable = i < durable

    def turn(self, turn: Turn) -> None:
        """Watch: at every commit the law of conservation holds."""
        pieces = turn.batch.slices
        self._events += sum(sum(map(bool, piece.values)) for piece in pieces if piece.topic in self._topics)
        if pieces:
            self._told[turn.batch.sequence] = turn.batch.now
        try:
            self._conserve()
        except Different as error:  # the pipeline goes on, whatever a watcher raises
            self._broken = self._broken or error

    def _conserve(self) -> None:
        counts = self.life.pipeline.state.store.counts
        events, fates = counts.get("events", 0), [counts.get(fate, 0) for fate in FATES]
        check(events == sum(fates), f"{events} events, of which {fates} were {FATES}")
        check(events == self._events, f"{events} events were counted, and {self._events} are in the log")

    @contextlib.contextmanager
    def _on_disk(self) -> Iterator[None]:
        if self.disk is None:
            yield
        else:
            with simulated(self.disk):
                yield

    def _room(self) -> Path:
        assert self._folder is not None
        found = self._folder / f"life-{self.lives}-{len(list(self._folder.iterdir()))}"
        found.mkdir()
        return found


def flat(batches: list[Batch]) -> list[tuple[int, str, bytes]]:
    """Records by position, with their moments."""
    return [(batch.now, piece.topic, value) for batch in batches for piece in batch.slices for value in piece.values]
