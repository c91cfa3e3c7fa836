"""Bad input over HTTP into a running pipeline: refused with a reason or kept as a dead letter, and nothing stops."""

from __future__ import annotations

import gzip
import json
import threading

import httpx
import pytest

from katmatic.clock import SystemClock, to_datetime
from katmatic.runtime import Runtime, load_app
from katmatic.serving.api import make_api
from katmatic.serving.server import Server
from katmatic.settings import Settings
from tests.test_runtime import DOOR, until

EVENTS = "/v1/events/ring"
YEAR = 365 * 86_400_000_000


@pytest.fixture
def runtime(tmp_path):
    """The door, at work on the system's clock."""
    path = tmp_path / "app.py"
    path.write_text(DOOR, "utf-8")
    settings = Settings(data=str(tmp_path / "data"), training=False, tick=0.01)
    stop = threading.Event()
    with Runtime(load_app(path), path, settings) as runtime:
        worker = threading.Thread(target=runtime.work, args=(stop,))
        worker.start()
        yield runtime
        stop.set()
        worker.join()


@pytest.fixture
def web(runtime):
    server = Server(make_api(runtime.live), closing=runtime.live.hub.close)
    server.start()
    with httpx.Client(base_url=server.url, timeout=20) as client:
        yield client
    server.stop()


def stamp(offset=0):
    return to_datetime(SystemClock().now() + offset).isoformat()


def good(**changed):
    return {"visitor": "v1", "at": stamp(), "loudness": 1.0} | changed


def without(name):
    return {field: value for field, value in good().items() if field != name}


DEAD = {
    "a wrong type": lambda: good(loudness="loud"),
    "a missing key": lambda: without("visitor"),
    "a null key": lambda: good(visitor=None),
    "a key that is a list": lambda: good(visitor=["v1"]),
    "a field that is a list": lambda: good(loudness=[1.0]),
    "a field that is an object": lambda: good(loudness={"is": 1}),
    "no time": lambda: without("at"),
    "a time that is none": lambda: good(at="at eight"),
    "a time of the far future": lambda: good(at=stamp(50 * YEAR)),
    "a time of another age": lambda: good(at="1815-06-18T11:30:00Z"),
}


@pytest.mark.parametrize("case", DEAD)
def test_an_event_that_cannot_be_read_is_refused_or_kept_with_its_reason(runtime, web, case):
    sent = [good(visitor="a"), DEAD[case](), good(visitor="b")]
    answer = web.post(EVENTS, content=json.dumps(sent), headers={"content-type": "application/json"})
    kept(runtime, answer, sent=3, dead=1)
    assert runtime.live.latest("open", ("a",)) is not None
    assert runtime.live.latest("open", ("b",)) is not None
    (letter,) = runtime.live.dead(10)
    assert json.loads(letter.payload) == sent[1], "whole"
    assert letter.where
    assert letter.found
    assert letter.expected
    assert letter.do


def kept(runtime, answer, *, sent, dead):
    """All that was sent has been taken in, and has its fate."""
    assert answer.status_code == 202, answer.text
    counts = until(lambda: (c := runtime.live.status().vitals.counts).events >= sent and c)
    assert (counts.events, counts.applied, counts.dead) == (sent, sent - dead, dead)
    assert counts.events == counts.applied + counts.duplicate + counts.late + counts.dead


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"", {}, 400),
        (b"[]", {}, 400),
        (b"x" * (10 * 1024 * 1024), {}, 413),
        (gzip.compress(b"{}", mtime=0)[:-4], {"content-encoding": "gzip"}, 400),
        (b"{}", {"content-encoding": "br"}, 415),
    ],
    ids=["empty", "an empty array", "10 MB", "broken gzip", "another packing"],
)
def test_a_body_that_cannot_be_taken_is_a_problem_and_takes_nothing_in(runtime, web, content, headers, status):
    answer = web.post(EVENTS, content=content, headers={"content-type": "application/json", **headers})
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert {"title", "status", "detail"} <= set(answer.json())
    assert web.post(EVENTS, json=good()).status_code == 202
    counts = until(lambda: (c := runtime.live.status().vitals.counts).events and c)
    assert (counts.events, counts.applied) == (1, 1)


@pytest.mark.parametrize(
    "content",
    [b"{nothing", b'{"visitor": "v1"', b'"a text"', b"[[1]]", b"\xff\xfe{\x00", b'{"loudness": NaN}', b"[" * 100_000],
    ids=["not JSON", "cut off", "a text", "a list", "not UTF-8", "NaN", "deep"],
)
def test_a_body_that_is_no_event_is_kept_whole_with_its_reason(runtime, web, content):
    kept(runtime, web.post(EVENTS, content=content), sent=1, dead=1)
    (letter,) = runtime.live.dead(10)
    assert letter.payload in content
    assert letter.found
    kept(runtime, web.post(EVENTS, json=good()), sent=2, dead=1)


def test_an_unknown_topic_names_those_there_are(web):
    answer = web.post("/v1/events/rings", json=good())
    assert answer.status_code == 404
    assert "ring" in answer.text
    assert "opened" in answer.text


def test_lines_of_which_some_are_broken(runtime, web):
    lines = [json.dumps(good(visitor=f"v{i}")) if i % 3 else "{nothing" for i in range(9)]
    answer = web.post(EVENTS, content="\n".join(lines), headers={"content-type": "application/x-ndjson"})
    kept(runtime, answer, sent=9, dead=3)


def test_from_the_event_to_its_prediction_and_its_label(runtime, web):
    assert web.post(EVENTS, json=good(visitor="Ann")).status_code == 202
    found = until(lambda: (a := web.get("/v1/predictions/open/Ann")).status_code == 200 and a.json())
    assert found["key"] == {"visitor": "Ann"}
    web.post("/v1/events/opened", json={"visitor": "Ann", "at": stamp()})
    until(lambda: runtime.live.status().vitals.labels)
    assert web.get("/readyz").status_code == 200


def test_a_question_of_great_depth_is_refused(web):
    answer = web.post("/v1/predict/open", content=b"[" * 100_000)
    assert answer.status_code == 400
