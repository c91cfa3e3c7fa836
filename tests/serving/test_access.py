"""Who may ask, from where, and what every answer carries."""

from __future__ import annotations

import pytest

from katmatic.errors import SettingsError
from katmatic.serving.access import COOKIE, POLICY, check_bind, new_token, session
from tests.serving.fake import FakePipeline

TOKEN = "a-token-that-is-long-enough"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def guarded(web_of):
    with web_of(FakePipeline(classes=1, size=2, days=1), token=TOKEN) as web:
        yield web


PATHS = (
         "/", "/alerts", "/trends", "/pipeline", "/docs", "/metrics",
         "/openapi.json", "/v1/alerts", "/v1/dead",
         "/v1/status", "/v1/stream", "/v1/predictions/absence/P0001", "/v1/models/absence", "/fragments/today",
         "/static/katmatic.js", "/nowhere")  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_without_the_token_nothing_is_told(guarded, path):
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, {"Cookie": f"{COOKIE}={TOKEN}"}):
        answer = guarded.get(path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "P0001" not in answer.text


def test_with_the_token_all_is_answered(guarded):
    assert guarded.get("/v1/alerts", headers=BEARER).status_code == 200
    assert guarded.post("/v1/models/absence/rollback", headers=BEARER).status_code == 200
    assert guarded.post("/v1/models/absence/rollback").status_code == 401


def test_health_needs_no_token(guarded):
    assert guarded.get("/healthz").status_code == 200
    assert guarded.get("/readyz").json() == {"ready": True}, "and it tells nothing else"


def test_a_browser_signs_in(guarded):
    sent = guarded.get("/", headers={"Accept": "text/html"})
    assert (sent.status_code, sent.headers["location"]) == (303, "/login")
    assert guarded.get("/login").status_code == 200
    assert guarded.get("/static/katmatic.css").status_code == 200
    wrong = guarded.post("/login", data={"token": "a wrong one"})
    assert wrong.status_code == 401
    assert "set-cookie" not in wrong.headers
    right = guarded.post("/login", data={"token": TOKEN})
    assert (right.status_code, right.headers["location"]) == (303, "/")
    cookie = right.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in cookie
    guarded.cookies.set(COOKIE, session(TOKEN))
    assert guarded.get("/").status_code == 200
    out = guarded.post("/logout")
    assert f'{COOKIE}=""' in out.headers["set-cookie"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "192.168.0.7"])
def test_a_foreign_name_is_no_name_of_ours(web, host):
    """DNS rebinding: a page makes its own name point to this machine, and reads what is only for this machine."""
    assert web.get("/v1/alerts", headers={"Host": host}).status_code == 400


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "[::1]"])
def test_this_machine_by_its_names(web, host):
    assert web.get("/healthz", headers={"Host": host}).status_code == 200


def test_a_name_that_was_allowed(web_of):
    with web_of(FakePipeline(classes=1, size=2, days=0), hosts=["school.local"]) as web:
        assert web.get("/healthz", headers={"Host": "school.local:8000"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
@pytest.mark.parametrize("path", ["/v1/models/absence/rollback", "/pipeline/rollback", "/v1/events/attendance-topic"])
def test_a_foreign_page_cannot_act(web, pipeline, path, headers):
    answer = web.post(path, data={"predictor": "absence", "version": "1"}, headers=headers)
    assert answer.status_code == 403
    assert pipeline.status().models["absence"].version == 3


def test_our_own_page_can_act(web, pipeline):
    own = {"Origin": str(web.base_url).rstrip("/"), "Sec-Fetch-Site": "same-origin"}
    answer = web.post("/pipeline/rollback", data={"predictor": "absence", "version": "1"}, headers=own)
    assert (answer.status_code, answer.headers["location"]) == (303, "/pipeline")
    assert pipeline.status().models["absence"].version == 1
    assert web.post("/pipeline/rollback", data={"predictor": "nothing"}, headers=own).status_code == 400
    assert web.post("/pipeline/rollback", content=b"x" * 5000, headers=own).status_code == 413


@pytest.mark.parametrize("path", ["/", "/docs", "/nowhere", "/static/katmatic.js", "/v1/alerts", "/metrics"])
def test_every_answer_is_wrapped(web, path):
    headers = web.get(path).headers
    assert headers["content-security-policy"] == POLICY
    assert "unsafe" not in POLICY
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert "cache-control" in headers


@pytest.mark.parametrize(
    ("host", "token"),
    [("0.0.0.0", None), ("192.168.0.7", None), ("school.local", None), ("::", None), ("127.0.0.1", "1")],
)
def test_an_open_door_is_refused(host, token):
    with pytest.raises(SettingsError):
        check_bind(host, token)


@pytest.mark.parametrize(
    ("host", "token"), [("127.0.0.1", None), ("localhost", None), ("::1", None), ("0.0.0.0", TOKEN)]
)
def test_a_closed_door_is_fine(host, token):
    check_bind(host, token)


def test_tokens_differ():
    assert new_token() != new_token()
    check_bind("0.0.0.0", new_token())
