"""Figures of models, drift and the process, as gauges for Prometheus. No label holds a key of an event."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from katmatic.metrics import Metrics
from katmatic.monitoring.alerts import SEVERITIES
from katmatic.monitoring.drift import Shift
from katmatic.monitoring.quality import Report
from katmatic.records import Alert, SkewReport

METRICS = ("auc", "brier", "log_loss", "accuracy", "rmse", "mae")
PROCESS = {
    "process_cpu_seconds_total": "User and system time of the processors, in seconds.",
    "process_max_fds": "How many file descriptors may be open.",
    "process_open_fds": "How many file descriptors are open.",
    "process_resident_memory_bytes": "Memory in use, in bytes.",
    "process_start_time_seconds": "When the process started, in seconds since 1970.",
    "process_virtual_memory_bytes": "Memory that is addressed, in bytes.",
}


def judged(metrics: Metrics, report: Report) -> None:
    """How good a predictor's live answers are, beside both baselines."""
    name = report.predictor
    metrics.set("model_judged_rows", report.model.rows, predictor=name)
    for who, scores in (("model", report.model), ("base_rate", report.base), ("own_past_rate", report.rule)):
        known = {metric: value for metric in METRICS if (value := getattr(scores, metric)) is not None}
        metrics.renew("model_quality", "metric", known, predictor=name, who=who)


def answers(metrics: Metrics, predictor: str, version: int, since: int | None) -> None:
    """Which version answers, and from which moment on."""
    metrics.set("model_version", version, predictor=predictor)
    if since is not None:
        metrics.set("model_promoted_timestamp_seconds", since / 1e6, predictor=predictor)


def moved(metrics: Metrics, predictor: str, shifts: Iterable[Shift]) -> None:
    """How far each column has moved, and how far is too far; of a column that is not compared now, nothing."""
    shifts = tuple(shifts)
    metrics.renew("drift_index", "column", {shift.name: shift.index for shift in shifts}, predictor=predictor)
    metrics.renew("drift_bound", "column", {shift.name: shift.bound for shift in shifts}, predictor=predictor)


def alerted(metrics: Metrics, alerts: Iterable[Alert]) -> None:
    """How many alerts of each rule go on."""
    names = [alert.name for alert in alerts]
    for rule in SEVERITIES:
        metrics.set("alerts_open", names.count(rule), alert=rule)


def silent(metrics: Metrics, topics: Sequence[str], names: Iterable[str]) -> None:
    """Which of the `topics` are silent."""
    quiet = set(names)
    for topic in topics:
        metrics.set("source_silent", float(topic in quiet), topic=topic)


def proved(metrics: Metrics, report: SkewReport) -> None:
    """What the proof of the served features has come to."""
    for skew in report.skews:
        metrics.set("skew_proved_total", skew.rows, predictor=skew.predictor)
        metrics.set("skew_mismatches_total", skew.mismatches, predictor=skew.predictor)
        metrics.set("skew_unprovable_total", skew.unprovable, predictor=skew.predictor)
        metrics.set("skew_skipped_total", skew.skipped, predictor=skew.predictor)
    metrics.set("skew_lag_seconds", report.lag_seconds)
    metrics.set("skew_cpu_share", report.cpu_seconds / report.seconds if report.seconds else 0.0)


def process() -> str:
    """The standard figures of a process, named as Prometheus' client libraries do; what is unknown is left out."""
    found: dict[str, tuple[str, float]] = {}  # name -> kind and value
    with contextlib.suppress(ImportError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        found["process_cpu_seconds_total"] = ("counter", used.ru_utime + used.ru_stime)
        found["process_max_fds"] = ("gauge", resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    if sys.platform == "linux":
        with contextlib.suppress(OSError, ValueError, IndexError):
            pages = Path("/proc/self/statm").read_text("ascii").split()
            size = os.sysconf("SC_PAGE_SIZE")
            found["process_virtual_memory_bytes"] = ("gauge", int(pages[0]) * size)
            found["process_resident_memory_bytes"] = ("gauge", int(pages[1]) * size)
            found["process_open_fds"] = ("gauge", sum(1 for _ in Path("/proc/self/fd").iterdir()))
            started = float(Path("/proc/self/stat").read_text("utf-8").rpartition(")")[2].split()[19])
            booted = next(
                line for line in Path("/proc/stat").read_text("ascii").splitlines() if line.startswith("btime")
            )
            found["process_start_time_seconds"] = (
                "gauge",
                int(booted.split()[1]) + started / os.sysconf("SC_CLK_TCK"),
            )
    return "".join(
        f"# HELP {name} {PROCESS[name]}\n# TYPE {name} {kind}\n{name} {value:.17g}\n"
        for name, (kind, value) in found.items()
    )
