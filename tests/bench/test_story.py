"""The story of the whole architecture is told again, every part real."""

from __future__ import annotations

import pytest

from tests.bench.test_figures import figures
from tests.components import need, need_airflow, need_kafka
from tests.watching import found

pytestmark = pytest.mark.slow


def test_the_story(tmp_path):
    need_kafka()
    need_airflow(tmp_path)
    need("Prometheus and Alertmanager", found(), "apt-get install prometheus prometheus-alertmanager")
    told = figures("story")
    assert told["ok"], told["failure"]
    assert all(step["ok"] for step in told["steps"])
    by_name = {step["name"]: step for step in told["steps"]}
    assert by_name["a check-in is followed by an answer within a second"]["milliseconds"] < 1000
    assert by_name["every event is accounted for, and no request has failed"]["failures"] == 0
    assert len(told["steps"]) == 12
