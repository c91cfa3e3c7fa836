"""The description says what the routes do."""

from __future__ import annotations

from katmatic.serving.api import make_api

PAGES = {"/", "/alerts", "/trends", "/pipeline", "/pipeline/rollback", "/docs", "/login", "/logout", "/openapi.json"}


def test_it_is_derived_from_the_app(web):
    found = web.get("/openapi.json").json()
    assert found["openapi"].startswith("3.1")
    schemas = found["components"]["schemas"]
    assert schemas["CheckIn"]["required"] == ["student_id", "timestamp"]
    assert schemas["CheckIn"]["properties"]["status"] == {"type": "string", "default": "present"}
    prediction = schemas["absence.prediction"]["properties"]
    assert prediction["probability"] == {"type": ["number", "null"], "minimum": 0, "maximum": 1}
    assert set(prediction["features"]["properties"]) == {"weekday", "absent_5d", "absent_60d", "class_missing"}


def test_it_names_every_route_and_no_other(web, pipeline):
    described = set(web.get("/openapi.json").json()["paths"])
    routes = {route.path for route in make_api(pipeline).routes}
    filled = {
        path.replace("{key:path}", "{key}").replace("{predictor}", "absence").replace("{topic}", topic)
        for path in routes - PAGES
        for topic in ("attendance-topic", "expected")
        if not path.startswith(("/fragments", "/static"))
    }
    assert described == filled


def test_every_reference_leads_somewhere(web):
    found = web.get("/openapi.json").json()

    def references(part):
        if isinstance(part, dict):
            if "$ref" in part:
                yield part["$ref"]
            for value in part.values():
                yield from references(value)
        elif isinstance(part, list):
            for value in part:
                yield from references(value)

    for reference in references(found):
        place = found
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
        assert place


def test_an_answer_has_what_is_described(web):
    described = web.get("/openapi.json").json()["components"]["schemas"]
    answer = web.get("/v1/predictions/absence/P0001").json()
    assert set(described["absence.prediction"]["properties"]) <= set(answer)
    model = web.get("/v1/models/absence").json()[0]
    assert set(described["ModelVersion"]["properties"]) == set(model)


def test_the_page_for_people(web):
    page = web.get("/docs").text
    assert "/v1/events/attendance-topic" in page
    assert "/v1/predict/absence" in page
