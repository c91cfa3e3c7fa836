"""Errors as RFC 9457 problems: `application/problem+json` with where, found, expected and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from katmatic.errors import InputError, KatmaticError, ModelError
from katmatic.serving.base import QueueFull

CONTENT_TYPE = "application/problem+json"


class Refused(KatmaticError):
    """A request that is answered with an HTTP `status` of its own."""

    def __init__(self, status: int, where: str, *, found: str, expected: str, do: str) -> None:
        super().__init__(where, found=found, expected=expected, do=do)
        self.status = status


def problem(status: int, parts: Mapping[str, Any]) -> Response:
    """The answer that tells of a problem; `parts` are where, found, expected and do."""
    title = HTTPStatus(status).phrase
    detail = f"{parts['where']}: found {parts['found']}, expected {parts['expected']}; {parts['do']}"
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, **parts}
    return Response(msgspec.json.encode(body), status, media_type=CONTENT_TYPE)


async def on_error(request: Request, error: Exception) -> Response:
    """The answer to an error that is ours, or that an HTTP library raised."""
    if isinstance(error, QueueFull):
        response = problem(503, error.as_dict())
        response.headers["Retry-After"] = str(error.retry_seconds)
        return response
    if isinstance(error, KatmaticError):
        return problem(_status(error), error.as_dict())
    if isinstance(error, HTTPException):
        wanted = {404: "a route in /openapi.json", 405: "another method", 413: "a smaller body"}
        parts = {
            "where": f"{request.method} {request.url.path}",
            "found": error.detail,
            "expected": wanted.get(error.status_code, "a request that can be answered"),
            "do": "see /docs",
        }
        response = problem(error.status_code, parts)
        response.headers.update(error.headers or {})
        return response
    parts = {
        "where": f"{request.method} {request.url.path}",
        "found": type(error).__name__,
        "expected": "an answer",
        "do": "see the log of the server",
    }
    return problem(500, parts)


def _status(error: KatmaticError) -> int:
    if isinstance(error, Refused):
        return error.status
    if isinstance(error, InputError):
        return 422
    return 409 if isinstance(error, ModelError) else 500
