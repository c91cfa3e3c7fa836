"""How the pipeline is: what became of every event, how far behind it is, and how fast it answers."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from katmatic.metrics import Metrics

OUTCOMES = ("applied", "duplicate", "late", "dead")
RESULTS = ("ok", "error")  # of an action

# What the names mean: for `prometheus.text`, and for docs/reference/metrics.md.
HELP = {
    "events_total": "Events that were read from the log, by topic.",
    "event_outcomes_total": "What became of the events: applied, duplicate, late (applied after its lateness) or dead.",
    "heard_timestamp_seconds": "When an event of the topic was last read, in seconds since 1970.",
    "predictions_total": "Predictions made, by predictor.",
    "labels_total": "Versions of labels, by label.",
    "actions_total": "Actions taken on predictions, by predictor and result: ok or error.",
    "alerts_total": "Alerts raised, by alert and severity.",
    "alerts_open": "Alerts of a rule that began and did not end.",
    "user_errors_total": "How often a function of the user's raised, by where.",
    "ready": "1 while events are taken in and answered, 0 while nothing can be committed.",
    "waiting_events": "Events that are accepted and not read yet.",
    "lag_seconds": "For how long the oldest of the waiting events has been waiting.",
    "unknown_fields_total": "How often the newest of some events had fields that are not declared, by topic.",
    "answer_seconds": "From the arrival of an event to its logged prediction.",
    "model_quality": "How good the newest answers are, by metric; who: the model, the base_rate or the own_past_rate.",
    "model_judged_rows": "Labelled answers that the quality is measured by.",
    "model_version": "The version that answers; 0 is none.",
    "model_promoted_timestamp_seconds": "When the version that answers was promoted, in seconds since 1970.",
    "drift_index": "Population stability index of a column, against when the model was promoted.",
    "drift_bound": "The index above which the column has moved.",
    "source_silent": "1 while the silence of a topic holds labels open.",
    "skew_proved_total": "Logged rows whose features were computed again from the log, by predictor.",
    "skew_mismatches_total": "Served features that are not what the log says they should be, by predictor.",
    "skew_unprovable_total": "Served features that would need events that the proof keeps no longer, by predictor.",
    "skew_skipped_total": "Logged rows that the proof passed over for want of time, by predictor.",
    "skew_lag_seconds": "How long ago that was committed what the proof looks at now.",
    "skew_cpu_share": "What the proof has used of one core, since its start.",
    "http_requests_total": "Requests answered, by route and status.",
    "http_request_seconds": "From a request to its answer, by route.",
    "http_refused_total": "Requests refused before they reached a route, by reason.",
    "stream_clients": "Browsers and programs that listen to the live stream.",
    "stream_dropped_total": "Messages of the live stream dropped because their client was too slow.",
}


@dataclass(frozen=True)
class Counts:
    """What became of the events. `late` ones were applied too, and are not counted in `applied`."""

    events: int = 0
    applied: int = 0
    duplicate: int = 0
    late: int = 0
    dead: int = 0

    @property
    def accounted(self) -> int:
        """How many events have a known fate."""
        return self.applied + self.duplicate + self.late + self.dead

    @property
    def is_conserved(self) -> bool:
        """Whether events in = applied + duplicate + late + dead."""
        return self.events == self.accounted

    @property
    def dead_share(self) -> float | None:
        """The share of the events that could not be applied; None of none."""
        return self.dead / self.events if self.events else None


@dataclass(frozen=True)
class Flow:
    """One topic: how many events came, how many could not be read, and when the newest came."""

    topic: str
    events: int
    dead: int
    heard: int | None


@dataclass(frozen=True)
class Vitals:
    """The state of the pipeline at one moment."""

    counts: Counts = field(default_factory=Counts)
    flows: tuple[Flow, ...] = ()
    predictions: int = 0
    labels: int = 0
    actions: int = 0
    waiting: int = 0  # events accepted and not read yet
    lag_seconds: float = 0.0  # how long the oldest of them has waited
    p50_seconds: float | None = None  # from the arrival of an event to its logged prediction
    p99_seconds: float | None = None


class Pulse:
    """Counts what the pipeline does, into `metrics`. Safe to read while another thread feeds it."""

    def __init__(
        self,
        metrics: Metrics,
        topics: Iterable[str] = (),
        *,
        predictors: Iterable[str] = (),
        labels: Iterable[str] = (),
        alerts: Mapping[str, str] = {},
    ) -> None:
        """What is named here is shown from the start, as 0: Prometheus sees no rise in what was not there before."""
        self._metrics = metrics
        topics, predictors = tuple(topics), tuple(predictors)
        for topic in topics:
            metrics.add("events_total", 0, topic=topic)
        for outcome in OUTCOMES:
            metrics.add("event_outcomes_total", 0, outcome=outcome)
        for predictor in predictors:
            metrics.add("predictions_total", 0, predictor=predictor)
            for result in RESULTS:
                metrics.add("actions_total", 0, predictor=predictor, result=result)
        for where in ("where", *predictors):
            metrics.add("user_errors_total", 0, where=where)
        for label in labels:
            metrics.add("labels_total", 0, label=label)
        for alert, severity in alerts.items():
            metrics.add("alerts_total", 0, alert=alert, severity=severity)
        self._counts = dict.fromkeys(("events", *OUTCOMES), 0)
        self._flows = {topic: [0, 0] for topic in topics}
        self._heard: dict[str, int] = {}
        self._made = {"predictions": 0, "labels": 0, "actions": 0}
        self._waiting, self._lag_seconds = 0, 0.0
        self._lock = threading.Lock()

    def counted(self, counts: Mapping[str, int]) -> None:
        """Take in the counts of one step: events, applied, duplicate, late, dead."""
        with self._lock:
            for name in self._counts:
                self._counts[name] += counts.get(name, 0)
        for name in OUTCOMES:
            if counts.get(name):
                self._metrics.add("event_outcomes_total", counts[name], outcome=name)

    def remembered(self, counts: Mapping[str, int]) -> None:
        """What became of the events of earlier lives: shown, but not in the metrics, which count from the start."""
        with self._lock:
            for name in self._counts:
                self._counts[name] += counts.get(name, 0)

    def heard(self, topic: str, events: int, now: int, *, dead: int = 0) -> None:
        """Events of one topic were read at the moment `now`, `dead` of them unreadable."""
        with self._lock:
            flow = self._flows.setdefault(topic, [0, 0])
            flow[0] += events
            flow[1] += dead
            if events:
                self._heard[topic] = now
        if events:
            self._metrics.add("events_total", events, topic=topic)
            self._metrics.set("heard_timestamp_seconds", now / 1e6, topic=topic)

    def predicted(self, predictor: str, rows: int) -> None:
        """Predictions were made."""
        with self._lock:
            self._made["predictions"] += rows
        self._metrics.add("predictions_total", rows, predictor=predictor)

    def labelled(self, label: str, rows: int) -> None:
        """Labels have new versions."""
        with self._lock:
            self._made["labels"] += rows
        self._metrics.add("labels_total", rows, label=label)

    def acted(self, predictor: str, *, failed: bool = False) -> None:
        """An action was taken."""
        with self._lock:
            self._made["actions"] += 1
        self._metrics.add("actions_total", predictor=predictor, result=RESULTS[failed])

    def alerted(self, name: str, severity: str) -> None:
        """An alert was raised."""
        self._metrics.add("alerts_total", alert=name, severity=severity)

    def raised(self, where: str, times: int = 1) -> None:
        """A function of the user's raised."""
        self._metrics.add("user_errors_total", times, where=where)

    def answered(self, seconds: float, times: int = 1) -> None:
        """Predictions were logged so long after their events had arrived."""
        self._metrics.observe("answer_seconds", seconds, times)

    def waits(self, events: int, lag_seconds: float) -> None:
        """So many events are waiting, the oldest for so long."""
        with self._lock:
            self._waiting, self._lag_seconds = events, lag_seconds
        self._metrics.set("waiting_events", events)
        self._metrics.set("lag_seconds", lag_seconds)

    def vitals(self) -> Vitals:
        """How the pipeline is now."""
        with self._lock:
            flows = tuple(Flow(topic, n, dead, self._heard.get(topic)) for topic, (n, dead) in self._flows.items())
            return Vitals(
                Counts(**self._counts),
                flows,
                **self._made,
                waiting=self._waiting,
                lag_seconds=self._lag_seconds,
                p50_seconds=self._metrics.quantile("answer_seconds", 0.5),
                p99_seconds=self._metrics.quantile("answer_seconds", 0.99),
            )
