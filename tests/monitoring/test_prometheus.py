"""Figures as text: a strict reader of our own agrees, and promtool where there is one."""

from __future__ import annotations

import math
import re
import shutil
import subprocess

import pytest

from katmatic.metrics import Metrics
from katmatic.monitoring.prometheus import text
from katmatic.monitoring.vitals import HELP, Pulse

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"(,|$)')
SAMPLE = re.compile(rf"({NAME})(?:\{{(.*)\}})? (\S+)")


def read(exposed):
    """Samples by name and labels; every rule of the format that we rely on is checked."""
    assert exposed.endswith("\n")
    kinds, samples, closed, current = {}, {}, set(), None
    for line in exposed.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in kinds, f"{name} is declared twice"
            assert kind in ("counter", "gauge", "histogram")
            kinds[name], current = kind, name
            continue
        if line.startswith("# HELP "):
            assert re.fullmatch(rf"# HELP {NAME} [^\n]+", line)
            continue
        found = SAMPLE.fullmatch(line)
        assert found, line
        name, inside, value = found.groups()
        family = re.sub("_(bucket|sum|count)$", "", name) if kinds.get(current) == "histogram" else name
        assert family == current, f"{name} does not stand below its type"
        assert family not in closed
        labels, rest = [], inside or ""
        while rest:
            part = LABEL.match(rest)
            assert part, rest
            labels.append((part[1], part[2].replace(r"\n", "\n").replace(r"\"", '"').replace(r"\\", "\\")))
            rest = rest[part.end() :]
        assert len(dict(labels)) == len(labels)
        key = (name, tuple(labels))
        assert key not in samples
        samples[key] = float(value)
    for name, kind in kinds.items():
        if kind == "counter":
            assert name.endswith("_total")
        if kind == "histogram":
            check_histogram(name, samples)
    return samples


def check_histogram(name, samples):
    groups = {}
    for (found, labels), value in samples.items():
        if found == f"{name}_bucket":
            others = tuple(label for label in labels if label[0] != "le")
            groups.setdefault(others, []).append((float(dict(labels)["le"]), value))
    assert groups
    for others, buckets in groups.items():
        bounds, counts = zip(*buckets, strict=True)
        assert list(bounds) == sorted(bounds)
        assert bounds[-1] == math.inf
        assert list(counts) == sorted(counts), "buckets are cumulative"
        assert counts[-1] == samples[f"{name}_count", others]
        assert (f"{name}_sum", others) in samples


@pytest.fixture
def metrics():
    metrics = Metrics()
    pulse = Pulse(metrics, ("gate",))
    pulse.counted({"events": 5, "applied": 3, "duplicate": 1, "dead": 1})
    pulse.heard("gate", 5, 1_745_222_520_000_000, dead=1)
    pulse.heard('a "gate"\\with\nall', 1, 7)
    pulse.predicted("absence", 3)
    pulse.labelled("absence", 2)
    pulse.acted("absence")
    pulse.acted("absence", failed=True)
    pulse.alerted("lag", "warning")
    pulse.raised("where")
    pulse.waits(3, 0.25)
    pulse.answered(0.0012, 2)
    pulse.answered(1e9)
    return metrics


def test_it_can_be_read(metrics):
    samples = read(text(metrics, HELP))
    assert samples["katmatic_event_outcomes_total", (("outcome", "applied"),)] == 3
    assert samples["katmatic_events_total", (("topic", 'a "gate"\\with\nall'),)] == 1
    assert samples["katmatic_answer_seconds_count", ()] == 3
    assert samples["katmatic_answer_seconds_bucket", (("le", "0.0018"),)] == 2
    assert samples["katmatic_heard_timestamp_seconds", (("topic", "gate"),)] == 1_745_222_520


def test_it_has_no_nothing():
    assert text(Metrics()) == ""


def test_odd_names_and_values():
    metrics = Metrics()
    metrics.set("katmatic_a-b.c", math.inf)
    metrics.set("huge", 2.0**60)
    metrics.set("tiny", 1e-9, **{"9lives": "x", "a-b": "y"})
    exposed = text(metrics, {"huge": "first\nsecond \\ third"})
    samples = read(exposed)
    assert samples["katmatic_a_b_c", ()] == math.inf
    assert samples["katmatic_huge", ()] == 2.0**60
    assert samples["katmatic_tiny", (("_9lives", "x"), ("a_b", "y"))] == 1e-9
    assert r"first\nsecond \\ third" in exposed


def test_every_figure_has_its_meaning(metrics):
    named = {name for name, _, _ in metrics.values()} | {name for name, _, _ in metrics.histograms()}
    assert named <= set(HELP)


def test_promtool_agrees(metrics):
    if (promtool := shutil.which("promtool")) is None:
        return  # the reader above is as strict
    found = subprocess.run(
        [promtool, "check", "metrics"], input=text(metrics, HELP), capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
