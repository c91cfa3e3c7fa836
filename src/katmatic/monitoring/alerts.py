"""What a person should know: rules over what is measured. Each raises its alert once, and says when it is over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from katmatic.monitoring.drift import Shift
from katmatic.monitoring.quality import Report
from katmatic.monitoring.vitals import Vitals
from katmatic.records import Alert, Decision, ModelVersion, SkewReport
from katmatic.spec.app import App

INFO, WARNING, CRITICAL = "info", "warning", "critical"
UNDER_BASELINE = "model-under-baseline"
SEVERITIES = {
    "source-silent": CRITICAL,
    "dead-letters": WARNING,
    "lag": WARNING,
    UNDER_BASELINE: WARNING,
    "drift": WARNING,
    "training-failed": WARNING,
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Where the rules draw their lines."""

    dead_share: float = 0.01  # of the events of one topic since the last check that had at least `events_least`
    events_least: int = 100
    lag_seconds: float = 60.0
    quality_rows: int = 500  # labelled rows before a model is held against its baselines


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the rules look at."""

    vitals: Vitals = field(default_factory=Vitals)
    silent: Iterable[str] = ()  # topics that are silent now and hold labels open
    reports: Iterable[Report] = ()
    shifts: Mapping[str, Sequence[Shift]] = field(default_factory=dict)  # by predictor
    models: Iterable[ModelVersion] = ()  # changes since the last check, oldest first
    skew: SkewReport | None = None  # what the proof of the served features has come to, if one is made


class Rules:
    """Checks the facts now and then, and gives the alerts that begin or end: `check(facts, now)`."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._open: dict[tuple[str, str], Alert] = {}
        self._failed: dict[str, str] = {}
        self._seen: dict[str, tuple[int, int]] = {}
        self._shares: dict[str, float] = {}

    def check(self, facts: Facts, now: int) -> list[Alert]:
        """The alerts that begin with these facts, then those that end."""
        found = {(alert.name, alert.predictor or ",".join(alert.key)): alert for alert in self._wrong(facts, now)}
        begun = [alert for name, alert in found.items() if name not in self._open]
        over = [_resolved(alert, now) for name, alert in self._open.items() if name not in found]
        self._open = {name: self._open.get(name, alert) for name, alert in found.items()}
        return begun + over

    @property
    def open(self) -> tuple[Alert, ...]:
        """The alerts that began and did not end."""
        return tuple(self._open.values())

    def _wrong(self, facts: Facts, now: int) -> Iterator[Alert]:
        limits = self._limits
        for topic in facts.silent:
            text = f"Nothing comes from {topic}; the labels that wait for it are held open"
            yield _begun("source-silent", text=text, now=now, key=(topic,))
        for topic, share in self._dead_shares(facts.vitals).items():
            if share > limits.dead_share:
                text = f"{share:.1%} of the events of {topic} cannot be read"
                yield _begun("dead-letters", text=text, now=now, key=(topic,))
        if facts.vitals.lag_seconds > limits.lag_seconds:
            text = f"Events wait for {facts.vitals.lag_seconds:.0f} s; {facts.vitals.waiting} are waiting"
            yield _begun("lag", text=text, now=now)
        for report in facts.reports:
            if report.model.rows >= limits.quality_rows and report.is_above_baselines is False:
                text = f"The model of {report.predictor} answers no better than a simple rule"
                yield _begun(UNDER_BASELINE, text=text, now=now, predictor=report.predictor)
        for predictor, shifts in facts.shifts.items():
            moved = [shift for shift in shifts if shift.has_moved]
            if moved:
                named = ", ".join(f"{shift.name} ({shift.index:.2f})" for shift in moved[:3])
                text = f"What {predictor} is asked about has moved: {named}"
                yield _begun("drift", text=text, now=now, predictor=predictor)
        for predictor, reason in self._failures(facts.models).items():
            text = f"{predictor} could not be trained: {reason}"
            yield _begun("training-failed", text=text, now=now, predictor=predictor)

        for skew in facts.skew.skews if facts.skew is not None else ():
            if skew.mismatches:
                text = f"Served features of {skew.predictor} are not what the log says they should be"
                yield Alert(name="skew", severity=CRITICAL, text=text, now=now, predictor=skew.predictor)

    def _dead_shares(self, vitals: Vitals) -> dict[str, float]:
        """The share of each topic's newest events that were dead, over at least `events_least` of them."""
        for flow in vitals.flows:
            events, dead = self._seen.setdefault(flow.topic, (0, 0))
            if flow.events - events >= self._limits.events_least:
                self._shares[flow.topic] = (flow.dead - dead) / (flow.events - events)
                self._seen[flow.topic] = (flow.events, flow.dead)
        return self._shares

    def _failures(self, models: Iterable[ModelVersion]) -> dict[str, str]:
        for model in models:
            if model.action == "failed" and not model.not_before:  # else it only waits for its labels
                self._failed[model.predictor] = model.reason
            else:
                self._failed.pop(model.predictor, None)
        return self._failed


def from_decision(app: App, decision: Decision) -> Alert:
    """The alert that tells of an action of the user's on a prediction; a failed one is a warning with its error."""
    label = app.predictors[decision.predictor].label
    answer = f"{decision.score:.0%}" if label.is_binary else f"{decision.score:.4g}"
    text = f"{', '.join(decision.key)}: {decision.predictor} {answer}"
    return Alert(
        name=f"{decision.predictor}.{decision.action}",
        severity=INFO if decision.error is None else WARNING,
        text=text if decision.error is None else f"{text}; the action raised {decision.error}",
        now=decision.now,
        key=decision.key,
        predictor=decision.predictor,
        score=decision.score,
    )


def _begun(name: str, *, text: str, now: int, key: tuple[str, ...] = (), predictor: str | None = None) -> Alert:
    return Alert(name=name, severity=SEVERITIES[name], text=text, now=now, key=key, predictor=predictor)


def _resolved(alert: Alert, now: int) -> Alert:
    return Alert(
        name=alert.name,
        severity=alert.severity,
        text=alert.text,
        now=now,
        key=alert.key,
        predictor=alert.predictor,
        score=alert.score,
        resolved=True,
    )
