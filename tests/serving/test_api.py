"""The routes that programs call, asked over a real socket."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
from datetime import datetime

import pytest

from katmatic.serving import body
from katmatic.serving.api import make_api
from tests.components import need
from tests.serving.fake import FakePipeline

ONE = {"student_id": "P0001", "timestamp": "2025-04-21 08:02:00", "status": "present"}
TWO = {"student_id": "P0002", "timestamp": "2025-04-21 08:03:00"}
EVENTS = "/v1/events/attendance-topic"
JSON = {"Content-Type": "application/json"}


def is_problem(answer, status):
    """A problem of RFC 9457 in four parts that are no empty words."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert found["status"] == status
    assert found["title"]
    assert all(found[part] for part in ("where", "found", "expected", "do"))
    return found


# ------------------------------------------------------------------------------------------------------- events in


@pytest.mark.parametrize(
    ("content", "headers", "number"),
    [
        (json.dumps(ONE), JSON, 1),
        (json.dumps(ONE), {}, 1),
        (json.dumps(ONE, indent=2), JSON, 1),
        (json.dumps([ONE, TWO]), JSON, 2),
        (json.dumps(ONE) + "\n" + json.dumps(TWO) + "\n", JSON, 2),
        (json.dumps(ONE) + "\r\n\r\n" + json.dumps(TWO), {"Content-Type": "application/x-ndjson"}, 2),
        (gzip.compress(json.dumps([ONE, TWO]).encode()), {"Content-Encoding": "gzip"}, 2),
        (gzip.compress(json.dumps(ONE).encode() + b"\n") + gzip.compress(json.dumps(TWO).encode()),
         {"Content-Encoding": "gzip"}, 2),
    ],
)  # fmt: skip
def test_events_come_one_or_many(web, content, headers, number):
    answer = web.post(EVENTS, content=content, headers=headers)
    assert answer.status_code == 202
    assert answer.json()["accepted"] == number


def test_positions_go_on(web):
    first = web.post(EVENTS, json=[ONE, TWO]).json()["first"]
    assert web.post(EVENTS, json=ONE).json() == {"accepted": 1, "first": first + 2}


def test_what_cannot_be_read_is_kept_as_it_is(web, pipeline):
    for content in (b"\xff\xfe not JSON", b'[{"student_id": "P0001"', b'{"student_id": ["P1"]}', b'"a text"'):
        assert web.post(EVENTS, content=content).status_code == 202
    kept = [letter.payload for letter in pipeline.dead(10)]
    assert kept == [b'"a text"', b'{"student_id": ["P1"]}', b'[{"student_id": "P0001"', b"\xff\xfe not JSON"]
    found = web.get("/v1/dead?limit=2").json()
    assert [letter["payload"] for letter in found] == ['"a text"', '{"student_id": ["P1"]}']
    assert pipeline.status().vitals.counts.is_conserved


def test_an_unknown_topic(web):
    assert "attendance-topic" in is_problem(web.post("/v1/events/gate", json=ONE), 404)["expected"]


@pytest.mark.parametrize("content", [b"", b"  \n ", b"[]"])
def test_nothing_is_no_event(web, content):
    is_problem(web.post(EVENTS, content=content), 400)


def test_a_body_that_is_too_large(web):
    is_problem(web.post(EVENTS, content=b" " * (10 * 1024 * 1024)), 413)


def test_a_large_body_without_a_length(web):
    parts = (b" " * 1024 * 1024 for _ in range(10))
    is_problem(web.post(EVENTS, content=parts), 413)


def test_a_bomb_does_not_unpack(web):
    bomb = gzip.compress(b" " * (body.BODY_BYTES_LIMIT + 1))
    assert len(bomb) < 100_000
    is_problem(web.post(EVENTS, content=bomb, headers={"Content-Encoding": "gzip"}), 413)


BROKEN = [b"plain", gzip.compress(b"{}" * 100, mtime=0)[:-9], gzip.compress(b"{}", mtime=0) + b"rest"]


@pytest.mark.parametrize("content", BROKEN, ids=["plain", "cut", "more"])
def test_gzip_that_is_none(web, content):
    is_problem(web.post(EVENTS, content=content, headers={"Content-Encoding": "gzip"}), 400)


def test_an_encoding_that_we_do_not_know(web):
    is_problem(web.post(EVENTS, content=b"{}", headers={"Content-Encoding": "br"}), 415)


def test_one_event_that_is_too_large(web):
    is_problem(web.post(EVENTS, json={"student_id": "P" * (body.EVENT_BYTES_LIMIT + 1)}), 413)


def test_a_full_queue_says_when_to_come_again(web, pipeline):
    pipeline.full = True
    answer = web.post(EVENTS, json=ONE)
    is_problem(answer, 503)
    assert answer.headers["retry-after"] == "1"


# ------------------------------------------------------------------------------------------------- predictions out


def test_the_latest_prediction(web, pipeline):
    found = web.get("/v1/predictions/absence/P0001,1a").json()
    assert found["key"] == {"student_id": "P0001", "class_id": "1a"}
    assert found["state"] == "ok"
    assert 0 < found["probability"] < 1
    assert set(found["features"]) == {"weekday", "absent_5d", "absent_60d", "class_missing"}
    assert {reason["feature"] for reason in found["reasons"]} == set(found["features"])
    assert found["version"] == 3
    assert found["lead"] == "45m"
    at = datetime.fromisoformat(found["at"])
    assert (at.isoformat(), at.utcoffset().total_seconds()) == ("2025-04-21T07:30:00+05:45", 5.75 * 3600)
    assert web.get("/v1/predictions/absence/P0001").json() == found
    assert "reasons" in found
    assert web.get("/v1/predictions/absence/P0001?reasons=0").json()["reasons"] == []


@pytest.mark.parametrize(
    "path", ["absence/P9999", "absence/P0001,9z", "absence/P0001,1a,more", "absence/", "absence/,1a", "nothing/P0001"]
)
def test_a_prediction_that_is_not_there(web, path):
    is_problem(web.get(f"/v1/predictions/{path}"), 404)


def test_a_key_may_hold_a_comma(web):
    found = is_problem(web.get("/v1/predictions/absence/a%2Cb%2Fc,1a"), 404)
    assert found["where"] == "absence/a,b/c,1a"
    assert found["found"] == "no prediction"


def test_ask_now_about_one_or_many(web):
    one = {"student_id": "P0001", "class_id": "1a"}
    found = web.post("/v1/predict/absence", json=one).json()
    assert found["key"]["student_id"] == "P0001"
    many = web.post("/v1/predict/absence", json=[one, {**one, "student_id": "P0002", "bell": 1745200000}]).json()
    assert [row["key"]["student_id"] for row in many] == ["P0001", "P0002"]


@pytest.mark.parametrize(
    ("asked", "where"),
    [
        ({"class_id": "1a"}, "$.student_id"),
        ({"student_id": "", "class_id": "1a"}, "$.student_id"),
        ({"student_id": None, "class_id": "1a"}, "$.student_id"),
        ({"student_id": ["P0001"], "class_id": "1a"}, "$.student_id"),
        ([{"student_id": "P0001", "class_id": "1a"}, {"student_id": 7, "class_id": "1a"}], "$[1].student_id"),
        ({"student_id": "P0001", "class_id": "1a", "bell": {}}, "$.bell"),
        ({"student_id": "P0001", "class_id": "1a", "bell": True}, "$.bell"),
        ([[1]], "$[0]"),
        (7, "$"),
        ({"student_id": "a stranger", "class_id": "1a"}, "$[0].student_id"),
    ],
)
def test_a_question_is_checked_with_its_path(web, asked, where):
    assert is_problem(web.post("/v1/predict/absence", json=asked), 422)["where"] == where


def test_a_question_that_is_not_json(web):
    is_problem(web.post("/v1/predict/absence", content=b"{student"), 400)
    is_problem(web.post("/v1/predict/absence", content=b""), 400)
    assert web.post("/v1/predict/absence", json=[]).json() == []


def test_before_the_first_model(web_of):
    with web_of(FakePipeline(classes=1, size=3, days=2, learning=True)) as web:
        found = web.get("/v1/predictions/absence/P0001").json()
        assert (found["state"], found["probability"], found["reasons"]) == ("learning", None, [])
        assert "learning" in web.get("/").text


# ---------------------------------------------------------------------------------------- models, alerts, health


def test_models_and_going_back(web):
    assert [m["version"] for m in web.get("/v1/models/absence").json()] == [4, 3, 2, 1]
    change = web.post("/v1/models/absence/rollback").json()
    assert (change["version"], change["action"]) == (2, "rolled-back")
    assert web.post("/v1/models/absence/rollback", json={"version": 1}).json()["version"] == 1
    assert web.get("/v1/status").json()["models"]["absence"]["version"] == 1
    is_problem(web.post("/v1/models/absence/rollback", json={"version": 77}), 409)
    is_problem(web.post("/v1/models/absence/rollback", json={"version": "2"}), 422)
    is_problem(web.post("/v1/models/absence/rollback", json={"version": True}), 422)
    is_problem(web.get("/v1/models/nothing"), 404)


def test_alertmanager_has_models_reviewed(web, pipeline):
    told = {"version": "4", "status": "firing", "alerts": [fired("absence"), fired("absence"), fired("other"), fired()]}
    assert web.post("/v1/hooks/alertmanager", json=told).json() == {
        "reviewed": ["absence"],
        "passed_over": [
            {"alert": "Declined", "why": "there is no predictor 'other'"},
            {"alert": "Declined", "why": "it names no predictor"},
        ],
    }
    assert pipeline.reviewed == ["the alert Declined"]
    again = web.post("/v1/hooks/alertmanager", json={"alerts": [fired("absence")]}).json()
    assert again["passed_over"] == [{"alert": "Declined", "why": "it is being reviewed already"}]


def test_an_alert_that_has_ended_is_no_reason(web, pipeline):
    told = {"alerts": [{**fired("absence"), "status": "resolved"}]}
    assert web.post("/v1/hooks/alertmanager", json=told).json() == {"reviewed": [], "passed_over": []}
    assert pipeline.reviewed == []


@pytest.mark.parametrize("wrong", [b"", b"{", b"[]", b"{}", b'{"alerts": [{"labels": {}}]}', b'{"alerts": 3}', b"\xff"])
def test_what_alertmanager_would_not_send_is_refused(web, pipeline, wrong):
    is_problem(web.post("/v1/hooks/alertmanager", content=wrong), 422)
    assert pipeline.reviewed == []


def fired(predictor=None):
    labels = {"alertname": "Declined", "severity": "warning", **({"predictor": predictor} if predictor else {})}
    return {"status": "firing", "labels": labels, "annotations": {}, "startsAt": "2026-11-23T08:00:00Z"}


def test_alerts(web, pipeline):
    assert web.get("/v1/alerts").json() == []
    pipeline.move_to(pipeline.bell)
    web.post(
        EVENTS,
        content=b"\n".join(b"rubbish %d" % i for i in range(150)),
        headers={"Content-Type": "application/x-ndjson"},
    )
    named = [alert["name"] for alert in web.get("/v1/alerts").json()]
    assert "dead-letters" in named
    assert "dead-letters" in [alert["name"] for alert in web.get("/v1/status").json()["firing"]]


@pytest.mark.parametrize("limit", ["0", "-1", "many", "1001", "9" * 5000])
def test_a_limit_has_limits(web, limit):
    is_problem(web.get(f"/v1/alerts?limit={limit}"), 400)


def test_health(web, pipeline):
    assert web.get("/healthz").json() == {"status": "alive"}
    assert web.get("/readyz").status_code == 200
    pipeline.ready = False
    assert web.get("/readyz").status_code == 503


def test_figures(web):
    web.get("/v1/alerts")
    web.get("/nowhere")
    answer = web.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert 'katmatic_http_requests_total{route="/v1/alerts",status="200"} 1' in answer.text
    assert 'katmatic_http_requests_total{route="unknown",status="404"} 1' in answer.text


def test_figures_say_whether_it_goes_on(web, pipeline):
    for ready in (True, False):
        pipeline.ready = ready
        assert f"\nkatmatic_ready {ready:d}\n" in web.get("/metrics").text


def test_promtool_finds_no_fault_with_the_figures(web):
    web.get("/v1/alerts")
    promtool = shutil.which("promtool")
    need("promtool", promtool, "apt-get install prometheus")
    ran = subprocess.run(
        [str(promtool), "check", "metrics"], input=web.get("/metrics").text, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_a_route_that_is_not_there(web):
    is_problem(web.get("/v2/events"), 404)
    is_problem(web.get("/v1/events/attendance-topic"), 405)
    is_problem(web.get("/fragments/secrets"), 404)
    is_problem(web.get("/static/..%2fviews.py"), 404)


def test_a_bug_of_ours_is_a_problem_too(web_of):
    class Broken(FakePipeline):
        def alerts(self, limit):
            raise RuntimeError("a secret of the inside")

    with web_of(Broken(classes=1, size=2, days=0)) as web:
        answer = web.get("/v1/alerts")
        is_problem(answer, 500)
        assert "secret" not in answer.text


def test_every_route_names_its_methods(pipeline):
    assert all(route.methods for route in make_api(pipeline).routes)
