"""A real Prometheus and a real Alertmanager watch the HTTP interface, and call it when a model has declined."""

from __future__ import annotations

import shutil
import subprocess
import time

import pytest

from katmatic import Retrain
from katmatic.deploy.prometheus import ALERTS, files
from katmatic.serving.api import make_api
from katmatic.serving.server import Server
from tests.components import need
from tests.learning import school
from tests.serving.fake import FakePipeline
from tests.watching import Watching, found

PATIENCE_SECONDS = 60


def until(check):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if check():
            return
        time.sleep(0.1)
    raise AssertionError(f"not within {PATIENCE_SECONDS} s")


def says_that(pipeline, error):
    """Let the model's error be so; the rules' is 0.25."""
    metrics = pipeline.metrics
    metrics.set("model_judged_rows", 600, predictor="absence")
    for who, value in (("model", error), ("base_rate", 0.25), ("own_past_rate", 0.25)):
        metrics.set("model_quality", value, predictor="absence", metric="brier", who=who)


@pytest.mark.slow
def test_a_model_that_declines_is_reviewed_and_the_alert_ends_when_it_is_good_again(tmp_path):
    need("Prometheus and Alertmanager", found(), "apt-get install prometheus prometheus-alertmanager")
    app, pipeline = school(retrain=Retrain(on_decline="6s")), FakePipeline()
    server = Server(make_api(pipeline), port=0)
    server.start()
    watching = Watching(app, server.url.removeprefix("http://").rstrip("/"), tmp_path)
    try:
        says_that(pipeline, 0.1)
        watching.start()
        until(lambda: watching.value('up{job="school"}') == 1)
        until(lambda: watching.value('katmatic_model_quality{who="model"}') == 0.1)
        assert watching.firing() == set()
        assert pipeline.reviewed == []
        says_that(pipeline, 0.3)
        until(lambda: pipeline.reviewed)
        assert pipeline.reviewed == ["the alert KatmaticUnderBaseline_absence"]
        assert watching.firing() == {"KatmaticUnderBaseline_absence"}
        pipeline.reviewed.clear()
        until(lambda: pipeline.reviewed)  # told again while it goes on
        says_that(pipeline, 0.1)
        until(lambda: not watching.firing())
    finally:
        watching.stop()
        server.stop()


def test_alertmanager_takes_its_file_with_a_token_and_without(tmp_path):
    tool = shutil.which("amtool")
    need("amtool", tool, "apt-get install prometheus-alertmanager")
    for token_file in ("", "/run/secrets/token"):
        text = files(school(retrain=Retrain(on_decline="7d")), "pipeline:8000", token_file=token_file)[ALERTS]
        (tmp_path / ALERTS).write_text(text, "utf-8")
        ran = subprocess.run(
            [str(tool), "check-config", ALERTS], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert ("credentials_file" in text) is bool(token_file)
        assert "repeat_interval: 151200s" in text, "four times in seven days"
