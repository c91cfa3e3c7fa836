"""Counts that add up."""

from __future__ import annotations

from katmatic.metrics import Metrics
from katmatic.monitoring.vitals import Counts, Pulse


def test_what_came_in_is_what_became_of_it():
    pulse = Pulse(Metrics(), ("gate", "roster"))
    pulse.counted({"events": 10, "applied": 6, "duplicate": 2, "late": 1, "dead": 1, "heartbeats": 3})
    pulse.counted({"events": 1, "applied": 1})
    pulse.heard("gate", 11, 77, dead=1)
    pulse.predicted("absence", 4)
    pulse.labelled("absence", 5)
    pulse.acted("absence")
    pulse.waits(3, 0.5)
    found = pulse.vitals()
    assert found.counts == Counts(11, 7, 2, 1, 1)
    assert found.counts.is_conserved
    assert found.counts.dead_share == 1 / 11
    assert [(flow.topic, flow.events, flow.dead, flow.heard) for flow in found.flows] == [
        ("gate", 11, 1, 77), ("roster", 0, 0, None),
    ]  # fmt: skip
    assert (found.predictions, found.labels, found.actions, found.waiting, found.lag_seconds) == (4, 5, 1, 3, 0.5)


def test_what_has_not_happened_is_shown_as_none():
    metrics = Metrics()
    Pulse(metrics, ["gate"], predictors=["absence"], labels=["absent"], alerts={"training-failed": "warning"})
    shown = {(name, *dict(labels).values()): value for name, labels, value in metrics.values()}
    assert set(shown.values()) == {0}
    assert {
        ("events_total", "gate"),
        ("event_outcomes_total", "dead"),
        ("predictions_total", "absence"),
        ("labels_total", "absent"),
        ("actions_total", "absence", "error"),
        ("user_errors_total", "absence"),
        ("user_errors_total", "where"),
        ("alerts_total", "training-failed", "warning"),
    } <= set(shown), "its first rise is one that Prometheus sees"


def test_a_loss_would_be_seen():
    assert not Counts(events=3, applied=1, duplicate=1).is_conserved


def test_before_anything_nothing_is_claimed():
    found = Pulse(Metrics()).vitals()
    assert (found.p50_seconds, found.p99_seconds, found.counts.dead_share) == (None, None, None)
    assert found.counts.is_conserved


def test_how_fast_it_answers():
    pulse = Pulse(Metrics())
    pulse.answered(0.001, 99)
    pulse.answered(1.0)
    found = pulse.vitals()
    assert 0.0005 < found.p50_seconds <= 0.001
    assert found.p99_seconds <= 0.001
