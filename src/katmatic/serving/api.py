"""The HTTP interface of a running pipeline: events in; predictions, models, alerts and figures out; and the pages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from importlib import metadata
from typing import Any
from urllib.parse import unquote

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from katmatic.clock import monotonic_seconds
from katmatic.errors import InputError, KatmaticError
from katmatic.metrics import Metrics
from katmatic.monitoring import prometheus
from katmatic.monitoring.gauges import process
from katmatic.monitoring.vitals import HELP
from katmatic.predictions.rank import asked_keys, ranked_key
from katmatic.serving import answers, body, hook, stream
from katmatic.serving.access import Access
from katmatic.serving.answers import answer
from katmatic.serving.base import KINDS, Pipeline, QueueFull, Subscription
from katmatic.serving.openapi import describe
from katmatic.serving.pages.views import Pages
from katmatic.serving.problem import Refused, on_error
from katmatic.spec.app import Predictor
from katmatic.spec.event import Event, Field, Role, schema

ANCHORS_LIMIT = 10_000  # asked about in one request
ROWS_DEFAULT = 100  # of alerts and dead letters
ROWS_LIMIT = 1_000


def make_api(
    pipeline: Pipeline,
    *,
    token: str | None = None,
    hosts: Iterable[str] = (),
    names: Callable[[str], str | None] | None = None,
) -> Starlette:
    """The web application of `pipeline`.

    With a `token` every request must bring it, but for /healthz and signing in; without one only requests that name
    this machine (or one of `hosts`) are answered. `names` gives the pages a name to show for a first key.
    """
    api = _Api(pipeline)
    pages = Pages(pipeline, token=token, names=names)
    routes = [
        Route("/v1/events/{topic}", api.take_in, methods=["POST"]),
        Route("/v1/predictions/{predictor}/{key:path}", api.latest, methods=["GET"]),
        Route("/v1/predict/{predictor}", api.predict, methods=["POST"]),
        Route("/v1/models/{predictor}", api.models, methods=["GET"]),
        Route("/v1/models/{predictor}/rollback", api.rollback, methods=["POST"]),
        Route("/v1/hooks/alertmanager", api.alertmanager, methods=["POST"]),
        Route("/v1/alerts", api.alerts, methods=["GET"]),
        Route("/v1/dead", api.dead, methods=["GET"]),
        Route("/v1/status", api.status, methods=["GET"]),
        Route("/v1/stream", api.stream, methods=["GET"]),
        Route("/healthz", api.healthz, methods=["GET"]),
        Route("/readyz", api.readyz, methods=["GET"]),
        Route("/metrics", api.figures, methods=["GET"]),
        Route("/openapi.json", api.openapi, methods=["GET"]),
        Route("/", pages.today, methods=["GET"]),
        Route("/alerts", pages.alerts, methods=["GET"]),
        Route("/trends", pages.trends, methods=["GET"]),
        Route("/pipeline", pages.pipeline, methods=["GET"]),
        Route("/pipeline/rollback", pages.rollback, methods=["POST"]),
        Route("/fragments/{view}", pages.fragment, methods=["GET"]),
        Route("/docs", pages.docs, methods=["GET"]),
        Route("/login", pages.login, methods=["GET", "POST"]),
        Route("/logout", pages.logout, methods=["POST"]),
        Route("/static/{name}", pages.static, methods=["GET"]),
    ]
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(Access, token=token, metrics=pipeline.metrics, hosts=tuple(hosts)),
            Middleware(_Measured, metrics=pipeline.metrics, routes=routes),
        ],
        exception_handlers={KatmaticError: on_error, HTTPException: on_error, Exception: on_error},
    )


class _Api:
    """The routes that programs call."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline, self._app = pipeline, pipeline.app
        self._topics = {schema(event).topic for event in self._app.events}
        self._described = msgspec.json.encode(describe(self._app, version=_version()))

    async def take_in(self, request: Request) -> Response:
        topic = request.path_params["topic"]
        if topic not in self._topics:
            raise Refused(404, "topic", found=topic, expected=" or ".join(sorted(self._topics)), do="name one of these")
        values = body.split(await body.read(request), request.headers.get("content-type", ""))
        positions = await asyncio.wrap_future(self._pipeline.submit(topic, values))
        known = {"first": positions.start} if positions.start >= 0 else {}  # of a copy, the owner gives the positions
        return answer({"accepted": len(positions), **known}, 202)

    async def latest(self, request: Request) -> Response:
        predictor = self._predictor(request)
        key = self._key(predictor, request)
        found = self._pipeline.latest(predictor.name, key)
        if found is None:
            raise Refused(
                404,
                f"{predictor.name}/{','.join(key)}",
                found="no prediction",
                expected="a key that was predicted about",
                do=f"send a {schema(predictor.anchor).name} event of it first",
            )
        reasons: list[tuple[str, float]] = []
        if found.score is not None and request.query_params.get("reasons") != "0":
            reasons = await run_in_threadpool(self._pipeline.reasons, predictor.name, found.key)
        return answer(answers.prediction(self._app, found, reasons))

    async def predict(self, request: Request) -> Response:
        predictor = self._predictor(request)
        asked = _decode(await body.read(request))
        many = asked if isinstance(asked, list) else [asked]
        if len(many) > ANCHORS_LIMIT:
            raise Refused(
                413, "body", found=f"{len(many)} anchors", expected=f"at most {ANCHORS_LIMIT}", do="ask fewer"
            )
        time = schema(predictor.anchor).time
        is_timed = all(isinstance(one, dict) and time in one for one in many)
        now = None if is_timed else answers.iso(self._pipeline.status().now, self._app.timezone)
        prefix = "$[{}]" if isinstance(asked, list) else "$"
        is_ranking = predictor.rank is not None and isinstance(asked, dict) and ranked_key(predictor) not in asked
        may_miss = set(schema(predictor.anchor).keys) - set(asked_keys(predictor)) if is_ranking else set()
        anchors = [anchor(predictor.anchor, one, prefix.format(i), now or "", may_miss) for i, one in enumerate(many)]
        found = await run_in_threadpool(self._pipeline.predict, predictor.name, anchors)
        bodies = [answers.prediction(self._app, one) for one in found]
        return answer(bodies if isinstance(asked, list) or is_ranking else bodies[0])

    async def models(self, request: Request) -> Response:
        predictor = self._predictor(request)
        found = await run_in_threadpool(self._pipeline.models, predictor.name)
        return answer([answers.model(self._app, one) for one in found])

    async def rollback(self, request: Request) -> Response:
        predictor = self._predictor(request)
        given = await body.read(request)
        asked = _decode(given) if given.strip() else {}
        version = asked.get("version") if isinstance(asked, dict) else asked
        if version is not None and (type(version) is not int or version < 1):
            raise InputError(
                "$.version", found=repr(version), expected="a version, from 1 on", do="see GET /v1/models/{predictor}"
            )
        change = await run_in_threadpool(self._pipeline.rollback, predictor.name, version)
        return answer(answers.model(self._app, change))

    async def alertmanager(self, request: Request) -> Response:
        told = hook.read(await body.read(request))
        reviewed, passed_over = dict[str, None](), list[dict[str, str]]()
        for alert in told.alerts:
            predictor, name = alert.labels.get("predictor", ""), alert.labels.get("alertname", "")
            if not alert.is_firing or predictor in reviewed:
                continue
            why_not = self._pipeline.review(predictor, f"the alert {name}") if predictor else "it names no predictor"
            if why_not:
                passed_over.append({"alert": name, "why": why_not})
            else:
                reviewed[predictor] = None
        return answer({"reviewed": list(reviewed), "passed_over": passed_over})

    async def alerts(self, request: Request) -> Response:
        found = await run_in_threadpool(self._pipeline.alerts, _limit(request))
        return answer([answers.alert(self._app, one) for one in found])

    async def dead(self, request: Request) -> Response:
        found = await run_in_threadpool(self._pipeline.dead, _limit(request))
        return answer([answers.dead(self._app, one) for one in found])

    async def status(self, request: Request) -> Response:
        return answer(answers.status(self._app, self._pipeline.status()))

    async def stream(self, request: Request) -> Response:
        kinds = tuple(kind for kind in request.query_params.get("kinds", "").split(",") if kind) or KINDS
        if wrong := [kind for kind in kinds if kind not in KINDS]:
            raise Refused(400, "kinds", found=wrong[0], expected=" or ".join(KINDS), do="name some of these")
        try:
            subscription = self._pipeline.subscribe()
        except stream.TooManyListeners as error:
            raise QueueFull(
                "stream",
                found=f"{stream.CLIENTS_LIMIT} listeners",
                expected="fewer",
                retry_seconds=int(stream.HEARTBEAT_SECONDS),
            ) from error
        is_digest = request.query_params.get("digest") == "1"
        return _Live(subscription, stream.digests(subscription) if is_digest else stream.events(subscription, kinds))

    async def healthz(self, request: Request) -> Response:
        return answer({"status": "alive"})

    async def readyz(self, request: Request) -> Response:
        is_ready = self._pipeline.status().ready  # why not is in /v1/status: this may be asked without a token
        return answer({"ready": is_ready}, 200 if is_ready else 503)

    async def figures(self, request: Request) -> Response:
        self._pipeline.metrics.set("ready", self._pipeline.status().ready)
        text = prometheus.text(self._pipeline.metrics, HELP) + process()
        return Response(text, headers={"Content-Type": prometheus.CONTENT_TYPE})

    async def openapi(self, request: Request) -> Response:
        return Response(self._described, media_type="application/json")

    def _predictor(self, request: Request) -> Predictor:
        name = request.path_params["predictor"]
        if name not in self._app.predictors:
            raise Refused(
                404,
                "predictor",
                found=name,
                expected=" or ".join(self._app.predictors) or "none: the app predicts nothing",
                do="name one of these",
            )
        return self._app.predictors[name]

    def _key(self, predictor: Predictor, request: Request) -> tuple[str, ...]:
        """The keys in the path, before their escapes are undone: a comma inside of one is written %2C."""
        raw = request.scope.get("raw_path", b"").split(b"?")[0].decode("latin-1")
        written = raw.split("/", 4)[4] if raw.count("/") >= 4 else request.path_params["key"]
        key = tuple(unquote(part) for part in written.split(","))
        keys = schema(predictor.anchor).keys
        if len(key) not in (1, len(keys)) or not all(key):
            raise Refused(
                404,
                "key",
                found=f"{len(key)} parts" if all(key) else "an empty part",
                expected=f"{','.join(keys)}, or the first alone",
                do="give every key of the anchor, with commas between them",
            )
        return key


KINDS_OF = {str: "a text", float: "a number", int: "a whole number", bool: "true or false"}


def anchor(
    event: type[Event], given: Any, where: str, now: str, may_miss: Collection[str] = frozenset()
) -> dict[str, Any]:
    """The anchor event that `given` describes, its time `now` if it was left out; refused with its path if wrong."""
    found = schema(event)
    if not isinstance(given, dict):
        raise InputError(where, found=_spelt(given), expected=f"an object: a {found.name}", do="send an object")
    for field in found.fields:
        place = f"{where}.{field.name}"
        if field.name not in given:
            if field.default is ... and field.role is not Role.TIME and field.name not in may_miss:
                raise InputError(place, found="nothing", expected=_wanted(field), do="give it")
        elif not _fits(field, given[field.name]):
            raise InputError(place, found=_spelt(given[field.name]), expected=_wanted(field), do="correct it")
    return {found.time: now, **given}


def _fits(field: Field, value: Any) -> bool:
    if value is None:
        return field.optional
    if field.role is Role.TIME:
        return type(value) in (str, int, float)
    if field.kind is float:
        return type(value) in (int, float)
    return type(value) is field.kind and (field.role not in (Role.KEY, Role.ID) or bool(value))


def _wanted(field: Field) -> str:
    if field.role is Role.TIME:
        return "a time: ISO 8601, or seconds since 1970"
    if field.role in (Role.KEY, Role.ID):
        return "a text that is not empty"
    return KINDS_OF[field.kind] + (" or null" if field.optional else "")


def _spelt(value: Any) -> str:
    text = msgspec.json.encode(value).decode(errors="replace")
    return text if len(text) <= 80 else text[:77] + "..."


def _decode(given: bytes) -> Any:
    try:
        return msgspec.json.decode(given)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(
            400, "body", found=str(error), expected="JSON", do="send an object, or an array of them"
        ) from error


def _limit(request: Request) -> int:
    given = request.query_params.get("limit", str(ROWS_DEFAULT))
    if not given.isdecimal() or not 1 <= int(given[:9]) <= ROWS_LIMIT:
        raise Refused(400, "limit", found=given[:20], expected=f"a number from 1 to {ROWS_LIMIT}", do="correct it")
    return int(given)


class _Live(StreamingResponse):
    """Server-sent events; whatever ends the answer ends the subscription."""

    def __init__(self, subscription: Subscription, content: AsyncIterator[bytes]) -> None:
        super().__init__(content, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self._subscription = subscription

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._subscription.close()


class _Measured:
    """ASGI middleware that counts requests and their seconds by the template of their route."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, routes: Iterable[Route]) -> None:
        self._app, self._metrics = app, metrics
        self._paths = {route.endpoint: route.path for route in routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = monotonic_seconds(), 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            route = self._paths.get(scope["endpoint"], "unknown") if "endpoint" in scope else "unknown"
            self._metrics.add("http_requests_total", route=route, status=str(status))
            if route != "/v1/stream":
                self._metrics.observe("http_request_seconds", monotonic_seconds() - started, route=route)


def _version() -> str:
    try:
        return metadata.version("katmatic")
    except metadata.PackageNotFoundError:
        return "0"
