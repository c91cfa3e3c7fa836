"""Who may ask: loopback is open; anything else needs a token. Browsers may only act from our own pages."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from katmatic.errors import SettingsError
from katmatic.metrics import Metrics
from katmatic.serving.problem import problem

TOKEN_LENGTH_LEAST = 16
COOKIE = "katmatic_session"
OPEN_PATHS = ("/healthz", "/readyz", "/login", "/static/katmatic.css", "/static/icon.svg")
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer, a form of our own pages would come with the Origin null
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def new_token() -> str:
    """A token that nobody can guess.

    >>> len(new_token()) >= TOKEN_LENGTH_LEAST
    True
    """
    return secrets.token_urlsafe(24)


def check_bind(host: str, token: str | None) -> None:
    """Refuse to listen where others can reach it without a token, or with one that can be guessed."""
    if token is not None and len(token) < TOKEN_LENGTH_LEAST:
        raise SettingsError(
            "token",
            found=f"{len(token)} characters",
            expected=f"at least {TOKEN_LENGTH_LEAST}",
            do='make one: python -c "import secrets; print(secrets.token_urlsafe(24))"',
        )
    if token is None and not is_loopback(host):
        raise SettingsError(
            "host",
            found=f"{host}, which others can reach, and no token",
            expected="127.0.0.1, or a token",
            do="set KATMATIC_TOKEN, or listen on 127.0.0.1",
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class Access:
    """ASGI middleware that lets a request pass, or answers 400, 401 or 403; and adds the headers of every answer.

    Without a `token` only requests that name this machine (or one of `hosts`) pass: a foreign page that makes its own
    name point here (DNS rebinding) does not. With one, a request brings it as `Authorization: Bearer`, or a browser
    brings the cookie that signing in gave it.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, metrics: Metrics, hosts: Iterable[str] = ()) -> None:
        self._app, self._token, self._metrics = app, token, metrics
        self._hosts = {*LOCAL_NAMES, *hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let it pass."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refused = self._refusal(HTTPConnection(scope))
        if refused is None:
            await self._app(scope, receive, _with_headers(send))
            return
        reason, status, parts = refused
        self._metrics.add("http_refused_total", reason=reason)
        response = problem(status, parts)
        if status == 401:
            if scope["method"] == "GET" and "text/html" in Headers(scope=scope).get("accept", ""):
                response.status_code = 303
                response.headers["Location"] = "/login"
            else:
                response.headers["WWW-Authenticate"] = "Bearer"
        await response(scope, receive, _with_headers(send))

    def _refusal(self, asked: HTTPConnection) -> tuple[str, int, dict[str, str]] | None:
        headers, method, path = asked.headers, asked.scope["method"], asked.scope["path"]
        host = headers.get("host", "")
        if self._token is None and _name(host) not in self._hosts:
            return (
                "host",
                400,
                {
                    "where": "Host",
                    "found": host or "nothing",
                    "expected": " or ".join(sorted(self._hosts)),
                    "do": "ask this machine by its own name",
                },
            )
        if method not in SAFE_METHODS and not _is_own(headers, host):
            return (
                "origin",
                403,
                {
                    "where": "Origin",
                    "found": headers.get("origin") or "another site",
                    "expected": "our own pages, or a program",
                    "do": "act from our own pages",
                },
            )
        if self._token is not None and path not in OPEN_PATHS and not self._knows(asked):
            return (
                "token",
                401,
                {
                    "where": "Authorization",
                    "found": "no valid token",
                    "expected": "Bearer and the token",
                    "do": "send the header, or sign in at /login",
                },
            )
        return None

    def _knows(self, asked: HTTPConnection) -> bool:
        token = self._token or ""
        scheme, _, given = asked.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and is_same(given.strip(), token):
            return True
        return is_same(asked.cookies.get(COOKIE, ""), session(token))


def is_same(given: str, expected: str) -> bool:
    """Whether two secrets are equal, in a time that does not tell how much of them is."""
    return hmac.compare_digest(given.encode(), expected.encode())


def session(token: str) -> str:
    """What a browser keeps in its cookie in place of the token."""
    return hmac.new(token.encode(), b"katmatic session", hashlib.sha256).hexdigest()


def _name(host: str) -> str:
    """The host without its port."""
    return host if host.endswith("]") else host.rpartition(":")[0] or host


def _is_own(headers: Headers, host: str) -> bool:
    """Whether a request comes from our own pages, or from no browser."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if origin is not None:
        return urlsplit(origin).netloc == host
    return site in (None, "same-origin", "none")


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return sending
