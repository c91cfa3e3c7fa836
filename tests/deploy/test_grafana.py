"""The dashboard asks for nothing that the pipeline does not show, and fits together."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest
import yaml

from katmatic.deploy import grafana
from katmatic.monitoring import gauges
from katmatic.monitoring.vitals import HELP
from tests.components import need


@pytest.fixture
def files():
    return grafana.files("http://prometheus:9090")


@pytest.fixture
def dashboard(files):
    return json.loads(files[grafana.DASHBOARD])


def asked(dashboard):
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])] + [
        one["expr"] for one in dashboard["annotations"]["list"]
    ]


def test_every_metric_that_it_asks_for_is_one_of_ours(dashboard):
    known = set(re.findall(r"^# TYPE (\S+)", gauges.process(), re.M)) | {f"katmatic_{name}" for name in HELP}
    for expr in asked(dashboard):
        named = set(re.findall(r"\b(?:katmatic|process)_\w+", expr))
        assert named, expr
        assert {name.removesuffix("_bucket") for name in named} <= known, expr


def test_prometheus_reads_every_question(dashboard, tmp_path):
    promtool = shutil.which("promtool")
    need("promtool", promtool, "apt-get install prometheus")
    exprs = [expr.replace("$__rate_interval", "1m").replace("$job", "x") for expr in asked(dashboard)]
    rules = [{"record": f"asked:{number}", "expr": expr} for number, expr in enumerate(exprs)]
    for rule in rules:
        rule["record"] = rule["record"].replace(":", ":n")
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": rules}]}), "utf-8")
    ran = subprocess.run(
        [str(promtool), "check", "rules", str(tmp_path / "rules.yml")], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_no_picture_lies_upon_another(dashboard):
    taken = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_it_finds_its_prometheus(files, dashboard):
    source = yaml.safe_load(files["provisioning/datasources/katmatic.yaml"])["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    used = {target["datasource"]["uid"] for panel in dashboard["panels"] for target in panel.get("targets", [])}
    assert used == {source["uid"]}
    assert yaml.safe_load(files["provisioning/dashboards/katmatic.yaml"])["providers"][0]["options"]["path"]
