"""Figures for Prometheus."""

from __future__ import annotations

import re
import sys

import pytest

from katmatic.metrics import Metrics
from katmatic.monitoring import gauges
from katmatic.monitoring.drift import Shift
from katmatic.records import Alert


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc, which only Linux has")
def test_the_process_has_its_standard_figures():
    found = dict(re.findall(r"^(process_\w+) (\S+)$", gauges.process(), re.M))
    assert {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"} <= set(found)
    assert 1e7 < float(found["process_resident_memory_bytes"]) < 1e11
    assert 1.6e9 < float(found["process_start_time_seconds"]) < 1e11
    assert 3 <= float(found["process_open_fds"]) <= float(found["process_max_fds"])


def test_a_column_that_has_moved_is_above_its_bound():
    metrics = Metrics()
    gauges.moved(metrics, "absence", [Shift("rate", 0.4, 0.1, 500)])
    index, bound = (metrics.value(f"drift_{name}", predictor="absence", column="rate") for name in ("index", "bound"))
    assert index > bound


def test_a_column_that_is_compared_no_more_is_shown_no_more():
    metrics = Metrics()
    gauges.moved(metrics, "absence", [Shift("rate", 0.4, 0.1, 500), Shift("score", 0.9, 0.1, 500)])
    gauges.moved(metrics, "fraud", [Shift("score", 0.3, 0.1, 500)])
    gauges.moved(metrics, "absence", [Shift("rate", 0.2, 0.1, 500)])  # a new champion: its own scores are no reference
    shown = {tuple(dict(labels).values()): value for name, labels, value in metrics.values() if name == "drift_index"}
    assert shown == {("rate", "absence"): 0.2, ("score", "fraud"): 0.3}
    gauges.moved(metrics, "fraud", [])
    assert {dict(labels)["predictor"] for _, labels, _ in metrics.values()} == {"absence"}


def test_what_goes_on_is_counted_until_it_is_over():
    metrics = Metrics()
    failed = Alert(name="training-failed", severity="warning", text="", now=0, predictor="absence")
    for alerts, expected in (([failed, failed], 2), ([], 0)):
        gauges.alerted(metrics, alerts)
        assert metrics.value("alerts_open", alert="training-failed") == expected
    assert {name for name, _, _ in metrics.values()} == {"alerts_open"}


def test_silence_ends():
    metrics = Metrics()
    for names, expected in ((["gate"], 1), ([], 0)):
        gauges.silent(metrics, ("gate", "bell"), names)
        assert metrics.value("source_silent", topic="gate") == expected
