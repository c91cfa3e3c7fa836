"""The benchmarks that need no data run, small, and what they claim holds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.components import need, need_kafka

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def figures(name, *arguments):
    command = [sys.executable, "-m", f"bench.{name}", *arguments, "--json"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def test_the_engine_equals_the_naive_count_in_every_bit():
    found = figures("engine", "--events", "40000")
    assert found["oracle_equal"]
    assert found["oracle_sample"] > 300
    assert found["events_per_cpu_s"] > 0


def test_the_worst_cases_equal_the_naive_count_in_every_bit():
    found = figures("worst", "--events", "40000")
    assert {*found["ratios"], "usual"} == {*found["equal"]} == {*found["ns"]}
    assert len(found["equal"]) == 11
    assert all(found["equal"].values())
    assert max(found["ratios"][name] for name in ("one_key", "label_one_key", "distinct_one_key", "top_one_key")) < 20


def test_the_path_answers_every_event():
    found = figures("path", "--events", "20000", "--seconds", "1")
    assert found["predictions"] == found["events"] == 20_000
    assert 0 < found["p50_ms"] <= found["p99_ms"]


def test_every_aggregate_equals_the_brute_force_and_sums_do_not_drift():
    found = figures("exact", "--reads", "4000")
    assert found["reads"] == 4000
    assert found["restarts"] > 5
    assert min(found["readings"].values()) > 100
    assert len(found["mismatches"]) == 12
    assert set(found["mismatches"].values()) == {0}
    moved = figures("exact", "--updates", "200000")
    assert moved["checks"] >= 10
    assert moved["bits_different"] == {"sum": 0, "mean": 0}
    assert moved["std_mismatches"] == 0


def test_killed_nothing_is_lost_doubled_or_different():
    found = figures("crash", "--kills", "5")
    assert (found["lost"], found["duplicated"], found["different"]) == (0, 0, 0)
    assert found["acknowledged"] > 1000
    assert found["decisions"] > 0


def test_on_a_full_disk_nothing_acknowledged_is_lost():
    found = figures("crash", "--full-disk")
    need("a small file system", "skipped" not in found, f"run it as root ({found.get('skipped')})")
    assert (found["lost"], found["duplicated"], found["different"]) == (0, 0, 0)
    assert found["times_full"] == 3
    assert found["posts_sent_again"] > 0


def test_a_training_set_is_what_was_served():
    found = figures("trainingset", "--events", "100000")
    assert (found["rows"], found["features"], found["equal"]) == (10_000, 10, True)
    assert 0 < found["positives"] < 10_000


def test_the_state_is_bounded_and_old_keys_are_forgotten():
    found = figures("state", "--keys", "20000")
    assert (found["keys"], found["windows"]) == (20_000, 10)
    assert found["month_keys"] == 120_000
    assert 20_000 <= found["known_keys"] < 26_000  # those of the last week, and an eighth
    assert found["month_ratio"] < 1.2


def test_after_a_kill_the_answers_are_those_of_the_life_before():
    found = figures("recovery", "--keys", "3000", "--lives", "1")
    assert found["lives_that_answered_differently"] == 0
    assert found["compared"] == 201
    assert found["replayed"] == found["events"] + 1 == 6001  # and the record that says which model answers
    assert found["small_batches_replayed"] == found["replayed"] + found["small_batches"] == 9001
    assert found["recovery_seconds"] > 0
    assert found["small_batches_seconds"] > 0
    assert found["start_seconds"] > 0


@pytest.mark.parametrize("name", ["log", "timestamp"])
def test_the_parts_run(name):
    assert figures(name)


def test_kafka_carries_every_event():
    need_kafka()
    found = figures("kafka", "--events", "20000", "--seconds", "2")
    assert found["predictions"] == found["events"] == 20_000
    assert found["bare_events_per_cpu_s"] > 0
    assert 0 < found["p50_ms"] <= found["p99_ms"]


def test_embedded_on_kafka_and_backfilled_mean_the_same():
    need_kafka()
    found = figures("onemeaning", "--events", "10000")
    assert found["equal"], found["hashes"]
    assert set(found["hashes"]) == {"embedded", "kafka", "kafka, four partitions", "backfilled"}
    assert all(found["hashes"]["kafka"].values())


def test_killed_on_kafka_nothing_is_lost_doubled_or_different():
    need_kafka()
    found = figures("kafkacrash", "--kills", "4")
    assert (found["lost"], found["duplicated"], found["different"]) == (0, 0, 0)
    assert found["events"] > 400


def test_what_short_lives_were_promised_is_there_once_while_the_broker_falls():
    need_kafka()
    found = figures("kafkalives", "--lives", "9")
    assert (found["lost"], found["duplicated"], found["different"]) == (0, 0, 0)
    assert (found["lives"], found["broker_kills"]) == (9, 3)
    assert found["promised"] > 0


def test_an_event_costs_what_it_costs_however_many_there_were(tmp_path):
    picture = tmp_path / "scale.svg"
    given = ("--events", "100000", "--keys", "10000", "--path", "100000", "--plot", str(picture))
    found = figures("scale", *given)
    assert set(found["ns_by_keys"]) == {"1000", "10000"}
    assert all(0 < ns < 100_000 for name in ("events", "keys", "path") for ns in found[f"ns_by_{name}"].values())
    assert "<svg" in picture.read_text("utf-8")


def test_the_peers_that_are_installed_agree_with_us():
    found = figures("peers", "--events", "3000")
    assert found["events_per_cpu_s"]["ours"] > 0
    assert set(found["agree"]) | set(found["missing"]) == {"bytewax", "duckdb", "polars", "river"}
    for name in {"bytewax", "duckdb", "polars"} & set(found["agree"]):
        assert found["agree"][name] == 1.0, name
    assert found["agree"].get("river", 1.0) > 0.5
