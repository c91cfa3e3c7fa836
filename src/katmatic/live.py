"""What can be asked of a running pipeline from outside: its page and its HTTP API look through this window."""

from __future__ import annotations

import heapq
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import chain
from typing import Any

import msgspec

from katmatic.clock import monotonic_seconds, to_datetime
from katmatic.duration import micros, parse
from katmatic.engine.ask import ask, candidates
from katmatic.engine.step import Changes
from katmatic.errors import LogFull, ModelError
from katmatic.labels.join import Joiner, as_declared
from katmatic.labels.ripe import ripens_after
from katmatic.log.base import Slice
from katmatic.log.codec import decode, decode_labels, decode_predictions
from katmatic.monitoring import gauges
from katmatic.monitoring.alerts import SEVERITIES, UNDER_BASELINE, Facts, Rules, from_decision
from katmatic.monitoring.board import Board
from katmatic.monitoring.drift import Shift, Watch
from katmatic.monitoring.gather import joined_labels, joined_predictions
from katmatic.monitoring.quality import Quality
from katmatic.monitoring.vitals import Pulse
from katmatic.pipeline import Pipeline, Turn
from katmatic.predictions.explain import reasons
from katmatic.predictions.rank import Ranking, ranked
from katmatic.records import (
    ALERTS,
    DEAD,
    DECISIONS,
    LABELS,
    MODELS,
    PREDICTIONS,
    Alert,
    DeadLetter,
    Decision,
    Example,
    LabelBlock,
    ModelVersion,
    Prediction,
    PredictionBlock,
    SkewReport,
)
from katmatic.serving import answers
from katmatic.serving.base import ModelCard, QueueFull, Status
from katmatic.serving.stream import Hub, Listener
from katmatic.spec.app import App

SHOWN_LIMIT = 1_000  # alerts and dead letters that are kept to be shown
REBUILT_RECORDS = 20_000  # records of a topic that a restart reads for its pages,
REBUILT_ROWS = 20_000  # and of predictions and labels, which come in blocks, no more than hold so many rows
RULES_EVERY = 60_000_000  # microseconds of the log's time between two checks of the rules; fewer where it hurries:
RULES_IN_WINDOW = 4  # checks in the time over which a decline is seen
JUDGED_OVER = "7d"  # how far back the live answers are judged for alerts, unless a policy says so
DRIFT_EVERY = 3_600_000_000  # and between two comparisons of what is asked with what was learnt from
TOLD_EVERY = 86_400_000_000  # and between two alerts about one function of the user's that raises
GATHERED_OVER = 25_000  # microseconds of the log's time over which predictions and labels are taken in together,
GATHERED_ROWS = 24  # or so many, in two turns: more at once would hold up the next turn
FLOOD_ROWS = 500  # from here on it does so anyway
UNKNOWN_FIELDS_LIMIT = 100  # names of fields that no event declares, that are told
_names = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode  # of the fields of an event


class Live:
    """A `serving.base.Pipeline` over a pipeline: fed with its turns, asked by any thread.

    Turns that follow each other quickly are taken in together. Whoever asks has all that was committed taken in first.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        app = pipeline.app
        self.app, self.metrics, self._pipeline = app, pipeline.metrics, pipeline
        self.hub = Hub(self.metrics)
        self._quality = {name: Quality(app, predictor) for name, predictor in app.predictors.items()}
        self._watches = {name: Watch() for name in app.predictors}
        self._ripens = {name: ripens_after(app, predictor.label) for name, predictor in app.predictors.items()}
        self._ripe = dict.fromkeys(app.predictors, 0)
        self._unripe: dict[str, list[int]] = {name: [] for name in app.predictors}  # rows: when each is, a heap
        self._joiners = {name: Joiner() for name in app.predictors}
        self._columns = {name: tuple(predictor.features) for name, predictor in app.predictors.items()}
        self._fields = {
            topic: {field.name for field in pipeline.plan.streams[stream].schema.fields}
            for topic, stream in pipeline.plan.by_topic.items()
        }
        self._rankings = {
            name: Ranking(predictor) for name, predictor in app.predictors.items() if predictor.rank is not None
        }
        self._labels = {question.name: pipeline.plan.labels[question.label][0] for question in pipeline.plan.questions}
        self._board = Board(app)
        self._pulse = Pulse(
            self.metrics,
            pipeline.plan.by_topic,
            predictors=app.predictors,
            labels=[name for name, _ in pipeline.plan.labels],
            alerts=SEVERITIES,
        )
        self._rules = Rules()
        self._windows = {
            name: micros(parse(predictor.retrain.on_decline or JUDGED_OVER))
            for name, predictor in app.predictors.items()
        }
        self._rules_every = min([RULES_EVERY, *(window // RULES_IN_WINDOW for window in self._windows.values())])
        self.reviewer: Callable[[str, str], str] | None = None  # who reviews models; None: nobody here
        self._checked = self._compared = 0
        self._trained: list[ModelVersion] = []  # since the last check
        self._shifts: dict[str, list[Shift]] = {}
        self._alerts: deque[Alert] = deque(maxlen=SHOWN_LIMIT)
        self._dead: deque[DeadLetter] = deque(maxlen=SHOWN_LIMIT)
        self._history: dict[str, list[ModelVersion]] = {name: [] for name in app.predictors}
        self._background: dict[str, PredictionBlock] = {}
        self._waiting: dict[int, tuple[int, float]] = {}  # handed in and not durable yet: records, and since when
        self._unanswered: deque[tuple[range, Future[range]]] = deque()  # durable, and not told of yet
        self._told = 0  # up to which position what came was
        self._answering = threading.Lock()  # for these two
        self._unknown: set[tuple[str, str]] = set()
        self._skew: SkewReport | None = None
        self._said: dict[str, int] = {}  # what raised -> when it was told last
        self._gathered: list[Turn] = []  # told, and not taken in yet
        self._rows_gathered = 0
        self._taken_in = 0  # the moment of the last turn that was
        self._taking: Iterator[bool] = iter(())  # what was begun of it
        self._lock = threading.RLock()
        self.ready = False
        self.trouble = ""  # why nothing goes on, if so

    # ------------------------------------------------------------------------------------------- fed by the pipeline

    def turn(self, turn: Turn) -> None:
        """Take note of a turn."""
        try:
            self._note(turn)
        finally:
            self._answer(turn)

    def _answer(self, turn: Turn) -> None:
        """Who handed in what was told is answered now, so that whoever asks then sees it."""
        if not turn.batch.slices:
            return
        told = []
        with self._answering:
            self._told = turn.batch.slices[-1].first + len(turn.batch.slices[-1].values)
            while self._unanswered and self._unanswered[0][0].stop <= self._told:
                told.append(self._unanswered.popleft())
        for positions, answer in told:
            answer.set_result(positions)

    def _note(self, turn: Turn) -> None:
        now = turn.batch.now
        with self._lock:
            if turn.models or turn.changes.earlier:  # for these what came before counts already
                self._take_in()
            self._trained += turn.models
            for record in turn.models:
                self._changed(record)
            self._gathered.append(turn)
            self._rows_gathered += sum(map(len, turn.predictions)) + sum(map(len, turn.labels))
            is_flood = self._rows_gathered >= FLOOD_ROWS
            if turn.decisions or is_flood or now - self._taken_in >= GATHERED_OVER:
                self._take_in()
            elif not next(self._taking, False) and self._rows_gathered >= GATHERED_ROWS:
                self._taking = self._take()
                next(self._taking)
            for alert in turn.alerts:
                self._raised(alert)
        self._publish(turn)
        if now - self._checked >= self._rules_every:
            self._checked = now
            self._check(turn)

    def _take_in(self) -> None:
        """Let all that counts, or looks at rows, see the turns that were gathered."""
        with self._lock:
            for _ in chain(self._taking, self._take()):
                pass

    def _take(self) -> Iterator[bool]:
        """The same in two steps of about the same length, so that neither holds up a turn for long; True after each."""
        turns, self._gathered, self._rows_gathered = self._gathered, [], 0
        if not turns:
            return
        self._taken_in = turns[-1].batch.now
        self._count(turns)
        for block in joined_predictions(block for turn in turns for block in turn.predictions):
            self._predicted(block)
        yield True
        for versions in joined_labels(versions for turn in turns for versions in turn.labels):
            self._labelled(versions)
        for turn in turns:
            if turn.decisions:
                self._decided(turn.decisions)
        yield True

    def _count(self, turns: Sequence[Turn]) -> None:
        """What became of the events of these turns, and what still waits."""
        counts: dict[str, int] = {}
        events: dict[str, int] = {}  # by topic
        newest: dict[str, Slice] = {}
        dead: list[str] = []  # topics
        for turn in turns:
            changes = turn.changes
            for name, number in changes.counts.items():
                if number:
                    counts[name] = counts.get(name, 0) + number
            for piece in turn.batch.slices:
                topic = piece.topic
                if topic in self._fields:
                    events[topic] = events.get(topic, 0) + len(piece.values) - piece.values.count(b"")
                    newest[topic] = piece
            if changes.errors or changes.said:
                self._tell_errors(changes, turn.batch.now)
            if changes.dead:
                self._dead.extendleft(changes.dead)
                dead += [letter.topic for letter in changes.dead]
        now = turns[-1].batch.now
        self._pulse.counted(counts)
        for topic, number in events.items():
            self._pulse.heard(topic, number, now, dead=dead.count(topic))
            self._look(topic, newest[topic].values[-1], now)
        oldest = next(iter(self._waiting.values()), None)
        lags = [(now - since) / 1e6 for topic, since, _ in turns[-1].batch.came if topic in self._fields]
        lags += [monotonic_seconds() - oldest[1]] if oldest else [0.0]
        waiting = sum(records for records, _ in self._waiting.values())
        self._pulse.waits(max(waiting, self._pipeline.log.waiting), max(lags))

    def _look(self, topic: str, value: bytes, now: int) -> None:
        """Does the newest event have fields that are not declared? They are ignored; each name is told once."""
        try:
            names = _names(value).keys() - self._fields[topic]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return
        if names:
            self.metrics.add("unknown_fields_total", topic=topic)
        for name in sorted(names):
            if (topic, name) not in self._unknown and len(self._unknown) < UNKNOWN_FIELDS_LIMIT:
                self._unknown.add((topic, name))
                text = f"{topic} has a field {name!r} that is not declared: it is ignored"
                self._pipeline.raise_alert(Alert(name="unknown-field", severity="info", text=text, now=now))

    def _tell_errors(self, changes: Changes, now: int) -> None:
        """A function of the user's raised: it is told once a day, with what it said."""
        for where, number in changes.errors.items():
            self._pulse.raised(where, number)
        for where, text in changes.said.items():
            if where not in self._said or now - self._said[where] >= TOLD_EVERY:
                self._said[where] = now
                what = "the event does not count" if where.startswith("where ") else "its rows are marked"
                text = f"{where} raised {text}; {what}"
                self._pipeline.raise_alert(Alert(name="user-error", severity="warning", text=text, now=now))

    def acted(self, decision: Decision) -> None:
        """An action of the user's was carried out, or raised."""
        with self._lock:
            self._pulse.acted(decision.predictor, failed=decision.error is not None)
            self._raised(from_decision(self.app, decision))

    def proved(self, report: SkewReport) -> None:
        """The proof of the served features tells how far it has come. Callable from any thread."""
        gauges.proved(self.metrics, report)
        with self._lock:
            if report.mismatches > (self._skew.mismatches if self._skew is not None else 0):
                self._checked = 0  # the rules look with the next turn
            self._skew = report

    def rebuild(self) -> None:
        """Become what the newest records of the log say, after a restart; of what is no longer declared, nothing."""
        log, labels = self._pipeline.log, {name for name, _ in self._pipeline.plan.labels}
        with self._lock:
            asked = _newest_blocks(log, PREDICTIONS, decode_predictions)
            known = _newest_blocks(log, LABELS, decode_labels)
            decided = [*(value for _, value in _newest(log, DECISIONS)), *log.pending(DECISIONS)]
            taken = (decode(DECISIONS, value) for value in decided)  # also what waits to be read again
            told = heapq.merge(  # as it came; of one moment, as a turn tells it
                ((_moment(block), 0, block) for block in asked if block.predictor in self.app.predictors),
                ((_moment(block), 1, block) for block in known if block.label in labels),
                ((decision.now, 2, decision) for decision in taken),
                key=lambda each: each[:2],
            )
            for _, _, each in told:
                if isinstance(each, PredictionBlock):
                    self._predicted(each)
                elif isinstance(each, LabelBlock):
                    self._labelled(each)
                elif isinstance(each, Decision):
                    self._decided([each])
            for _, value in log.scan(MODELS):
                self._changed(decode(MODELS, value))
            self._alerts.extendleft(decode(ALERTS, value) for _, value in _newest(log, ALERTS))
            self._dead.extendleft(decode(DEAD, value) for _, value in _newest(log, DEAD))
            self._pulse.remembered(self._pipeline.state.store.counts)

    def _predicted(self, block: PredictionBlock) -> None:
        name = block.predictor
        self._pulse.predicted(name, len(block))
        self._board.predictions(block)
        if name in self._rankings:
            self._rankings[name].know(block)
        self._watches[name].predictions(as_declared(block, self._columns[name]))
        self._matured(name, self._joiners[name].predictions(block))
        if len(block):
            self._background[name] = block

    def _labelled(self, block: LabelBlock) -> None:
        self._pulse.labelled(block.label, len(block))
        self._board.labels(block)
        for name, label in self._labels.items():
            if label == block.label:
                self._matured(name, self._joiners[name].labels(block))

    def _decided(self, decisions: Sequence[Decision]) -> None:
        self._board.decisions(list(decisions))
        for name, joiner in self._joiners.items():
            mine = [decision for decision in decisions if decision.predictor == name]
            if mine:
                self._matured(name, joiner.decisions(mine))

    def _matured(self, name: str, examples: Sequence[Example]) -> None:
        if not examples:
            return
        self._quality[name].examples(examples)
        self._watches[name].outcomes((example.key, example.label) for example in examples)
        times = [example.time for example in examples if example.label == example.label]
        ripens, now = self._ripens[name], self._now()
        young = [time for time in times if time + ripens > now]
        self._ripe[name] += len(times) - len(young)
        for time in young:
            heapq.heappush(self._unripe[name], time + ripens)
        self.rows(name)  # what is ripe need not wait there until somebody asks

    @property
    def quality(self) -> Mapping[str, Quality]:
        """The live quality of each predictor's answers."""
        self._take_in()
        return self._quality

    def rows(self, name: str) -> int:
        """How many labelled rows of a predictor are ripe, as of a moment ago: what a model could be trained on."""
        now = self._now()
        with self._lock:
            unripe = self._unripe[name]
            while unripe and unripe[0] <= now:
                heapq.heappop(unripe)
                self._ripe[name] += 1
            return self._ripe[name]

    def _changed(self, record: ModelVersion) -> None:
        if record.predictor not in self._history:
            return
        self._history[record.predictor].insert(0, record)
        if record.action in ("promoted", "rolled-back"):
            self._watches[record.predictor].promoted()

    def _raised(self, alert: Alert) -> None:
        self._alerts.appendleft(alert)
        if not alert.resolved:
            self._pulse.alerted(alert.name, alert.severity)
        if self.hub.listeners:
            self.hub.publish("alert", answers.alert(self.app, alert))

    def _publish(self, turn: Turn) -> None:
        for topic, since, records in turn.batch.came:
            if topic in self._fields:
                self._pulse.answered(max(self._pipeline.clock.now() - since, 0) / 1e6, records)
        if not self.hub.listeners:
            return
        for block in turn.predictions:
            self.hub.publish_many("prediction", len(block), partial(_predictions, self.app, block))
        for versions in turn.labels:
            self.hub.publish_many("label", len(versions), partial(_labels, self.app, versions))
        self.hub.publish("status", {"now": answers.iso(turn.batch.now, self.app.timezone)})

    def _check(self, turn: Turn) -> None:
        """Let the rules look at the figures."""
        with self._lock:
            self._take_in()
            if turn.batch.now - self._compared >= DRIFT_EVERY:
                self._compared = turn.batch.now
                self._shifts = {name: watch.shifts() for name, watch in self._watches.items()}
            facts = Facts(
                vitals=self._pulse.vitals(),
                silent=sorted(self._pipeline.state.silent(self._pipeline.plan)),
                reports=[
                    quality.since(
                        max(turn.batch.now - self._windows[name], self._card(name).since or 0), turn.batch.now
                    )
                    for name, quality in self._quality.items()
                    if self._answers(name)
                ],
                shifts=self._shifts,
                models=self._trained,
                skew=self._skew,
            )
            self._trained = []
            found = self._rules.check(facts, turn.batch.now)
            self._gauge(facts, turn.batch.now)
        for alert in found:
            self._pipeline.raise_alert(alert)

    def _gauge(self, facts: Facts, now: int) -> None:
        """Show Prometheus what the rules look at."""
        if facts.skew is not None:
            self.metrics.set("skew_lag_seconds", facts.skew.behind(now))  # also of a proof that says no more
        gauges.silent(self.metrics, tuple(self._pipeline.plan.by_topic), facts.silent)
        gauges.alerted(self.metrics, self._rules.open)
        for report in facts.reports:
            gauges.judged(self.metrics, report)
        for name in self.app.predictors:
            card = self._card(name)
            gauges.answers(self.metrics, name, card.version, card.since)
            gauges.moved(self.metrics, name, facts.shifts.get(name, ()))

    def has_declined(self, name: str) -> bool:
        """Whether a predictor's newest answers were no better than a simple rule's, as of the last look."""
        return any(alert.name == UNDER_BASELINE and alert.predictor == name for alert in self._rules.open)

    def shifts(self, name: str) -> list[Shift]:
        """What has moved of a predictor's features, scores and outcomes, as of the last comparison."""
        return self._shifts.get(name, [])

    def _now(self) -> int:
        """The log's time, which never goes back, though a clock may."""
        return max(self._pipeline.clock.now(), self._pipeline.state.now)

    def _answers(self, name: str) -> bool:
        return name in self._pipeline.online or self._pipeline.scorers[name].version > 0

    # -------------------------------------------------------------------------------------------- asked from outside

    def submit(self, topic: str, values: list[bytes]) -> Future[range]:
        """Hand in events; the future gives their positions once they are durable, and to be seen here."""
        arrived, answer = monotonic_seconds(), Future[range]()
        answer.set_running_or_notify_cancel()  # a sender that goes away does not take its records back
        try:
            found = self._pipeline.log.append(topic, values)
        except LogFull as error:
            raise QueueFull(error.where, found=error.found, expected=error.expected) from error
        with self._lock:
            self._waiting[id(found)] = (len(values), arrived)
        found.add_done_callback(partial(self._durable, answer))
        return answer

    def _durable(self, answer: Future[range], promise: Future[range]) -> None:
        records, arrived = self._waiting.pop(id(promise))
        error = promise.exception()
        if error is not None:
            answer.set_exception(error)
            return
        self._pulse.answered(monotonic_seconds() - arrived, records)
        positions = promise.result()  # of nothing its stop is 0, and where the log is another's, who tells nobody here
        with self._answering:
            is_told = positions.stop <= self._told  # already, where this comes after the turn
            if not is_told:
                self._unanswered.append((positions, answer))
        if is_told:
            answer.set_result(positions)

    def latest(self, predictor: str, key: tuple[str, ...]) -> Prediction | None:
        """The newest prediction about `key`."""
        self._take_in()
        return self._board.latest(predictor, key)

    def predict(self, predictor: str, anchors: list[dict[str, Any]]) -> list[Prediction]:
        """What would be answered now if these anchor events came; nothing is logged.

        A ranking gives the highest first; of one anchor without a candidate, those of its candidates.
        """
        pipeline = self._pipeline
        questions = next(question for question in pipeline.plan.questions if question.name == predictor)
        ranking = self._rankings.get(predictor)
        if ranking is not None:
            self._take_in()  # the candidates that were shown last
        size = len(anchors)
        with pipeline.lock:
            if ranking is not None and size == 1 and ranking.key not in anchors[0]:
                blank = ranking.anchor(anchors[0])
                chosen = candidates(pipeline.plan, pipeline.state, questions, blank, self._now())
                anchors, size = ranking.anchors(anchors[0], chosen), ranking.size
            if not anchors:
                return []
            block = ask(pipeline.plan, pipeline.state, questions, anchors, self._now())
            block = pipeline.answer(block)
        found = [block.row(i) for i in range(len(block))]
        return found if ranking is None else ranked(found)[:size]

    def reasons(self, predictor: str, key: tuple[str, ...]) -> list[tuple[str, float]]:
        """How much each feature raised or lowered the newest answer about `key`, the largest effect first."""
        self._take_in()
        found = self._board.latest(predictor, key)
        background = self._background.get(predictor)
        if found is None or found.score is None or background is None:
            return []
        with self._pipeline.lock:
            return reasons(self._pipeline.answer, found, background)

    def status(self) -> Status:
        """How all of it is."""
        self._take_in()
        reports = {  # which take their time: no turn waits for them
            name: quality.report(self._now()) for name, quality in self._quality.items() if self._answers(name)
        }
        with self._lock:
            return Status(
                self._now(),
                self.ready and not self.trouble,
                self.trouble or ("" if self.ready else "the log is being read again"),
                self._pulse.vitals(),
                {name: self._card(name) for name in self.app.predictors},
                reports,
                tuple(sorted(self._pipeline.state.silent(self._pipeline.plan))),
                self._rules.open,
                self._skew,
            )

    def _card(self, name: str) -> ModelCard:
        history = tuple(self._history[name])
        if name in self._pipeline.online:
            learner = self._pipeline.online[name]
            return ModelCard(name, learner.version, None, history)
        version = self._pipeline.scorers[name].version
        since = next((r.now for r in history if r.version == version and r.action in ("promoted", "rolled-back")), None)
        wanted = self.app.predictors[name].retrain.rows
        waiting = ""
        if not version:
            rows = self.rows(name)
            waiting = f"{rows:,} of {wanted:,} labelled rows" if rows < wanted else "its first training is due"
            if history and rows >= wanted:
                waiting = f"the last training was not used: {history[0].reason}"
                if history[0].not_before > self._pipeline.state.now:
                    waiting += f"; the next follows {to_datetime(history[0].not_before):%d %b %H:%M} UTC"
        return ModelCard(name, version, since, history, waiting)

    def board(self) -> Board:
        """The newest of every predictor."""
        self._take_in()
        return self._board

    def models(self, predictor: str) -> list[ModelVersion]:
        """Every change of who answers, newest first."""
        return list(self._history[predictor])

    def rollback(self, predictor: str, version: int | None) -> ModelVersion:
        """Let `version` answer again (None: the one before)."""
        with self._lock:
            card = self._card(predictor)
            wanted = version if version is not None else next(iter(card.earlier), 0)
            record = next((r for r in card.history if r.version == wanted and r.artifact), None)
        if record is None or wanted not in card.earlier:
            raise ModelError(
                predictor,
                found=f"version {wanted}" if wanted else "no version before this one",
                expected=f"one of {list(card.earlier)}",
                do="`katmatic models` shows what has answered",
            )
        return self._pipeline.switch(record, "asked for by hand")

    def review(self, predictor: str, why: str) -> str:
        """Have a predictor's model reviewed, if its policy says so; why not, or nothing."""
        if predictor not in self.app.predictors:
            return f"there is no predictor {predictor!r}"
        if self.app.predictors[predictor].retrain.on_decline is None:
            return "its policy declares no on_decline"
        if self.reviewer is None:
            return "this is a copy: tell the pipeline itself"
        return self.reviewer(predictor, why)

    def alerts(self, limit: int) -> Sequence[Alert]:
        """The newest alerts, newest first."""
        with self._lock:
            return list(self._alerts)[:limit]

    def dead(self, limit: int) -> Sequence[DeadLetter]:
        """The newest dead letters, newest first."""
        with self._lock:
            self._take_in()
            return list(self._dead)[:limit]

    def subscribe(self) -> Listener:
        """Messages from now on."""
        return self.hub.subscribe()


def _predictions(app: App, block: PredictionBlock) -> Iterator[dict[str, Any]]:
    return (answers.prediction(app, block.row(i)) for i in range(len(block)))


def _labels(app: App, block: LabelBlock) -> Iterator[dict[str, Any]]:
    return (answers.label(app, block.row(i)) for i in range(len(block)))


def _moment(block: PredictionBlock | LabelBlock) -> int:
    """When it was written, about: that of its first row."""
    return int(block.now[0]) if len(block) else 0


def _newest(log: Any, topic: str) -> Any:
    return log.scan(topic, max(0, log.end(topic) - REBUILT_RECORDS))


def _newest_blocks(log: Any, topic: str, decoded: Callable[[bytes], Any]) -> list[Any]:
    """The newest blocks of a topic that hold REBUILT_ROWS rows, in their order; read backwards, by more and more."""
    found: list[Any] = []
    rows, stop, some = 0, log.end(topic), 16
    while stop > 0 and rows < REBUILT_ROWS and len(found) < REBUILT_RECORDS:
        start = max(0, stop - some)
        for block in reversed([decoded(value) for _, value in log.scan(topic, start, stop)]):
            if rows < REBUILT_ROWS:
                found.append(block)
                rows += len(block)
        stop, some = start, 4 * some
    return found[::-1]
