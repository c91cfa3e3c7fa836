"""What each page shows: the context of its template, from what the pipeline tells."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from katmatic.monitoring.board import Group, Line, Roll, Standing, likely_from
from katmatic.monitoring.quality import Report, Scores
from katmatic.serving import answers, body
from katmatic.serving.access import COOKIE, is_same, session
from katmatic.serving.base import ModelCard, Pipeline, Status
from katmatic.serving.openapi import describe
from katmatic.serving.pages import words
from katmatic.serving.pages.charts import BROAD, Chart, chart
from katmatic.serving.problem import Refused
from katmatic.spec.app import Predictor
from katmatic.spec.event import schema

HERE = Path(__file__).parent
STATIC = {
    "katmatic.css": "text/css; charset=utf-8",
    "katmatic.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
VIEWS = ("today", "alerts", "trends", "pipeline", "banner")
LIKELY_LIMIT = 12  # most likely ones, with their reasons, above the classes
REASONS_LIMIT = 60  # rows of one page that get reasons
REASONS_SHOWN = 3
REASONS_KEPT = 5_000  # answers whose reasons are remembered
LINES_LIMIT = 400  # rows of one group on a page
ROWS_LIMIT = 50  # alerts, dead letters, newest answers on a page
TREND_DAYS = (14, 30, 90)
FRAGMENTS_KEPT = 500  # rendered parts that several browsers may be given
BEHIND_SECONDS = 60.0  # further behind, the proof of zero skew says of when it speaks
BANNER_SECONDS = 600  # for so long the newest alert stays on top of every page
LOGIN_BYTES_LIMIT = 4_096
STANDINGS = {
    Standing.EXPECTED: "expected",
    Standing.HERE: "here",
    Standing.LATE: "late",
    Standing.MISSING: "missing",
    Standing.ABSENT: "absent",
    Standing.UNKNOWN: "void",
}
ACTIONS = {
    "trained": "trained",
    "promoted": "promoted",
    "refused": "not promoted",
    "rolled-back": "rolled back",
    "failed": "could not be trained",
}


@dataclass(frozen=True)
class Reason:
    """One feature of an answer: its value, and whether it raised or lowered the chance."""

    name: str
    value: str
    raises: bool


@dataclass(frozen=True)
class Row:
    """One line of the roll call, ready to be read."""

    line: Line
    who: str
    name: str | None
    standing: str
    note: str
    reasons: tuple[Reason, ...]


@dataclass(frozen=True)
class Part:
    """One group of the roll call."""

    name: str
    group: Group
    rows: tuple[Row, ...]
    more: int  # rows that are not shown
    present: int
    query: str


class Pages:
    """The routes that browsers open."""

    def __init__(
        self, pipeline: Pipeline, *, token: str | None = None, names: Callable[[str], str | None] | None = None
    ) -> None:
        self._pipeline, self._app, self._token = pipeline, pipeline.app, token
        self._name = names or (lambda key: None)
        self._files = {name: (HERE / "static" / name).read_bytes() for name in STATIC}
        self._tags = {name: hashlib.sha256(content).hexdigest()[:16] for name, content in self._files.items()}
        self._reasons: OrderedDict[tuple[Any, ...], tuple[Reason, ...]] = OrderedDict()
        self._fragments: OrderedDict[tuple[str, str], tuple[Any, str]] = OrderedDict()
        self._rendering = threading.Lock()
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        spoken: tuple[Any, ...] = (
            words.chance,
            words.number,
            words.figure,
            words.value,
            words.span,
            words.day,
            words.plain,
            words.late,
        )
        self._templates.filters |= {function.__name__: function for function in spoken}

    async def today(self, request: Request) -> Response:
        """The roll call of the day."""
        return await self._page("today", request)

    async def alerts(self, request: Request) -> Response:
        """What fired."""
        return await self._page("alerts", request)

    async def trends(self, request: Request) -> Response:
        """How the days went."""
        return await self._page("trends", request)

    async def pipeline(self, request: Request) -> Response:
        """How the pipeline is."""
        return await self._page("pipeline", request)

    async def fragment(self, request: Request) -> Response:
        """The changing part of a page."""
        view = request.path_params["view"]
        if view not in VIEWS:
            raise Refused(404, "fragment", found=view, expected=" or ".join(VIEWS), do="name one of these")
        return HTMLResponse(await run_in_threadpool(self._shared_fragment, view, request))

    async def rollback(self, request: Request) -> Response:
        """The button that lets an earlier version answer again."""
        form = await _form(request)
        predictor, version = form.get("predictor", ""), form.get("version", "")
        if predictor not in self._app.predictors or not version.isdecimal():
            raise Refused(
                400, "form", found=f"{predictor} {version}", expected="a predictor and a version", do="go back"
            )
        await run_in_threadpool(self._pipeline.rollback, predictor, int(version))
        return RedirectResponse("/pipeline", 303)

    async def docs(self, request: Request) -> Response:
        """The HTTP interface, to read."""
        described = describe(self._app, version="")
        examples = [(schema(event), _example(event), _required(event)) for event in self._app.events]
        return HTMLResponse(
            self._templates.get_template("docs.html").render(
                self._shared(request, "docs", self._pipeline.status()), described=described, examples=examples
            )
        )

    async def login(self, request: Request) -> Response:
        """Where a browser brings the token."""
        wrong = False
        if request.method == "POST" and self._token is not None:
            if is_same((await _form(request)).get("token", "").strip(), self._token):
                response = RedirectResponse("/", 303)
                is_secure = request.url.scheme == "https"
                response.set_cookie(
                    COOKIE,
                    session(self._token),
                    httponly=True,
                    samesite="strict",
                    secure=is_secure,
                    max_age=30 * 86_400,
                )
                return response
            wrong = True
        if self._token is None:
            return RedirectResponse("/", 303)
        page = self._templates.get_template("login.html").render(app=self._app.name, wrong=wrong)
        return HTMLResponse(page, 401 if wrong else 200)

    async def logout(self, request: Request) -> Response:
        """Forget the browser's cookie."""
        response = RedirectResponse("/login", 303)
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return response

    async def static(self, request: Request) -> Response:
        """The style sheet, the script and the icon."""
        name = request.path_params["name"]
        if name not in STATIC:
            raise Refused(404, "static", found=name, expected=" or ".join(STATIC), do="name one of these")
        headers = {"ETag": f'"{self._tags[name]}"', "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(self._files[name], media_type=STATIC[name], headers=headers)

    async def _page(self, view: str, request: Request) -> Response:
        return HTMLResponse(await run_in_threadpool(self._render, "page.html", view, request))

    def _shared_fragment(self, view: str, request: Request) -> str:
        """The part of a page, rendered once for all browsers that ask for the same of the same moment."""
        status = self._pipeline.status()
        vitals = status.vitals
        moment = (
            status.now // 1_000_000,
            (vitals.counts, vitals.predictions, vitals.labels, vitals.actions, status.ready),
            tuple((card.predictor, card.version, len(card.history)) for card in status.models.values()),
            tuple(self._pipeline.alerts(1)),
            status.skew.mismatches if status.skew is not None else None,
        )
        name = (view, request.url.query)
        with self._rendering:
            kept = self._fragments.pop(name, None)
            if kept is None or kept[0] != moment:
                kept = (moment, self._render(f"{view}.html", view, request, status))
            self._fragments[name] = kept
            while len(self._fragments) > FRAGMENTS_KEPT:
                self._fragments.popitem(last=False)
            return kept[1]

    def _render(self, template: str, view: str, request: Request, status: Status | None = None) -> str:
        status = status or self._pipeline.status()
        context = self._shared(request, view, status)
        contexts: dict[str, Callable[[Request, Status], dict[str, Any]]] = {
            "today": self._today,
            "alerts": self._alerts,
            "trends": self._trends,
            "pipeline": self._health,
            "banner": lambda request, status: {},
        }
        return self._templates.get_template(template).render(context | contexts[view](request, status))

    def _shared(self, request: Request, view: str, status: Status) -> dict[str, Any]:
        zone, now = self._app.timezone, status.now
        newest = next(iter(self._pipeline.alerts(1)), None)
        is_new = newest is not None and now - newest.now < BANNER_SECONDS * 1_000_000 and not newest.resolved
        return {
            "app": self._app.name,
            "view": view,
            "query": request.url.query,
            "status": status,
            "signed_in": self._token is not None,
            "firing": len(status.firing),
            "banner": newest if is_new else None,
            "zone": str(zone),
            "clock": lambda moment: words.clock(moment, zone),
            "stamp": lambda moment: words.stamp(moment, zone, now),
            "machine": lambda moment: words.machine(moment, zone),
            "ago": lambda moment: words.ago(moment, now),
            "static": lambda name: f"/static/{name}?{self._tags[name]}",
        }

    # ------------------------------------------------------------------------------------------------------------ today

    def _today(self, request: Request, status: Status) -> dict[str, Any]:
        predictor = self._chosen(request)
        if predictor is None:
            return {"predictor": None, "predictors": [], "roll": None, "group": None}
        asked = request.query_params.get("group") or None
        context: dict[str, Any] = {
            "predictor": predictor,
            "predictors": list(self._app.predictors),
            "label": _label_name(predictor),
            "keys": [words.plain(name) for name in schema(predictor.anchor).keys],
            "link": lambda **change: _query(predictor=predictor.name, **change),
            "card": status.models.get(predictor.name, ModelCard(predictor.name, 0, None)),
            "group": asked,
            "roll": None,
        }
        board = self._pipeline.board()
        if board.has_roll(predictor.name):
            roll = board.roll(predictor.name, status.now)
            if asked not in roll.names:
                context["group"] = asked = None
            return context | self._roll(predictor, roll, asked)
        newest = board.newest(predictor.name, ROWS_LIMIT)
        return context | {
            "newest": [(row, ", ".join(row.key)) for row in newest],
            "actions": board.actions(predictor.name, ROWS_LIMIT),
            "is_binary": predictor.label.is_binary,
            "threshold": likely_from(predictor),
        }

    def _roll(self, predictor: Predictor, roll: Roll, asked: str | None) -> dict[str, Any]:
        shown = roll.groups if asked is None else tuple(part for part in roll.groups if part.name == asked)
        waiting = [line for part in shown for line in part.lines if line.is_likely]
        waiting.sort(key=lambda line: (-(line.chance or 0.0), line.key))
        likely = waiting[:LIKELY_LIMIT]
        explained = {line.anchor for line in likely} | {
            line.anchor for part in shown for line in part.lines[: REASONS_LIMIT if asked else 0]
        }
        counts = {standing: sum(part.counts[standing] for part in shown) for standing in Standing}
        return {
            "roll": roll,
            "likely": [self._row(predictor, line, explained=True) for line in likely],
            "likely_more": len(waiting) - len(likely),
            "parts": [self._part(predictor, part, explained) for part in shown],
            "counts": {STANDINGS[standing]: number for standing, number in counts.items()},
            "total": sum(counts.values()),
            "likely_number": len(waiting),
            "standings": STANDINGS,
        }

    def _part(self, predictor: Predictor, group: Group, explained: set[int]) -> Part:
        rows = tuple(
            self._row(predictor, line, explained=line.anchor in explained) for line in group.lines[:LINES_LIMIT]
        )
        present = group.counts[Standing.HERE] + group.counts[Standing.LATE]
        query = _query(predictor=predictor.name, group=group.name)
        return Part(group.name, group, rows, len(group.lines) - len(rows), present, query)

    def _row(self, predictor: Predictor, line: Line, *, explained: bool) -> Row:
        note = ""
        if line.standing in (Standing.HERE, Standing.LATE) and line.since is not None:
            note = words.clock(line.since, self._app.timezone)
        has_reasons = explained and line.chance is not None and line.standing not in (Standing.HERE, Standing.LATE)
        reasons = self._explain(predictor, line) if has_reasons else ()
        who = line.key[0] if line.key else "all"
        return Row(line, who, self._name(who), STANDINGS[line.standing], note, reasons)

    def _explain(self, predictor: Predictor, line: Line) -> tuple[Reason, ...]:
        name = (predictor.name, line.anchor, line.at, line.version)
        if name not in self._reasons:
            found = self._pipeline.latest(predictor.name, line.key)
            values = found.features if found else {}
            effects = self._pipeline.reasons(predictor.name, line.key)
            strongest = sorted(effects, key=lambda one: -abs(one[1]))[:REASONS_SHOWN]
            self._reasons[name] = tuple(
                Reason(words.plain(feature), words.value(values.get(feature)), effect > 0)
                for feature, effect in strongest
                if effect
            )
            while len(self._reasons) > REASONS_KEPT:
                self._reasons.popitem(last=False)
        return self._reasons[name]

    # ------------------------------------------------------------------------------------------------- alerts, trends

    def _alerts(self, request: Request, status: Status) -> dict[str, Any]:
        return {"newest": list(self._pipeline.alerts(ROWS_LIMIT)), "open": status.firing}

    def _trends(self, request: Request, status: Status) -> dict[str, Any]:
        predictor = self._chosen(request)
        if predictor is None:
            return {"predictor": None, "predictors": [], "group": None}
        board = self._pipeline.board()
        groups = [group for group in board.groups(predictor.name) if group]
        asked = request.query_params.get("group")
        group = asked if asked in groups else None
        wanted = request.query_params.get("days", "")
        days = int(wanted) if wanted.isdecimal() and int(wanted[:4]) in TREND_DAYS else TREND_DAYS[1]
        found = board.trend(predictor.name, days=days, group=group)
        forecast = [day.forecast_rate for day in found]
        name = _label_name(predictor)
        title = f"{name.capitalize()} per day, what the first forecast of the day said beside what came true"
        drawn = chart(
            title,
            [words.short_day(day.day) for day in found],
            bars=[day.rate for day in found],
            lines=[("forecast", "model", forecast)],
            percent=predictor.label.is_binary,
            width=BROAD,
        )
        past = {other: board.trend(predictor.name, days=days, group=other) for other in groups} if group is None else {}
        high = max((day.rate or 0.0 for found in past.values() for day in found), default=0.0)
        by_group = []
        for other, found_there in past.items():
            known = sum(day.known for day in found_there)
            small = chart(
                other,
                [words.short_day(day.day) for day in found_there],
                bars=[day.rate for day in found_there],
                high=high,
            )
            by_group.append((other, sum(day.actual for day in found_there) / known if known else None, small))
        return {
            "predictor": predictor,
            "predictors": list(self._app.predictors),
            "label": name,
            "link": lambda **change: _query(
                **{"predictor": predictor.name, "group": group, "days": days, **change},
            ),
            "groups": groups,
            "group": group,
            "days": days,
            "choices": TREND_DAYS,
            "chart": drawn,
            "table": [(words.short_day(day.day), day) for day in reversed(found)],
            "by_group": by_group,
            "is_binary": predictor.label.is_binary,
        }

    # ----------------------------------------------------------------------------------------------------- the pipeline

    def _health(self, request: Request, status: Status) -> dict[str, Any]:
        return {
            "vitals": status.vitals,
            "skew": status.skew,
            "behind": status.skew.behind(status.now) if status.skew is not None else 0.0,
            "behind_limit": BEHIND_SECONDS,
            "models": [
                self._model(name, status.models.get(name, ModelCard(name, 0, None)), status.quality.get(name))
                for name in self._app.predictors
            ],
            "dead": [_dead(letter) for letter in self._pipeline.dead(ROWS_LIMIT)],
            "words": ACTIONS,
        }

    def _model(self, name: str, card: ModelCard, report: Report | None) -> dict[str, Any]:
        rows: list[tuple[str, str, Scores]] = []
        drawn: list[Chart] = []
        if report is not None and report.model.rows:
            rows = [
                ("The live model", "model", report.model),
                ("The key's own past rate", "rule", report.rule),
                ("The base rate", "base", report.base),
            ]
            drawn = [found for found in _quality_charts(report) if found is not None]
        return {
            "name": name,
            "card": card,
            "report": report,
            "rows": rows,
            "charts": drawn,
            "is_binary": self._app.predictors[name].label.is_binary,
        }

    def _chosen(self, request: Request) -> Predictor | None:
        """The predictor that was asked for; else the first with a roll call; else the first."""
        asked = request.query_params.get("predictor", "")
        if asked in self._app.predictors:
            return self._app.predictors[asked]
        board = self._pipeline.board()
        named = sorted(self._app.predictors, key=lambda name: not board.has_roll(name))
        return self._app.predictors[named[0]] if named else None


def _quality_charts(report: Report) -> list[Chart | None]:
    names = [words.short_day(day.day) for day in report.days]

    def lines(of: Callable[[Scores], float | None]) -> list[tuple[str, str, Sequence[float | None]]]:
        return [
            ("model", "model", [of(day.model) for day in report.days]),
            ("own past rate", "rule", [of(day.rule) for day in report.days]),
            ("base rate", "base", [of(day.base) for day in report.days]),
        ]

    if not report.is_binary:
        return [
            chart(
                "Root mean squared error by day (lower is better)", names, lines=lines(lambda s: s.rmse), percent=False
            )
        ]
    return [
        chart("Brier score by day (lower is better)", names, lines=lines(lambda s: s.brier), percent=False),
        chart(
            "Area under the ROC curve by day (higher is better)",
            names,
            lines=lines(lambda s: s.auc),
            percent=False,
            zero=False,
        ),
    ]


def _label_name(predictor: Predictor) -> str:
    return words.plain(predictor.name)


def _dead(letter: Any) -> tuple[Any, str]:
    text = letter.payload[: answers.PAYLOAD_BYTES_SHOWN].decode(errors="replace")
    return letter, text if len(text) <= 160 else f"{text[:157]}..."


def _query(**wanted: Any) -> str:
    named = {name: value for name, value in wanted.items() if value not in (None, "")}
    return f"?{urlencode(named)}" if named else "?"


async def _form(request: Request) -> dict[str, str]:
    raw = await body.read(request)
    if len(raw) > LOGIN_BYTES_LIMIT:
        raise Refused(413, "form", found=f"{len(raw)} bytes", expected=f"at most {LOGIN_BYTES_LIMIT}", do="send less")
    return {name: values[0] for name, values in parse_qs(raw.decode(errors="replace")).items()}


def _required(event: Any) -> list[str]:
    return [field.name for field in schema(event).fields if field.default is ...]


def _example(event: Any) -> str:
    samples: dict[type, Any] = {str: "A123", float: 12.5, int: 3, bool: True}
    found = schema(event)
    return msgspec.json.encode(
        {
            field.name: "2025-04-21 08:02:00" if field.name == found.time else samples[field.kind]
            for field in found.fields
            if field.default is ...
        }
    ).decode()
