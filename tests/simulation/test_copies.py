"""Copies that follow one pipeline: they answer as it does, take in for it, and outlive it."""

from __future__ import annotations

import signal
import time
import urllib.error

import pytest

from tests.components import need_kafka, topics_of
from tests.program import Program

pytestmark = pytest.mark.slow


@pytest.fixture(params=["sqlite", "kafka"])
def where(request, tmp_path):
    return ("--log", f"kafka://{need_kafka()}/{topics_of(tmp_path)}") if request.param == "kafka" else ()


def test_copies_answer_as_the_owner_does_and_go_on_when_it_is_killed(tmp_path, where):
    app = tmp_path / "app.py"
    app.write_text("from tests.apps import door\n\napp = door()\n", "utf-8")
    owner = Program("run", app, "--data", str(tmp_path / "data"), *where, "--no-training", said=tmp_path / "owner")
    # On Kafka a copy shares nothing with the owner but the broker.
    data = str(tmp_path / "copies") if where else str(tmp_path / "data")
    copies = [Program("serve", app, "--data", data, *where, said=tmp_path / f"copy{i}") for i in range(2)]
    try:
        owner.start().until(lambda found: found["ready"])
        for copy in copies:
            copy.start()
        for copy in copies:
            copy.until(lambda found: found["ready"])
        assert copies[0].ask("/v1/events/ring", ring("ann")) == {"accepted": 1}
        told = [each.until(is_about("ann"), "/v1/predictions/open/ann") for each in (owner, *copies)]
        assert told[0] == told[1] == told[2]
        owner.end(signal.SIGKILL)
        assert copies[1].ask("/v1/events/ring", ring("bob")) == {"accepted": 1}  # durable, though nobody reads it yet
        assert copies[0].ask("/v1/predictions/open/ann") == told[0]
        asked = [copy.ask("/v1/predict/open", {"visitor": "ann", "at": told[0]["time"]}) for copy in copies]
        assert asked[0]["features"] == asked[1]["features"]
        with pytest.raises(urllib.error.HTTPError) as refused:
            copies[0].ask("/v1/predictions/open/bob")
        with refused.value:
            assert refused.value.code == 404
        owner.start()
        told = [each.until(is_about("bob"), "/v1/predictions/open/bob") for each in (owner, *copies)]
        assert told[0] == told[1] == told[2]
        counts = [each.ask("/v1/status")["events"] for each in (owner, *copies)]
        assert {count["applied"] for count in counts} == {2}
        assert all(count["conserved"] for count in counts)
    finally:
        for program in (*copies, owner):
            program.end()


def ring(visitor):
    return {"visitor": visitor, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def is_about(visitor):
    return lambda found: found["key"]["visitor"] == visitor
