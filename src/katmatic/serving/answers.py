"""Records as JSON: moments in ISO 8601 with the app's offset, unknown as null, keys by the names of their fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from starlette.responses import Response

from katmatic import duration
from katmatic.moment import to_datetime
from katmatic.records import Alert, DeadLetter, LabelVersion, ModelVersion, Prediction, SkewReport
from katmatic.serving.base import Status
from katmatic.spec.app import App
from katmatic.spec.event import schema

PAYLOAD_BYTES_SHOWN = 4_096  # of a dead letter


def answer(body: Any, status: int = 200) -> Response:
    """`body` as a JSON answer."""
    return Response(msgspec.json.encode(body, enc_hook=str), status, media_type="application/json")


def iso(moment: int | None, zone: ZoneInfo) -> str | None:
    """The moment in ISO 8601 with the zone's offset."""
    return None if moment is None else to_datetime(moment).astimezone(zone).isoformat()


def prediction(app: App, found: Prediction, reasons: Sequence[tuple[str, float]] | None = None) -> dict[str, Any]:
    """A prediction: `probability` for a yes/no label, else `value`; null while learning."""
    predictor, zone = app.predictors[found.predictor], app.timezone
    body: dict[str, Any] = {
        "predictor": found.predictor,
        "key": dict(zip(schema(predictor.anchor).keys, found.key, strict=False)),
        "state": found.state,
        "probability" if predictor.label.is_binary else "value": found.score,
        "features": found.features,
        "version": found.version,
        "anchor": found.anchor,
        "time": iso(found.time, zone),
        "at": iso(found.at, zone),
        "now": iso(found.now, zone),
        "lead": None if found.lead is None else duration.spell(timedelta(microseconds=found.lead)),
    }
    if reasons is not None:
        body["reasons"] = [{"feature": name, "effect": effect} for name, effect in reasons]
    return body


def label(app: App, found: LabelVersion) -> dict[str, Any]:
    """A version of a label."""
    zone = app.timezone
    declared = app.labels.get(found.label)
    keys = schema(declared.anchor).keys if declared else ()
    return {
        "label": found.label,
        "key": dict(zip(keys, found.key, strict=False)),
        "anchor": found.anchor,
        "version": found.version,
        "state": found.state.name.lower(),
        "value": found.value,
        "time": iso(found.time, zone),
        "now": iso(found.now, zone),
        "evidence": iso(found.evidence, zone),
    }


def model(app: App, found: ModelVersion) -> dict[str, Any]:
    """A change of who answers."""
    return {
        "predictor": found.predictor,
        "version": found.version,
        "action": found.action,
        "reason": found.reason,
        "now": iso(found.now, app.timezone),
        "metrics": found.metrics,
        "baselines": found.baselines,
        "rows": found.rows,
    }


def alert(app: App, found: Alert) -> dict[str, Any]:
    """An alert."""
    return {**msgspec.structs.asdict(found), "now": iso(found.now, app.timezone)}


def dead(app: App, found: DeadLetter) -> dict[str, Any]:
    """A dead letter; its payload as text, at most `PAYLOAD_BYTES_SHOWN` bytes of it."""
    return {
        **msgspec.structs.asdict(found),
        "payload": found.payload[:PAYLOAD_BYTES_SHOWN].decode(errors="replace"),
        "bytes": len(found.payload),
        "now": iso(found.now, app.timezone),
    }


def status(app: App, found: Status) -> dict[str, Any]:
    """The whole pipeline."""
    zone = app.timezone
    return {
        "now": iso(found.now, zone),
        "ready": found.ready,
        "reason": found.reason,
        "events": {**asdict(found.vitals.counts), "conserved": found.vitals.counts.is_conserved},
        "topics": [{**asdict(flow), "heard": iso(flow.heard, zone)} for flow in found.vitals.flows],
        "predictions": found.vitals.predictions,
        "labels": found.vitals.labels,
        "actions": found.vitals.actions,
        "waiting": found.vitals.waiting,
        "lag_seconds": found.vitals.lag_seconds,
        "p50_seconds": found.vitals.p50_seconds,
        "p99_seconds": found.vitals.p99_seconds,
        "silent": found.silent,
        "models": {
            name: {"version": card.version, "since": iso(card.since, zone), "waiting": card.waiting}
            for name, card in found.models.items()
        },
        "quality": {
            name: {"model": asdict(r.model), "base_rate": asdict(r.base), "own_past_rate": asdict(r.rule)}
            for name, r in found.quality.items()
        },
        "firing": [alert(app, one) for one in found.firing],
        "skew": None if found.skew is None else _skew(found.skew, found.now, zone),
    }


def _skew(found: SkewReport, now: int, zone: ZoneInfo) -> dict[str, Any]:
    return {**msgspec.to_builtins(found), "now": iso(found.now, zone), "behind_seconds": found.behind(now)}
