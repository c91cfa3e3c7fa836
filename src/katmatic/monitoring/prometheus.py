"""The figures of a process in the text format of Prometheus, version 0.0.4."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from katmatic.metrics import Labels, Metrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "katmatic_"
_NAME = re.compile(r"[^a-zA-Z0-9_:]")
_LABEL = re.compile(r"[^a-zA-Z0-9_]")


def text(metrics: Metrics, help_texts: Mapping[str, str] = {}) -> str:
    """Every figure of `metrics`; `help_texts` says what a name (without the prefix) means.

    Names end in `_total` for counters; every other value is a gauge; histograms are in seconds, with cumulative
    buckets. A name or label that Prometheus does not take has its odd characters replaced by `_`.

    >>> metrics = Metrics()
    >>> metrics.add("events_total", 3, topic='the "gate"')
    >>> print(text(metrics, {"events_total": "Records that came in."}), end="")
    # HELP katmatic_events_total Records that came in.
    # TYPE katmatic_events_total counter
    katmatic_events_total{topic="the \\"gate\\""} 3
    """
    lines: list[str] = []
    named = ""
    for name, labels, value in metrics.values():
        if name != named:
            kind = "counter" if name.endswith("_total") else "gauge"
            lines += _head(name, kind, help_texts)
            named = name
        lines.append(_sample(_full(name), labels, value))
    named = ""
    for name, labels, histogram in metrics.histograms():
        if name != named:
            lines += _head(name, "histogram", help_texts)
            named = name
        counts, total = list(histogram.counts), 0
        for bound, count in zip((*histogram.bounds, math.inf), counts, strict=True):
            total += count
            lines.append(_sample(f"{_full(name)}_bucket", (*labels, ("le", _number(bound))), total))
        lines.append(_sample(f"{_full(name)}_sum", labels, histogram.sum))
        lines.append(_sample(f"{_full(name)}_count", labels, total))
    return "".join(f"{line}\n" for line in lines)


def _head(name: str, kind: str, help_texts: Mapping[str, str]) -> list[str]:
    meaning = help_texts.get(name.removeprefix(PREFIX))
    escaped = meaning.replace("\\", "\\\\").replace("\n", "\\n") if meaning else None
    help_line = [f"# HELP {_full(name)} {escaped}"] if escaped else []
    return [*help_line, f"# TYPE {_full(name)} {kind}"]


def _full(name: str) -> str:
    return PREFIX + _NAME.sub("_", name.removeprefix(PREFIX))


def _sample(name: str, labels: Labels | Iterable[tuple[str, str]], value: float) -> str:
    inside = ",".join(f'{_label(key)}="{_escape(found)}"' for key, found in labels)
    return f"{name}{{{inside}}} {_number(value)}" if inside else f"{name} {_number(value)}"


def _label(name: str) -> str:
    found = _LABEL.sub("_", name)
    return f"_{found}" if found[:1].isdigit() else found


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if math.isnan(value):
        return "NaN"
    return str(int(value)) if float(value).is_integer() and abs(value) < 2**53 else repr(float(value))
