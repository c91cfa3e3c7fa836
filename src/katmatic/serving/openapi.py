"""What the HTTP interface is, in OpenAPI 3.1, derived from the application: its events, its predictors."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from katmatic.predictions.rank import asked_keys
from katmatic.serving import body
from katmatic.spec.app import App, Predictor
from katmatic.spec.event import Event, Field, Role, schema
from katmatic.spec.feature import given

KINDS = {str: "string", float: "number", int: "integer", bool: "boolean"}
PROBLEM = {"$ref": "#/components/responses/Problem"}


def describe(app: App, *, version: str) -> dict[str, Any]:
    """The whole description, as JSON."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{app.name}: Katmatic",
            "version": version,
            "description": f"Events in, predictions out. A time without an offset is in {app.timezone}.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {**_events(app), **_predictors(app), **_rest()},
        "components": {
            "schemas": {
                **{schema(event).name: event_schema(event) for event in app.events},
                **{f"{p.name}.prediction": prediction_schema(p) for p in app.predictors.values()},
                "Problem": _problem(),
                "ModelVersion": _object(
                    predictor=_STRING,
                    version=_INTEGER,
                    action={"enum": ["trained", "promoted", "refused", "rolled-back", "failed"]},
                    reason=_STRING,
                    now=_MOMENT,
                    metrics=_NUMBERS,
                    baselines=_NUMBERS,
                    rows=_INTEGER,
                ),
                "Alert": _object(
                    name=_STRING,
                    severity={"enum": ["info", "warning", "critical"]},
                    text=_STRING,
                    now=_MOMENT,
                    key={"type": "array", "items": _STRING},
                    predictor=_or_null(_STRING),
                    score=_or_null(_NUMBER),
                    resolved={"type": "boolean"},
                ),
                "DeadLetter": _object(
                    topic=_STRING,
                    position=_INTEGER,
                    payload=_STRING,
                    where=_STRING,
                    found=_STRING,
                    expected=_STRING,
                    do=_STRING,
                    now=_MOMENT,
                ),
            },
            "responses": {
                "Problem": {
                    "description": "What is wrong, by RFC 9457, in four parts",
                    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
                }
            },
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def event_schema(event: type[Event]) -> dict[str, Any]:
    """What an event may look like, as JSON Schema."""
    found = schema(event)
    return {
        "type": "object",
        "description": (event.__doc__ or found.name).strip(),
        "properties": {field.name: _field(field) for field in found.fields},
        "required": [field.name for field in found.fields if field.default is ...],
    }


def _field(field: Field) -> dict[str, Any]:
    if field.role is Role.TIME:
        return {
            "description": "ISO 8601, with or without offset, or seconds or milliseconds since 1970",
            "type": ["string", "number"],
            "examples": ["2025-04-21 08:02:00"],
        }
    kind: dict[str, Any] = {"type": KINDS[field.kind]}
    if field.role in (Role.KEY, Role.ID):
        kind |= {"minLength": 1, "description": "who it is about" if field.role is Role.KEY else "its identity"}
    if field.optional:
        kind["type"] = [kind["type"], "null"]
    return kind if field.default is ... or isinstance(field.default, datetime) else {**kind, "default": field.default}


def prediction_schema(predictor: Predictor) -> dict[str, Any]:
    """What a prediction looks like, as JSON Schema."""
    is_binary = predictor.label.is_binary
    answer = "probability" if is_binary else "value"
    limits = {"minimum": 0, "maximum": 1} if is_binary else {}
    features = {
        feature.name: _or_null(_STRING if feature.is_text else _NUMBER) for feature in given(predictor.features)
    }
    return _object(
        predictor={"const": predictor.name},
        key={"type": "object", "properties": dict.fromkeys(schema(predictor.anchor).keys, _STRING)},
        state={"enum": ["ok", "learning", "error"]},
        **{answer: {"type": ["number", "null"], **limits}},
        features={"type": "object", "properties": features},
        reasons={"type": "array", "items": _object(feature=_STRING, effect=_NUMBER)},
        version={**_INTEGER, "description": "of the model; 0 before the first"},
        time=_MOMENT,
        at={**_MOMENT, "description": "the moment that it is about"},
        now={**_MOMENT, "description": "the moment when it was made"},
    )


def _events(app: App) -> dict[str, Any]:
    return {f"/v1/events/{schema(event).topic}": {"post": _take_in(event)} for event in app.events}


def _take_in(event: type[Event]) -> dict[str, Any]:
    one = {"$ref": f"#/components/schemas/{schema(event).name}"}
    return {
        "operationId": f"post_{schema(event).name}",
        "tags": ["events"],
        "summary": f"Send {schema(event).name} events: one, an array, or one a line (NDJSON); gzip if you like",
        "description": "Answers when they are durable. One that cannot be read is taken in too, and becomes a dead "
        f"letter with its reason. At most {body.BODY_BYTES_LIMIT} bytes, {body.EVENTS_LIMIT} events.",
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"oneOf": [one, {"type": "array", "items": one}]}},
                "application/x-ndjson": {"schema": {"type": "string"}},
            },
        },
        "responses": {
            "202": _json("Durable", _object(accepted=_INTEGER, first=_INTEGER)),
            **_problems(400, 404, 413, 415, 503),
        },
    }


def _predictors(app: App) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for predictor in app.predictors.values():
        answer = {"$ref": f"#/components/schemas/{predictor.name}.prediction"}
        anchor = {"$ref": f"#/components/schemas/{schema(predictor.anchor).name}"}
        keys = ",".join(schema(predictor.anchor).keys)
        who = [_object(**dict.fromkeys(asked_keys(predictor), _STRING))] if predictor.rank else []
        found[f"/v1/predictions/{predictor.name}/{{key}}"] = {
            "parameters": [_parameter("key", f"{keys}; or the first alone")],
            "get": _get(f"The latest prediction of {predictor.name} about a key", answer, 404),
        }
        found[f"/v1/predict/{predictor.name}"] = {
            "post": {
                "operationId": f"predict_{predictor.name}",
                "tags": ["predictions"],
                "summary": f"Ask {predictor.name} now, about one anchor event or an array of them; nothing is logged",
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {"schema": {"oneOf": [anchor, {"type": "array", "items": anchor}, *who]}}
                    },
                },
                "responses": {
                    "200": _json(
                        f"The answers, {'the highest first' if predictor.rank else 'in the order asked'}",
                        {"oneOf": [answer, _list(answer)]},
                    ),
                    **_problems(400, 404, 413, 422),
                },
            }
        }
        found[f"/v1/models/{predictor.name}"] = {
            "get": _get(f"Who answers for {predictor.name}, and every change of it", _list(_ref("ModelVersion")), 404)
        }
        found[f"/v1/models/{predictor.name}/rollback"] = {
            "post": {
                "operationId": f"rollback_{predictor.name}",
                "tags": ["models"],
                "summary": "Let an earlier version answer again; without a body, the one before",
                "requestBody": {"content": {"application/json": {"schema": _object(version=_INTEGER)}}},
                "responses": {"200": _json("The change", _ref("ModelVersion")), **_problems(404, 409, 422)},
            }
        }
    return found


def _rest() -> dict[str, Any]:
    limit = {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 1000}}
    return {
        "/v1/hooks/alertmanager": {
            "post": {
                "operationId": "alertmanager",
                "tags": ["models"],
                "summary": "For Alertmanager: models whose alerts fire are trained again, or an earlier one answers",
                "requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}},
                "responses": {
                    "200": _json(
                        "Predictors that are reviewed, and alerts that were passed over",
                        _object(reviewed=_list(_STRING), passed_over=_list(_object(alert=_STRING, why=_STRING))),
                    ),
                    **_problems(413, 422),
                },
            }
        },
        "/v1/alerts": {"parameters": [limit], "get": _get("The newest alerts, newest first", _list(_ref("Alert")))},
        "/v1/dead": {
            "parameters": [limit],
            "get": _get("The newest events that could not be read, newest first", _list(_ref("DeadLetter"))),
        },
        "/v1/status": {"get": _get("What became of every event, how fast, by which models", {"type": "object"})},
        "/v1/stream": {
            "parameters": [
                {"name": "kinds", "in": "query", "schema": _STRING, "description": "prediction,alert,label,status"},
                {
                    "name": "digest",
                    "in": "query",
                    "schema": _STRING,
                    "description": "1: only how many came, once a second",
                },
            ],
            "get": {
                "summary": "What happens, as server-sent events",
                "tags": ["live"],
                "responses": {
                    "200": {"description": "Messages", "content": {"text/event-stream": {}}},
                    **_problems(503),
                },
            },
        },
        "/healthz": {"get": _get("Whether the process is alive", {"type": "object"})},
        "/readyz": {"get": _get("Whether it takes in events and answers", {"type": "object"}, 503)},
        "/metrics": {
            "get": {
                "summary": "Figures for Prometheus",
                "tags": ["health"],
                "responses": {"200": {"description": "Text format 0.0.4", "content": {"text/plain": {}}}},
            }
        },
    }


_STRING: dict[str, Any] = {"type": "string"}
_INTEGER: dict[str, Any] = {"type": "integer"}
_NUMBER: dict[str, Any] = {"type": "number"}
_NUMBERS: dict[str, Any] = {"type": "object", "additionalProperties": _NUMBER}
_MOMENT: dict[str, Any] = {"type": "string", "format": "date-time"}


def _or_null(kind: dict[str, Any]) -> dict[str, Any]:
    return {**kind, "type": [kind["type"], "null"]}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(description: str, found: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": found}}}


def _get(summary: str, found: dict[str, Any], *problems: int) -> dict[str, Any]:
    return {"summary": summary, "responses": {"200": _json("Found", found), **_problems(*problems)}}


def _problems(*statuses: int) -> dict[str, Any]:
    return {str(status): PROBLEM for status in (*statuses, 401)}


def _parameter(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "description": description, "schema": _STRING}


def _problem() -> dict[str, Any]:
    return _object(
        type=_STRING,
        title=_STRING,
        status=_INTEGER,
        detail=_STRING,
        where={**_STRING, "description": "where it is"},
        found=_STRING,
        expected=_STRING,
        do={**_STRING, "description": "what to do"},
    )
