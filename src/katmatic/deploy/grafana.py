"""A dashboard of Grafana for any pipeline, and the files by which Grafana finds it and its Prometheus."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

DASHBOARD = "katmatic.json"
PROMETHEUS = "katmatic-prometheus"  # the identity of the data source
FOLDER = "/etc/katmatic"  # of the dashboard, where Grafana runs
WIDTH, HEIGHT = 8, 8  # of a panel; a row of the dashboard has three
_ME = '{job=~"$job"}'


@dataclass(frozen=True)
class Panel:
    """A picture: its title, and what each of its lines asks and is called."""

    title: str
    unit: str
    asked: tuple[tuple[str, str], ...]
    what: str = ""


def _quantile(q: float, histogram: str, *by: str) -> str:
    labels = ", ".join(("le", *by))
    return f"histogram_quantile({q}, sum by ({labels}) (rate({histogram}_bucket{_ME}[$__rate_interval])))"


ROWS: dict[str, tuple[Panel, ...]] = {
    "Events": (
        Panel(
            "Events a second",
            "ops",
            ((f"sum by (topic) (rate(katmatic_events_total{_ME}[$__rate_interval]))", "{{topic}}"),),
        ),
        Panel(
            "What became of them",
            "ops",
            ((f"sum by (outcome) (rate(katmatic_event_outcomes_total{_ME}[$__rate_interval]))", "{{outcome}}"),),
            "Events in = applied + duplicate + late + dead, always.",
        ),
        Panel(
            "Lag, and what waits",
            "short",
            (
                (f"max by (job) (katmatic_lag_seconds{_ME})", "lag in seconds"),
                (f"max by (job) (katmatic_waiting_events{_ME})", "events waiting"),
            ),
        ),
    ),
    "Predictions": (
        Panel(
            "From an event to its logged prediction",
            "s",
            tuple(
                (_quantile(q, "katmatic_answer_seconds"), name)
                for q, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
            ),
        ),
        Panel(
            "Predictions and versions of labels a second",
            "ops",
            (
                (f"sum by (predictor) (rate(katmatic_predictions_total{_ME}[$__rate_interval]))", "{{predictor}}"),
                (f"sum by (label) (rate(katmatic_labels_total{_ME}[$__rate_interval]))", "label {{label}}"),
            ),
        ),
        Panel(
            "From a request to its answer, p99",
            "s",
            ((_quantile(0.99, "katmatic_http_request_seconds", "route"), "{{route}}"),),
        ),
    ),
    "Models": (
        Panel(
            "How good the newest answers are, beside two simple rules",
            "short",
            ((f"max by (predictor, metric, who) (katmatic_model_quality{_ME})", "{{predictor}} {{metric}}: {{who}}"),),
        ),
        Panel(
            "Drift, and the bound above which it counts",
            "short",
            (
                (f"max by (predictor, column) (katmatic_drift_index{_ME})", "{{predictor}} {{column}}"),
                (f"max by (predictor) (katmatic_drift_bound{_ME})", "{{predictor}}: bound"),
            ),
        ),
        Panel(
            "The version that answers, and rows it is judged by",
            "short",
            (
                (f"max by (predictor) (katmatic_model_version{_ME})", "{{predictor}}: version"),
                (f"max by (predictor) (katmatic_model_judged_rows{_ME})", "{{predictor}}: rows"),
            ),
        ),
    ),
    "Sources and alerts": (
        Panel(
            "Since a source was heard",
            "s",
            ((f"time() - max by (topic) (katmatic_heard_timestamp_seconds{_ME} > 0)", "{{topic}}"),),
        ),
        Panel(
            "Sources whose silence holds labels",
            "short",
            ((f"max by (topic) (katmatic_source_silent{_ME})", "{{topic}}"),),
        ),
        Panel(
            "Alerts, failed actions, errors of the application's functions",
            "short",
            (
                (f"sum by (alert) (increase(katmatic_alerts_total{_ME}[1h]))", "{{alert}}"),
                (
                    'sum by (predictor) (increase(katmatic_actions_total{job=~"$job",result="error"}[1h]))',
                    "action on {{predictor}}",
                ),
                (f"sum by (where) (increase(katmatic_user_errors_total{_ME}[1h]))", "{{where}}"),
            ),
        ),
    ),
    "Process": (
        Panel(
            "Processors in use",
            "short",
            ((f"rate(process_cpu_seconds_total{_ME}[$__rate_interval])", "{{job}} {{instance}}"),),
        ),
        Panel("Memory", "bytes", ((f"process_resident_memory_bytes{_ME}", "{{job}} {{instance}}"),)),
        Panel(
            "Requests a second",
            "reqps",
            ((f"sum by (status) (rate(katmatic_http_requests_total{_ME}[$__rate_interval]))", "{{status}}"),),
        ),
    ),
}

_SOURCE = """\
apiVersion: 1
datasources:
  - name: Prometheus
    uid: {uid}
    type: prometheus
    access: proxy
    url: {url}
    isDefault: true
    jsonData: {{timeInterval: 15s}}
"""
_PROVIDER = """\
apiVersion: 1
providers:
  - name: katmatic
    type: file
    options: {{path: {folder}}}
"""


def files(prometheus: str) -> dict[str, str]:
    """The files by name. `prometheus`: its address, as Grafana sees it."""
    return {
        DASHBOARD: json.dumps(_dashboard(), indent=1, ensure_ascii=False) + "\n",
        "provisioning/datasources/katmatic.yaml": _SOURCE.format(uid=PROMETHEUS, url=prometheus),
        "provisioning/dashboards/katmatic.yaml": _PROVIDER.format(folder=FOLDER),
    }


def _dashboard() -> dict[str, Any]:
    shown: list[dict[str, Any]] = []
    for name, panels in ROWS.items():
        y = len(shown) // (len(panels) + 1) * (HEIGHT + 1)
        shown.append(
            {
                "id": len(shown) + 1,
                "type": "row",
                "title": name,
                "collapsed": False,
                "panels": [],
                "gridPos": {"x": 0, "y": y, "w": 3 * WIDTH, "h": 1},
            }
        )
        for at, panel in enumerate(panels):
            place = {"x": at * WIDTH, "y": y + 1, "w": WIDTH, "h": HEIGHT}
            shown.append(_panel(len(shown) + 1, panel, place))
    return {
        "uid": "katmatic",
        "title": "Katmatic",
        "tags": ["katmatic"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_jobs()]},
        "annotations": {"list": [_promotions()]},
        "panels": shown,
    }


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": PROMETHEUS}
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.what,
        "gridPos": place,
        "datasource": source,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + at), "datasource": source, "expr": expr, "legendFormat": name}
            for at, (expr, name) in enumerate(panel.asked)
        ],
    }


def _jobs() -> dict[str, Any]:
    """The choice of pipelines, at the top of the dashboard."""
    return {
        "name": "job",
        "label": "pipeline",
        "type": "query",
        "datasource": {"type": "prometheus", "uid": PROMETHEUS},
        "query": {"query": "label_values(katmatic_events_total, job)", "refId": "jobs"},
        "refresh": 2,
        "sort": 1,
        "multi": False,
        "includeAll": True,
        "allValue": ".+",
        "current": {"text": "All", "value": "$__all"},
    }


def _promotions() -> dict[str, Any]:
    """A line across every picture where another version began to answer."""
    return {
        "name": "promotions",
        "enable": True,
        "iconColor": "purple",
        "datasource": {"type": "prometheus", "uid": PROMETHEUS},
        "expr": f"changes(katmatic_model_promoted_timestamp_seconds{_ME}[1m]) > 0",
        "titleFormat": "another version of {{predictor}}",
        "step": "30s",
    }
