"""The pages, as HTML and in a real browser: they tell the truth, stay fresh, and fit a phone."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from katmatic import App, Event, Key, Time, future, past
from katmatic.monitoring.board import Board
from katmatic.records import Alert, Decision, Difference, Skew, SkewReport
from tests.components import need_chromium
from tests.monitoring.blocks import predictions
from tests.serving.fake import MINUTE, FakePipeline, Rule, morning

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATHS = ("/", "/?group=1b", "/alerts", "/trends", "/trends?group=1b&days=14", "/pipeline", "/docs")
PHONE = {"width": 390, "height": 844}
CHECK_IN = {"student_id": "P0009", "timestamp": "2025-04-21 08:02:00"}


def words(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<(style|script).*?</\1>|<[^>]*>", " ", html, flags=re.S))


# -------------------------------------------------------------------------------------------------------- as HTML


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ["empty", "learning", "morning"])
def test_no_page_ever_shows_nan_or_none(web_of, path, kind):
    size = {"empty": 0, "learning": 4, "morning": 30}[kind]
    pipeline = FakePipeline(classes=3, size=size, days=0 if kind == "empty" else 4, learning=kind != "morning")
    if kind == "morning":
        for _ in morning(pipeline, step="5m", share=0.5):
            pass
    with web_of(pipeline) as web:
        answer = web.get(path)
        assert answer.status_code == 200
        assert not re.search(r"\b(NaN|nan|None|null|undefined|Undefined|inf)\b", answer.text)


def test_the_roll_call(web, pipeline):
    pipeline.submit("attendance-topic", [json.dumps(CHECK_IN).encode()])
    page = words(web.get("/").text)
    assert "Monday 21 April 2025" in page
    assert "Expected 24 23 still to come" in page
    assert "Here 1 in time" in page
    assert re.search(r"P0009 here 08:02", page)


def test_who_was_not_asked_about_yet_is_not_said_to_be_learned(web_of):
    pipeline = FakePipeline(classes=1, size=3, days=2)
    with web_of(pipeline) as web:
        assert "not asked yet" not in web.get("/").text
        sheet = pipeline.board()._sheets["absence"]
        for anchor in sheet.days[max(sheet.days)]:
            sheet.cells[anchor].chance = sheet.cells[anchor].at = None
        page = words(web.get("/").text)
    assert "not asked yet" in page
    assert "learning" not in page


def test_filtering_without_a_script(web):
    page = web.get("/?group=1b").text
    assert "P0009" in page
    assert "P0001" not in page
    assert 'aria-current="true">1b' in page
    assert "P0001" in web.get("/?group=nowhere").text


def test_late_missing_and_absent_in_words(web, pipeline):
    late = {"student_id": "P0009", "timestamp": "2025-04-21 08:22:31"}
    pipeline.move_to(pipeline.bell)
    pipeline.submit("attendance-topic", [json.dumps(late).encode()])
    assert "8 min late" in words(web.get("/?group=1b").text)
    assert "Missing 23 not seen yet" in words(web.get("/").text)
    pipeline.move_to(pipeline.bell + 25 * MINUTE)
    assert "Absent 23 for certain" in words(web.get("/").text)


def test_a_large_school_shows_classes(web_of):
    with web_of(FakePipeline(classes=6, size=20, days=2)) as web:
        page = words(web.get("/").text)
        assert "Roll call by class" in page
        assert "0 of 20 here" in page


def test_a_day_of_which_a_sample_counts_is_about_so_many(web, pipeline, monkeypatch):
    exact = words(web.get("/trends").text)
    assert "about" not in exact
    trend = pipeline.board().trend

    def sampled(*given, **named):
        first, *others = trend(*given, **named)
        return dataclasses.replace(first, is_estimate=True), *others

    monkeypatch.setattr(pipeline.board(), "trend", sampled)
    page = words(web.get("/trends").text)
    assert page.replace("about ", "") == exact
    day = trend("absence")[0]
    assert re.findall(r"about [\d,]+", page) == [f"about {day.known:,}", f"about {day.actual:,.0f}"]


def test_the_law_with_real_numbers(web, pipeline):
    pipeline.submit("attendance-topic", [b"rubbish", json.dumps(CHECK_IN).encode(), json.dumps(CHECK_IN).encode()])
    counts = pipeline.status().vitals.counts
    page = words(web.get("/pipeline").text)
    assert (
        f"{counts.events:,} events in = {counts.applied:,} applied + {counts.duplicate:,} duplicate "
        f"+ {counts.late:,} late + {counts.dead:,} dead none lost, none twice" in page
    )
    assert "rubbish" in page
    assert "better than both baselines" in page or "not better than a baseline" in page


def test_skew_is_green_at_nothing_and_red_with_its_row(web, pipeline):
    assert "computed again" not in web.get("/pipeline").text, "where nobody proves it, nothing is claimed"
    fine = Skew(predictor="absence", rows=1234, values=4936)
    pipeline.skew = SkewReport(now=pipeline.now, skews=(fine,), lag_seconds=0.2)
    page = words(web.get("/pipeline").text)
    assert "1,234 rows proved 0 skewed zero skew A naive replay of the log, 200 ms behind" in page
    pipeline.skew = SkewReport(now=pipeline.now - 120_000_000, skews=(fine,), lag_seconds=60.0)
    page = web.get("/pipeline").text
    assert "1,234 rows proved 0 skewed zero skew as of 3 min ago" in words(page), "it has said nothing for two minutes"
    assert page.count("verdict good") == 1, "of the events, not of the features"
    assert web.get("/v1/status").json()["skew"]["behind_seconds"] == 180.0
    wrong = Difference(
        predictor="absence",
        anchor=77,
        key=("P0009", "1b"),
        at=pipeline.now,
        feature="absent_5d",
        served="0.5",
        found="0.6",
    )
    skew = Skew(predictor="absence", rows=1235, values=4939, mismatches=1, unprovable=7, skipped=3)
    pipeline.skew = SkewReport(now=pipeline.now, skews=(skew,), differences=(wrong,), keys_share=0.25)
    page = words(web.get("/pipeline").text)
    assert "1,235 rows proved 1 skewed what was served is not what the log says" in page
    assert "absent_5d was served as 0.5, and should be 0.6 anchor at position 77" in page
    assert "3 rows were passed over" in page
    assert "7 values would need events that it keeps no longer" in page
    assert "25% of the keys" in page
    assert web.get("/v1/status").json()["skew"]["differences"][0]["feature"] == "absent_5d"


def test_what_people_send_is_text(web, pipeline):
    """A dead letter and an alert are shown, not obeyed."""
    evil = b'<script>alert(1)</script><img src=x onerror="alert(2)">'
    pipeline.submit("attendance-topic", [evil])
    pipeline.raise_alert(Alert(name="x", severity="info", text="<b>bold</b>", now=pipeline.now, key=("<i>",)))
    for path in ("/pipeline", "/alerts", "/"):
        page = web.get(path).text
        assert "<script>alert" not in page
        assert "<img" not in page
        assert "<b>bold" not in page


def test_the_style_is_asked_for_once(web):
    first = web.get("/static/katmatic.css")
    assert web.get("/static/katmatic.css", headers={"If-None-Match": first.headers["etag"]}).status_code == 304


def test_another_application(web_of):
    """Where no roll is called, the newest answers and actions are shown."""

    class Payment(Event):
        payment: Key
        card: Key
        at: Time

    class Chargeback(Event):
        payment: Key
        at: Time

    class Fraud(FakePipeline):
        def __init__(self) -> None:
            super().__init__(classes=1, size=2, days=0)
            self.app = App("fraud")
            fraud = future.any(Chargeback, per=Payment, within="60d")
            windows = {"n": past.count(Payment, "1d", by=Payment.card)}
            self.app.predict("absence", fraud, features=windows, model=Rule())
            self._board = Board(self.app)

    pipeline = Fraud()
    with web_of(pipeline) as web:
        assert "Nothing was asked yet" in web.get("/").text
        pipeline.board().predictions(predictions([1], [("pay-1", "card-7")], [0.93], time=pipeline.now))
        pipeline.board().decisions(
            [
                Decision(
                    predictor="absence",
                    anchor=1,
                    key=("pay-1", "card-7"),
                    action="decline",
                    score=0.93,
                    now=pipeline.now,
                )
            ]
        )
        page = words(web.get("/").text)
        assert "pay-1, card-7" in page
        assert "93%" in page
        assert "decline" in page
        assert web.get("/trends").status_code == 200
    with web_of(_Nothing()) as web:
        for path in ("/", "/alerts", "/trends", "/pipeline", "/docs", "/openapi.json"):
            assert web.get(path).status_code == 200


class _Nothing(FakePipeline):
    def __init__(self) -> None:
        super().__init__(classes=1, size=2, days=0)
        self.app = App("empty")
        self._board = Board(self.app)


# --------------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = need_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, server) -> Iterator[Page]:
    """A page that must stay silent on its console."""
    context = browser.new_context(base_url=server.url)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on(
        "requestfailed", lambda request: said.append(f"{request.url} failed") if "stream" not in request.url else None
    )
    yield page
    context.close()
    assert said == []


def is_live(page: Page) -> None:
    page.wait_for_selector("#live[data-state=live]")


def test_a_chance_changes_after_an_event(page, pipeline):
    page.goto("/?group=1b")
    is_live(page)
    chance = page.locator("tr", has=page.locator("text=P0010")).locator(".figure")
    before = chance.inner_text()
    for i in (9, 11, 12, 13, 14, 15, 16):
        one = {"student_id": f"P{i:04d}", "timestamp": "2025-04-21 08:02:00"}
        pipeline.submit("attendance-topic", [json.dumps(one).encode()])
    page.wait_for_function(
        "before => [...document.querySelectorAll('tr')].some(r => r.innerText.includes('P0010')"
        " && !r.querySelector('.figure').innerText.includes(before))",
        arg=before,
    )
    row = page.locator("tr", has=page.locator("text=P0009"))
    assert "here" in row.inner_text()
    assert "08:02" in row.inner_text()


def test_an_alert_appears_on_every_page(page, pipeline):
    page.goto("/trends")
    is_live(page)
    pipeline.raise_alert(Alert(name="lag", severity="warning", text="Events wait for 61 s", now=pipeline.now))
    page.wait_for_selector("#banner >> text=Events wait for 61 s")
    assert page.locator("#banner").get_attribute("aria-live") == "polite"
    page.goto("/alerts")
    assert "Events wait for 61 s" in page.locator("main").inner_text()


def test_filters_swap_and_go_back(page):
    page.goto("/")
    is_live(page)
    page.evaluate("window.same = true")
    page.click("text=1c >> nth=0")
    page.wait_for_selector("h1 >> text=1c")
    assert page.url.endswith("group=1c")
    assert page.evaluate("window.same"), "the page was not left"
    page.go_back()
    page.wait_for_selector("h1 >> text=Monday")


def test_what_was_opened_stays_open(page, pipeline):
    page.goto("/pipeline")
    is_live(page)
    page.click("summary >> text=Go back")
    before = page.locator(".equation").inner_text()
    pipeline.submit("attendance-topic", [json.dumps(CHECK_IN).encode()])
    page.wait_for_function("before => document.querySelector('.equation').innerText !== before", arg=before)
    assert page.locator("#rollback-absence").get_attribute("open") is not None
    page.select_option("select", "1")
    page.click("text=Roll back >> nth=-1")
    page.wait_for_selector("text=rolled back")
    assert pipeline.status().models["absence"].version == 1


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PATHS)
def test_on_a_phone_nothing_runs_over_the_edge(page, path, scheme):
    page.set_viewport_size(PHONE)
    page.emulate_media(color_scheme=scheme)
    page.goto(path)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    wide = page.evaluate(
        "[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1"
        " && !e.closest('.filter, .scroll, pre, svg')).map(e => e.outerHTML.slice(0, 80))"
    )
    assert wide == []


CONTRAST = """() => {
  const number = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = one => {
    for (let at = one; at; at = at.parentElement) {
      const found = number(getComputedStyle(at).backgroundColor);
      if (found.length < 4 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const one of document.querySelectorAll('body *')) {
    const own = [...one.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    if (!own || one.closest('.unseen, svg, noscript')) continue;
    const [a, b] = [light(number(getComputedStyle(one).color)), light(behind(one))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) poor.push(`${one.className}: ${one.textContent.trim().slice(0, 30)} ${ratio.toFixed(2)}`);
  }
  return poor;
}"""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PATHS)
def test_every_word_can_be_read(page, pipeline, path, scheme):
    pipeline.submit("attendance-topic", [b"rubbish", json.dumps(CHECK_IN).encode()])
    for severity in ("info", "warning", "critical"):
        pipeline.raise_alert(Alert(name="x", severity=severity, text="A thing", now=pipeline.now))
    page.emulate_media(color_scheme=scheme)
    page.goto(path)
    assert page.evaluate(CONTRAST) == []


@pytest.mark.parametrize("path", PATHS)
def test_the_page_has_its_landmarks(page, path):
    page.goto(path)
    assert page.locator("main").count() == page.locator("h1").count() == page.locator("header").count() == 1
    assert page.evaluate(
        "[...document.querySelectorAll('table')].every(t => t.caption && t.querySelector('thead th[scope=col]'))"
    )
    assert page.evaluate(
        "[...document.querySelectorAll('svg')].every(s => s.ariaHidden || s.getAttribute('aria-label'))"
    )
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    page.keyboard.press("Tab")
    shown = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert shown != "none"


def test_when_the_server_goes_the_page_says_so(browser, web_of, pipeline):
    with web_of(pipeline) as web:
        context = browser.new_context(base_url=str(web.base_url))
        page = context.new_page()
        page.goto("/")
        is_live(page)
    page.wait_for_selector("#live[data-state=lost]")
    assert page.inner_text("#live") == "reconnecting"
    context.close()
