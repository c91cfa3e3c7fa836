"""The proof beside the real program: one wrong bit in a served feature turns the page red within ten seconds."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import urllib.request
from datetime import UTC, datetime

import pytest
from playwright.sync_api import expect, sync_playwright

from katmatic.log.sqlite import open_readonly
from katmatic.records import ALERTS
from katmatic.training.proof import BURST_SECONDS, cpu_share
from tests.components import need_chromium
from tests.program import Program
from tests.serving.test_pages import FLAGS

# The application whose engine errs: from the moment at which a file called `plant` is there, the next row with a known
# mean is logged with its last bit turned, once. The proof loads the same file, and only ever reads rows.
APP = """
from dataclasses import replace
from pathlib import Path

import numpy as np

from katmatic import pipeline
from tests.apps import door

app = door()
plant = Path(__file__).with_name("plant")
encode = pipeline.encode_predictions


def planted(block):
    values, column = block.values.copy(), block.columns.index("loudness_1h")
    known = np.flatnonzero(~np.isnan(values[:, column]))
    if plant.exists() and len(known):
        plant.unlink()
        values.view(np.uint64)[known[0], column] ^= np.uint64(1)
        block = replace(block, values=values)
    return encode(block)


pipeline.encode_predictions = planted
"""
RATE = 50  # rings a second
FOUND_SECONDS = 10
PROVED_ROWS = 100  # before the bit is turned

pytestmark = pytest.mark.slow


class Sender(threading.Thread):
    """Rings, again and again."""

    def __init__(self, program):
        super().__init__(daemon=True)
        self._program, self.sent, self.stop = program, 0, threading.Event()

    def run(self):
        while not self.stop.wait(1 / RATE):
            now = datetime.now(UTC).isoformat()
            event = {"visitor": f"v{self.sent % 20}", "at": now, "loudness": self.sent % 7 + 0.1}
            body = json.dumps(event).encode()
            request = urllib.request.Request(
                f"{self._program.url}/v1/events/ring", body, {"content-type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=30):
                self.sent += 1


def test_one_wrong_bit_turns_the_page_red(tmp_path):
    chromium = need_chromium()
    (tmp_path / "app.py").write_text(APP, "utf-8")
    program = Program("run", tmp_path / "app.py", "--data", "data", "--no-training", said=tmp_path / "said.txt")
    sender = Sender(program)
    program.start()
    try:
        program.until(lambda found: found["ready"])
        sender.start()
        program.until(lambda found: found["skew"] and found["skew"]["skews"][0]["rows"] >= PROVED_ROWS)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
            page = browser.new_page(base_url=program.url)
            page.goto("/pipeline")
            card = page.get_by_role("region", name="Served features, computed again from the log")
            expect(card).to_contain_text("0 skewed")
            expect(card).to_contain_text("zero skew")
            (tmp_path / "plant").touch()
            began = time.monotonic()
            expect(card).to_contain_text("1 skewed", timeout=1000 * FOUND_SECONDS)
            took = time.monotonic() - began
            expect(card).to_contain_text("loudness_1h was served as")
            red = card.locator(".term.wrong b").evaluate("node => getComputedStyle(node).color")
            green = page.locator(".verdict.good").first.evaluate("node => getComputedStyle(node).color")
            assert red != green
            browser.close()
        found = program.ask("/v1/status")
        with urllib.request.urlopen(f"{program.url}/metrics", timeout=10) as answer:
            metrics = answer.read().decode()
        program.until(lambda found: [alert["name"] for alert in found["firing"]] == ["skew"])
    finally:
        sender.stop.set()
        sender.join(60) if sender.ident else None
        program.end()
    assert took < FOUND_SECONDS
    (skew,) = found["skew"]["skews"]
    assert skew["mismatches"] == 1
    assert skew["unprovable"] == skew["skipped"] == 0
    assert found["skew"]["cpu_seconds"] < cpu_share() * found["skew"]["seconds"] + 2 * BURST_SECONDS
    assert 'katmatic_skew_mismatches_total{predictor="open"} 1' in metrics
    with contextlib.closing(open_readonly(tmp_path / "data" / "log.db")) as log:
        assert any(b"are not what the log says" in value for _, value in log.scan(ALERTS))
