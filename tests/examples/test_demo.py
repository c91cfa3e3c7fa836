"""The first minute of a new user: the demo starts, a school's days run, the page shows the morning."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest
from playwright.sync_api import sync_playwright

from tests.components import need_chromium

pytestmark = pytest.mark.slow
PATIENCE_SECONDS = 240  # three trainings come before it is ready


@pytest.fixture
def demo(tmp_path):
    """The demo of a small school, at 1,200 times the clock's speed; killed if it does not end by itself."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "katmatic", "demo", "--days", "12", "--pupils", "120", "--speed", "1200"]
    command += ["--port", str(port), "--data", str(tmp_path / "data")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ)
    yield process, f"http://127.0.0.1:{port}"
    if process.poll() is None:
        process.kill()
    process.communicate()


def until(url, check):
    """Ask again and again until the answer is as it should be."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            answer = httpx.get(url, timeout=10)
        except httpx.TransportError:
            time.sleep(0.1)
            continue
        if found := check(answer):
            return found
        time.sleep(0.1)
    raise AssertionError(f"{url}: not within {PATIENCE_SECONDS} s")


def test_the_demo_shows_a_morning_and_ends_when_told(demo):
    process, url = demo
    until(f"{url}/healthz", lambda answer: answer.status_code == 200)
    until(f"{url}/readyz", lambda answer: answer.status_code == 200)
    until(f"{url}/metrics", lambda answer: re.search(r"katmatic_predictions_total\S* [1-9]", answer.text))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=need_chromium(), args=["--no-sandbox"])
        page = browser.new_page()
        wrong = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        for path, words in {
            "/": "Expected",
            "/alerts": "Alerts",
            "/trends": "Trends",
            "/pipeline": "none lost, none twice",
        }.items():
            page.goto(url + path)
            assert words in page.inner_text("main"), path
        browser.close()
    assert wrong == []
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, said.decode()
    assert "Traceback" not in said.decode()


def test_as_fast_as_it_can_it_prints_what_came_of_it(tmp_path):
    command = [sys.executable, "-m", "katmatic", "demo", "--days", "4", "--pupils", "100", "--speed", "max", "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    found = json.loads(ran.stdout.splitlines()[-1])
    wanted = "events applied duplicate late dead predictions labels alerts versions auc auc_rule brier seconds rss_mb"
    assert set(wanted.split()) <= set(found)
    assert found["events"] == found["applied"] + found["duplicate"] + found["late"] + found["dead"]
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_the_same_seed_is_the_same_school(tmp_path):
    figures = []
    for _ in range(2):
        command = [
            sys.executable,
            "-m",
            "katmatic",
            "demo",
            "--days",
            "3",
            "--pupils",
            "60",
            "--speed",
            "max",
            "--json",
        ]
        ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
        found = json.loads(ran.stdout.splitlines()[-1])
        figures.append(
            {name: found[name] for name in ("events", "applied", "duplicate", "late", "dead", "predictions")}
        )
    assert figures[0] == figures[1]
    assert figures[0]["events"] > 3 * 60
