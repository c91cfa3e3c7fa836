"""One application at work: read the log, step, score, decide, commit; then tell those who watch."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import xxhash

from katmatic.aside import Aside, is_possible
from katmatic.clock import Clock
from katmatic.engine.plan import Plan, compile
from katmatic.engine.step import Changes, State, step
from katmatic.errors import KatmaticError, ModelError
from katmatic.log.base import Batch, Log
from katmatic.log.codec import decode, encode, encode_labels, encode_predictions
from katmatic.metrics import Metrics
from katmatic.predictions.act import Actions
from katmatic.predictions.artifact import load
from katmatic.predictions.online import OnlineLearner
from katmatic.predictions.score import Scorer
from katmatic.records import (
    ALERTS,
    DEAD,
    DECISIONS,
    LABELS,
    MODELS,
    PREDICTIONS,
    Alert,
    Decision,
    LabelBlock,
    ModelVersion,
    PredictionBlock,
)
from katmatic.spec.app import App
from katmatic.state import columns, loop
from katmatic.state.checkpoint import Checkpoints

BATCH_LIMIT = 5_000  # records of one commit
REPLAY_LIMIT = 50_000  # records of one step while the log is read again
CHECKPOINT_RECORDS = 200_000  # after so many records, or
CHECKPOINT_BATCHES = 200_000  # so many batches, or half as many of both, the state is saved: a restart reads them again
CALM = 100  # records of a batch: with fewer, it counts that no turn waits; with more, how much is done
COPIES = (
    20  # that save the state after something has failed, before the program beside that spares turns is tried again
)


@dataclass(frozen=True)
class Turn:
    """What one turn of the pipeline did, told to watchers once it is durable."""

    batch: Batch
    changes: Changes
    predictions: Sequence[PredictionBlock]  # scored
    labels: Sequence[LabelBlock]
    decisions: Sequence[Decision]
    alerts: Sequence[Alert]
    models: Sequence[ModelVersion]


class Watcher(Protocol):
    """Whoever wants to know what happened, on the pipeline's thread: quick, and it never stops the pipeline."""

    def turn(self, turn: Turn) -> None:
        """Take note of a turn."""
        ...


class Pipeline:
    """An application over a log: `recover` first, then `turn` again and again, on one thread.

    Whatever else reads or changes the state takes `lock`. The log's clock is `clock`; nothing else asks for the time.
    What is saved on the way is saved `aside`, if there is such a thing, so that no turn waits for it: by a copy of this
    process, or while few records come at once, by the command line `saver`, which reads the log as a restart would.
    """

    def __init__(
        self,
        app: App,
        log: Log,
        clock: Clock,
        *,
        checkpoints: Checkpoints | None = None,
        aside: Aside | None = None,
        metrics: Metrics | None = None,
        watchers: Iterable[Watcher] = (),
        seed: int = 0,
    ) -> None:
        self.app, self.log, self.clock, self.checkpoints = app, log, clock, checkpoints
        self._aside = aside
        self.saver: list[str] = []
        self._copies = 0  # that save the state before the saver is tried again
        self.metrics = metrics or Metrics()
        self.watchers = list(watchers)
        self.plan: Plan = compile(app)
        self.state = State(self.plan)
        self.lock = threading.RLock()
        self.actions = {name: Actions(predictor, seed) for name, predictor in app.predictors.items()}
        self.online: dict[str, OnlineLearner] = {}
        self.scorers: dict[str, Scorer] = {}
        for name, predictor in app.predictors.items():
            if hasattr(predictor.model, "learn_one"):
                self.online[name] = OnlineLearner(predictor)
            else:
                self.scorers[name] = Scorer(predictor)
        self.models: dict[str, ModelVersion] = {}  # who answers
        self._lost: dict[str, list[ModelVersion]] = {}  # what could not be loaded in a restart
        self._labels = {question.name: self.plan.labels[question.label][0] for question in self.plan.questions}
        self._alerts: list[Alert] = []  # raised outside of a turn: written with the next one
        self._records = self._batches = 0  # since the last checkpoint
        self._uncommitted: Turn | None = None  # applied to the state, not yet durable

    # ----------------------------------------------------------------------------------------------------- live

    def turn(self, timeout: float = 0.0, *, limit: int = BATCH_LIMIT) -> Turn:
        """Wait at most `timeout` seconds for records, and apply what is there; of nothing, time passes.

        Raises LogError if what was made cannot be committed; the next call tries again to commit the same.
        """
        if timeout > 0:
            self.log.wait(timeout)
        with self.lock:
            if self._uncommitted is None:
                now = max(self.clock.now(), self.state.now)  # which a checkpoint may know better than the clock
                batch = self.log.read(now, limit=limit)
                self._uncommitted = self._apply(batch)
            turn = self._uncommitted
            # A replay has to hold a label at the moment at which it was held, though nothing was written then.
            self.log.commit(turn.batch, *_written(turn), keep=turn.changes.held)
            self._uncommitted = None
        for watcher in self.watchers:
            try:
                watcher.turn(turn)
            except Exception as error:  # a watcher's mistake is its own
                self._warn("watcher-failed", f"{type(watcher).__name__}: {error!r}")
        self._records += len(turn.batch)
        self._batches += 1
        self._save_now_and_then()
        return turn

    def drain(self) -> int:
        """Take turns until nothing waits to be read; how many records were applied."""
        total = 0
        while True:
            turn = self.turn()
            total += len(turn.batch)
            if not turn.batch.slices and not turn.decisions:  # which wait to be read, too
                return total

    def raise_alert(self, alert: Alert) -> None:
        """Have an alert written with the next turn. Callable from any thread."""
        self._alerts.append(alert)

    def answer(self, block: PredictionBlock) -> PredictionBlock:
        """The block with its scores, from whoever answers now; nothing is learnt. Take `lock`."""
        if block.predictor in self.online:
            return self.online[block.predictor].score(block)
        return self.scorers[block.predictor].score(block)

    def switch(self, record: ModelVersion, reason: str) -> ModelVersion:
        """Let the version of `record` answer again, from the next turn on."""
        back = msgspec.structs.replace(record, action="rolled-back", reason=reason, now=self.clock.now())
        self.log.append(MODELS, [encode(back)])
        return back

    def _apply(self, batch: Batch) -> Turn:
        models = list(_models([batch]))
        for record in models:
            self._install(record)
        self._lost.clear()
        self._know([batch])
        changes = step(self.plan, self.state, batch)
        scored = self._learn(changes)
        scored += [self.answer(block) for block, _ in changes.predictions if block.predictor in self.scorers]
        decisions = [decision for block in scored for decision in self.actions[block.predictor].decide(block)]
        alerts, self._alerts = self._alerts, []
        return Turn(batch, changes, scored, [block for block, _ in changes.labels], decisions, alerts, models)

    def _learn(self, changes: Changes) -> list[PredictionBlock]:
        """Online models answer and learn, in the order in which it happened."""
        scored: list[PredictionBlock] = []
        for name, learner in self.online.items():
            asked = [(block, orders) for block, orders in changes.predictions if block.predictor == name]
            known = [(block, orders) for block, orders in changes.labels if block.label == self._labels[name]]
            if asked or known:
                scored += learner.apply(asked, known)
            if learner.errors:
                changes.errors[name] = changes.errors.get(name, 0) + learner.errors
                changes.said[f"{name}.model"] = learner.said
                learner.errors = 0
        return scored

    def _know(self, batches: Sequence[Batch]) -> None:
        """What was decided is not decided again."""
        for batch in batches:
            for piece in batch.slices:
                if piece.topic == DECISIONS:
                    for decision in (decode(DECISIONS, value) for value in piece.values):
                        if decision.predictor in self.actions:
                            self.actions[decision.predictor].know(decision)

    def _install(self, record: ModelVersion) -> bool:
        """From now on this version answers; if it cannot be loaded, the one before goes on."""
        scorer = self.scorers.get(record.predictor)
        if scorer is None or record.action not in ("promoted", "rolled-back"):
            return False
        try:
            model = load(record.artifact)
            if model.columns != tuple(scorer.predictor.features):
                raise ModelError(
                    f"{record.predictor} version {record.version}",
                    found=f"the features {', '.join(model.columns)}",
                    expected=", ".join(scorer.predictor.features),
                    do="wait until it has been trained with these, or declare those again",
                )
        except KatmaticError as error:
            before = f"version {scorer.version} goes on" if scorer.version else "nobody answers"
            self._lost.setdefault(record.predictor, []).append(record)
            text = f"version {record.version} could not be loaded, {before}: {error}"
            self._warn("model-not-loaded", text, predictor=record.predictor)
            return False
        scorer.install(record.version, model)
        self.models[record.predictor] = record
        return True

    def _warn(self, name: str, text: str, predictor: str | None = None) -> None:
        self.raise_alert(Alert(name=name, severity="warning", text=text, now=self.clock.now(), predictor=predictor))

    # ------------------------------------------------------------------------------------------------- restart

    def recover(self, progress: Callable[[int], None] = lambda records: None) -> int:
        """Become what the log says: the latest checkpoint, then the batches after it; how many records were read again.

        What was written then is not written again, and no action is taken again.
        """
        sequence = self._load()
        records = 0
        models: dict[str, list[ModelVersion]] = {}
        for batches in _grouped(self.log.batches(sequence), REPLAY_LIMIT):
            for record in _models(batches):
                models.setdefault(record.predictor, []).append(record)
            self._know(batches)
            changes = step(self.plan, self.state, *batches)
            self._learn(changes)
            sequence = batches[-1].sequence
            records += sum(len(batch) for batch in batches)
            self._batches += len(batches)
            progress(records)
        self._records = records  # so that one life after the other does not read more and more of it
        for mine in models.values():  # the newest that can be loaded
            next((record for record in reversed(mine) if self._install(record)), None)
        self._fall_back()
        self.state.store.sequence = sequence
        return records

    def _fall_back(self) -> None:
        """Where the checkpoint's version cannot be loaded any more, an earlier one answers, as without a checkpoint."""
        for name in [name for name in self._lost if not self.scorers[name].version]:
            told = (decode(MODELS, value) for _, value in self.log.scan(MODELS))
            mine = [record for record in told if record.predictor == name and record not in self._lost[name]]
            next((record for record in reversed(mine) if self._install(record)), None)
        self._lost.clear()

    def save(self) -> None:
        """Keep the state as it is now, so that a restart need not read what came before."""
        saving = self._saving()
        if saving is not None:
            saving()

    def _save_now_and_then(self) -> None:
        """Save if much has happened since the last time; the one before is there until then."""
        trouble = self._aside.ended() if self._aside is not None else None
        if trouble:
            self._copies = COPIES
        try:
            if self._records / CHECKPOINT_RECORDS + self._batches / CHECKPOINT_BATCHES >= 1:
                if self._aside is None:
                    self.save()
                elif not self._aside.is_busy:
                    self._save_aside(self._aside)
        except (KatmaticError, OSError) as error:
            trouble, self._copies = str(error), COPIES
        if trouble:
            self._warn("checkpoint-failed", f"the state was not saved, a restart will take longer: {trouble}")

    def _save_aside(self, aside: Aside) -> None:
        # A copy costs little, but no turn goes on while page tables are copied, and the next ones wait for pages.
        is_little = self._records < CALM * self._batches and self._records <= CHECKPOINT_RECORDS
        if self.saver and is_little and not self._copies:
            self._records = self._batches = 0
            aside.run(self.saver)
            return
        self._copies = max(0, self._copies - 1)
        if not is_possible():
            self.save()
        elif (saving := self._saving()) is not None:
            with self.lock:
                aside.start(saving)

    @property
    def is_saving(self) -> bool:
        """Whether the state is being saved beside."""
        return self._aside is not None and self._aside.is_busy

    def _saving(self) -> Callable[[], None] | None:
        """What saves the state as it is when it is called; None if it is not to be saved."""
        self._records = self._batches = 0
        checkpoints, sequence = self.checkpoints, self.log.sequence()
        if checkpoints is None or self._uncommitted is not None:  # the state is ahead of the log
            return None

        def saving() -> None:
            with self.lock:
                kept = {
                    "plan": fingerprint(self.plan),
                    "state": self.state.kept(),
                    "models": list(self.models.values()),
                    "online": {name: learner.dump() for name, learner in self.online.items()},
                    "decided": {name: actions.dump() for name, actions in self.actions.items()},
                }
                data = msgspec.msgpack.encode(kept)
            checkpoints.save(self.app.name, sequence, data)
            checkpoints.drop(self.app.name, sequence)

        return saving

    def _load(self) -> int:
        found = self.checkpoints.latest(self.app.name) if self.checkpoints else None
        if found is None:
            return 0
        sequence, data = found
        kept = msgspec.msgpack.decode(data, type=_Kept)
        if kept.plan != fingerprint(self.plan):
            return 0  # the declaration has changed, or how the state is kept: all of the log is read again
        self.state.load(kept.state)
        for record in msgspec.convert(kept.models, list[ModelVersion]):
            self._install(record)
        for name, dumped in kept.online.items():
            self.online[name].load(dumped)
        for name, decided in kept.decided.items():
            self.actions[name].load((action, anchor) for action, anchor in decided)
        return sequence


class _Kept(msgspec.Struct):
    """A checkpoint as it is read; the state is left as it lies there."""

    plan: str
    state: msgspec.Raw
    models: list[Any]
    online: dict[str, bytes]
    decided: dict[str, list[tuple[str, int]]] = {}


def fingerprint(plan: Plan) -> str:
    """Equal for declarations that keep the same state."""
    streams = [(s.schema.topic, [f.name for f in s.schema.fields], [str(c) for c in s.columns]) for s in plan.streams]
    labels = [(name, str(label)) for name, label in plan.labels]
    learners = [
        (question.name, question.columns, re.sub(r" at 0x\w+", "", repr(question.predictor.model)))
        for question in plan.questions
        if hasattr(question.predictor.model, "learn_one")
    ]
    return repr((loop.version(), columns.FORM, plan.tables.tolist(), streams, labels, plan.spaces, learners))


def short_fingerprint(plan: Plan) -> str:
    """The same as 32 digits."""
    return xxhash.xxh3_128_hexdigest(fingerprint(plan).encode())


def _models(batches: Sequence[Batch]) -> Iterator[ModelVersion]:
    for batch in batches:
        for piece in batch.slices:
            if piece.topic == MODELS:
                yield from (decode(MODELS, value) for value in piece.values)


def _grouped(batches: Iterable[Batch], limit: int) -> Iterator[list[Batch]]:
    group: list[Batch] = []
    records = 0
    for batch in batches:
        group.append(batch)
        records += len(batch)
        if records >= limit or len(group) >= limit // 10:
            yield group
            group, records = [], 0
    if group:
        yield group


def _written(turn: Turn) -> tuple[Mapping[str, list[bytes]], Mapping[str, list[bytes]]]:
    written = {
        PREDICTIONS: [encode_predictions(block) for block in turn.predictions],
        LABELS: [encode_labels(block) for block in turn.labels],
        DEAD: [encode(letter) for letter in turn.changes.dead],
        ALERTS: [encode(alert) for alert in turn.alerts],
    }
    fed = {DECISIONS: [encode(decision) for decision in turn.decisions]}
    return {t: v for t, v in written.items() if v}, {t: v for t, v in fed.items() if v}
