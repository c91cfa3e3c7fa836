"""Rules for Prometheus from an application's policies, proved by promtool."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from katmatic import App, future, past
from katmatic.demo import EXAMPLES, examples
from katmatic.deploy.prometheus import CONFIG, RULES, TEST, files
from katmatic.metrics import Metrics
from katmatic.monitoring.prometheus import text as shown
from katmatic.monitoring.vitals import Pulse
from katmatic.runtime import load_app
from tests.components import need
from tests.learning import CheckIn, Expected
from tests.program import ROOT


@pytest.fixture
def promtool():
    """A function that runs promtool on files, in a folder of their own."""
    found = shutil.which("promtool")
    need("promtool", found, "apt-get install prometheus")

    def run(folder, *arguments):
        return subprocess.run([str(found), *arguments], cwd=folder, capture_output=True, text=True, check=False)

    return run


def written(folder, app):
    for name, text in files(app, "127.0.0.1:8000").items():
        (folder / name).write_text(text, "utf-8")
    return folder


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(examples()))
    return lambda name: load_app(examples() / f"{name}.py")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "attendance")) for n in EXAMPLES])
def test_every_alert_fires_when_it_should_and_none_while_all_is_well(tmp_path, promtool, example, name):
    folder = written(tmp_path, example(name))
    for arguments in (("check", "config", CONFIG), ("check", "rules", RULES), ("test", "rules", TEST)):
        ran = promtool(folder, *arguments)
        assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.slow
def test_the_test_of_a_rule_can_fail(tmp_path, promtool, example):
    folder = written(tmp_path, example("attendance"))
    text = (folder / RULES).read_text("utf-8")
    (folder / RULES).write_text(
        text.replace('katmatic_lag_seconds{job=\\"attendance\\"} > 60', "vector(0) > 60"), "utf-8"
    )
    assert (folder / RULES).read_text("utf-8") != text
    ran = promtool(folder, "test", "rules", TEST)
    assert ran.returncode != 0
    assert "KatmaticLag" in ran.stdout + ran.stderr


def test_every_rule_has_its_test(example):
    for name in EXAMPLES:
        made = files(example(name), "x:1")
        recorded = re.findall(r"record: (\S+)", made[RULES])
        alerts = re.findall(r"alert: (\S+)", made[RULES])
        assert recorded
        assert set(re.findall(r"- expr: (\S+)", made[TEST])) == set(recorded)
        assert set(re.findall(r"alertname: (\S+)\n +exp_alerts:\n", made[TEST])) == set(alerts)
        assert all(len(re.findall(r"[^:]+", record)) == 3 for record in recorded), "level:metric:operations"


def test_one_action_that_fails_is_enough(tmp_path, promtool, example):
    """Its counter is there from the start, as 0, so that its first rise is seen."""
    folder = written(tmp_path, example("attendance"))
    metrics = Metrics()
    Pulse(metrics, predictors=["absence"])
    (at_first,) = (line for line in shown(metrics).splitlines() if 'result="error"' in line)
    series, _, value = at_first.replace("{", '{job="attendance",').rpartition(" ")
    labels = {"job": "attendance", "predictor": "absence", "result": "error", "severity": "warning"}
    fires = {"exp_labels": labels, "exp_annotations": {"summary": "Actions on absence raise"}}
    test = {
        "interval": "1m",
        "input_series": [{"series": series, "values": f"{value}x20 1x100"}],
        "alert_rule_test": [{"eval_time": "30m", "alertname": "KatmaticActionsFail", "exp_alerts": [fires]}],
    }
    once = {"rule_files": [RULES], "evaluation_interval": "1m", "tests": [test]}
    (tmp_path / "once.yml").write_text(json.dumps(once), "utf-8")
    ran = promtool(folder, "test", "rules", "once.yml")
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_policies_become_rules(example):
    attendance, fraud, shop = (files(example(name), "x:1")[RULES] for name in ("attendance", "fraud", "shop"))
    assert "KatmaticSilent_attendance_topic" in attendance
    assert "KatmaticSilent" not in shop
    assert 'job:katmatic_answer_seconds:p99_rate5m{job=\\"fraud\\"} > 0.05' in fraud, "declared: 50 ms"
    assert "KatmaticDeadlineMissed" not in shop
    assert "KatmaticUnderBaseline_ranking" in shop


@pytest.mark.slow
def test_a_number_is_judged_by_its_squared_error(tmp_path, promtool):
    from sklearn.ensemble import HistGradientBoostingRegressor

    app = App("counted")
    often = future.count(CheckIn, per=Expected, within="1h")
    features = {"before": past.count(CheckIn, "1d", by=Expected.student)}
    app.predict("often", often, features=features, model=HistGradientBoostingRegressor())
    folder = written(tmp_path, app)
    assert 'metric=\\"rmse\\"' in (folder / RULES).read_text("utf-8")
    ran = promtool(folder, "test", "rules", TEST)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_operations_say_what_to_do_about_every_alert(example):
    told = (ROOT / "docs" / "operations.md").read_text("utf-8")
    for name in EXAMPLES:
        for alert in re.findall(r"alert: (\w+)", files(example(name), "x:1")[RULES]):
            assert f"`{alert.partition('_')[0]}`" in told
