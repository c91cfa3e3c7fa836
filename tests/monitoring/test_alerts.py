"""Alerts: each begins once, and ends once."""

from __future__ import annotations

import pytest

from katmatic.monitoring.alerts import Facts, Limits, Rules, from_decision
from katmatic.monitoring.drift import Shift
from katmatic.monitoring.quality import Report, Scores
from katmatic.monitoring.vitals import Counts, Flow, Vitals
from katmatic.records import Decision, ModelVersion
from tests.monitoring.blocks import school


def report(model, base, rule, rows=1000):
    return Report(
        "absence", True, Scores(rows, brier=model), Scores(rows, brier=base), Scores(rows, brier=rule), (), ()
    )


def trained(action):
    return ModelVersion(predictor="absence", version=2, action=action, reason="one class only", now=0)


@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [
        ("source-silent", Facts(silent=["gate"]), Facts()),
        ("lag", Facts(vitals=Vitals(lag_seconds=61.0, waiting=9)), Facts()),
        ("model-under-baseline", Facts(reports=[report(0.3, 0.2, 0.4)]), Facts(reports=[report(0.1, 0.2, 0.4)])),
        ("drift", Facts(shifts={"absence": [Shift("rate", 0.5, 0.1, 900), Shift("day", 0.0, 0.1, 900)]}), Facts()),
        ("training-failed", Facts(models=[trained("failed")]), Facts(models=[trained("promoted")])),
    ],
)
def test_each_begins_once_and_ends_once(name, wrong, right):
    rules = Rules()
    assert rules.check(right, 1) == []
    (begun,) = rules.check(wrong, 2)
    assert (begun.name, begun.resolved, begun.now) == (name, False, 2)
    assert begun.text
    assert rules.check(wrong, 3) == []
    assert rules.open == (begun,)
    (over,) = rules.check(right, 4)
    assert (over.name, over.resolved, over.now) == (name, True, 4)
    assert rules.check(right, 5) == []
    assert rules.open == ()
    assert len(rules.check(wrong, 6)) == 1


def test_dead_letters_are_counted_since_the_last_look():
    rules = Rules()

    def look(events, dead):
        return rules.check(Facts(vitals=Vitals(Counts(), (Flow("gate", events, dead, 1),))), events)

    assert look(200, 0) == []
    assert [alert.text for alert in look(400, 50)] == ["25.0% of the events of gate cannot be read"]
    assert look(450, 50) == [], "fifty events are too few to say that it is over"
    assert [alert.resolved for alert in look(600, 50)] == [True]


def test_a_failed_training_stays_until_one_succeeds():
    rules = Rules()
    assert len(rules.check(Facts(models=[trained("failed")]), 1)) == 1
    assert rules.check(Facts(), 2) == []
    assert [alert.resolved for alert in rules.check(Facts(models=[trained("refused")]), 3)] == [True]


def test_few_events_and_few_answers_say_nothing():
    rules = Rules()
    assert rules.check(Facts(vitals=Vitals(Counts(), (Flow("gate", 50, 50, 1),))), 1) == []
    assert rules.check(Facts(reports=[report(0.3, 0.2, 0.2, rows=10)]), 2) == []


def test_lines_can_be_drawn_elsewhere():
    facts = Facts(vitals=Vitals(lag_seconds=2.0))
    assert Rules().check(facts, 1) == []
    assert len(Rules(Limits(lag_seconds=1.0)).check(facts, 1)) == 1


def test_two_sources_are_two_alerts():
    rules = Rules()
    assert len(rules.check(Facts(silent=["a", "b"]), 1)) == 2
    assert [alert.key for alert in rules.check(Facts(silent=["b"]), 2)] == [("a",)]


def test_an_action_is_told():
    taken = Decision(predictor="absence", anchor=1, key=("b", "9b"), action="warn", score=0.804, now=7)
    alert = from_decision(school(), taken)
    assert (alert.name, alert.severity, alert.text) == ("absence.warn", "info", "b, 9b: absence 80%")
    failed = Decision(predictor="absence", anchor=1, key=("b",), action="warn", score=0.8, now=7, error="KeyError")
    assert from_decision(school(), failed).severity == "warning"
