"""The simulated school."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter
from datetime import date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from katmatic.errors import InputError
from katmatic.moment import to_datetime
from katmatic.sources.simulator import Faults, School
from katmatic.sources.simulator.school import BELL, ROLL_CALL, TOPIC, is_after_break, is_before_break, is_school_day
from katmatic.timestamp import parse_micros

START = date(2025, 4, 21)  # a Monday
KATHMANDU = ZoneInfo("Asia/Kathmandu")


def check_ins(arrivals):
    found = []
    for arrival in arrivals:
        try:
            read = json.loads(arrival.value)
        except ValueError:
            continue
        if isinstance(read.get("student_id"), str) and read["student_id"] and read.get("gate"):
            found.append((arrival.now, read))
    return found


def digest(arrivals):
    return hashlib.sha256(repr(list(arrivals)).encode()).hexdigest()


def test_a_read_is_written_as_the_readers_of_the_example_write_it():
    for arrival in School(faults=Faults.none()).arrivals(days=1):
        assert arrival.topic == TOPIC == "attendance-topic"
        if arrival.value:
            read = json.loads(arrival.value)
            assert list(read) == ["student_id", "timestamp", "status", "gate"]
            assert json.dumps(read).encode() == arrival.value
            assert parse_micros(read["timestamp"], KATHMANDU) <= arrival.now


def test_the_same_seed_gives_the_same_bytes_in_another_process():
    code = (
        "import hashlib; from katmatic.sources.simulator import School;"
        "print(hashlib.sha256(repr(list(School(seed=7).arrivals(days=3))).encode()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert other.stdout.strip() == digest(School(seed=7).arrivals(days=3))
    assert digest(School(seed=8).arrivals(days=3)) != digest(School(seed=7).arrivals(days=3))


def test_a_day_is_the_same_however_it_is_reached():
    whole = list(School(seed=2).arrivals(days=20))
    school = School(seed=2)
    pieces = [a for n in reversed(range(20)) for a in reversed(list(school.arrivals(START + timedelta(days=n), 1)))]
    assert pieces[::-1] == whole
    assert School(seed=2).true_probability("P0042", date(2025, 9, 1)) == school.true_probability(
        "P0042", date(2025, 9, 1)
    )


def test_messages_come_in_order_and_only_on_school_days():
    now = [arrival.now for arrival in School(seed=1).arrivals(days=14)]
    assert now == sorted(now)
    days = {to_datetime(moment).astimezone(KATHMANDU).date() for moment in now}
    assert days == {day for n in range(14) if is_school_day(day := START + timedelta(days=n))}
    assert all(day.weekday() != 5 for day in days)


def test_without_faults_who_was_there_was_read_once_and_in_time():
    school = School(seed=3, faults=Faults.none())
    reads = Counter()
    for now, read in check_ins(school.arrivals(days=5)):
        time = parse_micros(read["timestamp"], KATHMANDU)
        assert 0 <= now - time < 10_000_000
        local = to_datetime(time).astimezone(KATHMANDU)
        came_late = local - local.replace(hour=0, minute=0, second=0) >= BELL + ROLL_CALL
        assert came_late == school.absent(read["student_id"], local.date())
        reads[(read["student_id"], local.date())] += 1
    assert set(reads.values()) == {1}
    for day in (START, date(2025, 4, 25)):
        for student in school.students:
            assert (student, day) in reads or school.absent(student, day)


def test_every_read_of_a_card_arrives_though_readers_fail():
    """What arrives in a month is what the gates read; faults delay or repeat, and lose nothing."""
    faults = Faults(reader_outages=0.9, network_outages=0.9, late_uploads=0.1, forgotten_cards=0.0)
    school, calm = School(seed=4, faults=faults), School(seed=4, faults=Faults.none())
    there = {(r["student_id"], r["timestamp"][:10]) for _, r in check_ins(school.arrivals(days=10))}
    assert there == {(r["student_id"], r["timestamp"][:10]) for _, r in check_ins(calm.arrivals(days=10))}


def test_a_dead_reader_sends_what_it_kept_in_order_afterwards():
    school = School(seed=5, faults=Faults(reader_outages=0.99, repeats=0, exact_repeats=0, late_uploads=0))
    delayed = [(now, r) for now, r in check_ins(school.arrivals(days=1)) if r["gate"] == "north"]
    late = [
        (now, parse_micros(r["timestamp"], KATHMANDU))
        for now, r in delayed
        if now - parse_micros(r["timestamp"], KATHMANDU) > 20_000_000
    ]
    assert late
    first = late[0][0]
    burst = [time for now, time in late if now - first < 5_000_000]
    assert all(later - earlier > -8_000_000 for earlier, later in pairwise(burst))


def test_silence_means_broken():
    heard = [a.now for a in School(seed=6, faults=Faults.none()).arrivals(days=1) if not a.value]
    assert len(heard) == 11 * 60
    assert set(np.diff(heard)) == {60_000_000}
    broken = School(seed=6, faults=Faults(network_outages=0.99))
    messages = list(broken.arrivals(days=1))
    gap = max(later.now - earlier.now for earlier, later in pairwise(messages))
    assert gap > 2 * 60_000_000


def test_a_forgotten_card_is_put_right_later_with_the_time_of_the_arrival():
    school = School(seed=7, faults=Faults(forgotten_cards=0.2, corrected_same_day=0.5, never_corrected=0.1))
    corrected = [(now, r) for now, r in check_ins(school.arrivals(days=15)) if r["gate"] == "register"]
    delays = np.array([now - parse_micros(r["timestamp"], KATHMANDU) for now, r in corrected]) / 3.6e9
    assert len(corrected) > 500
    assert delays.min() > 0.3
    assert (delays > 20).mean() == pytest.approx(0.4, abs=0.1)
    assert not any(school.absent(r["student_id"], date.fromisoformat(r["timestamp"][:10])) for _, r in corrected)


def test_a_foreign_message_comes_now_and_then():
    school = School(seed=8, faults=Faults(foreign=0.05))
    messages = [a.value for a in school.arrivals(days=10) if a.value]
    foreign = len(messages) - len(check_ins(School(seed=8, faults=Faults(foreign=0.05)).arrivals(days=10)))
    assert foreign / len(messages) == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize("seed", [0, 1])
def test_absence_can_be_learned_and_not_from_the_rate_of_each_pupil_alone(seed):
    school = School(seed=seed)
    truth, pupils = school.truth(days=365), len(school.students)
    outcome = truth.outcome.reshape(-1, pupils)
    seen = np.cumsum(outcome, 0) - outcome
    rate = seen / np.maximum(1, np.arange(len(outcome)))[:, None]
    assert truth.probability.mean() == pytest.approx(truth.outcome.mean(), abs=0.005)
    assert 0.80 <= roc_auc_score(truth.outcome, truth.probability) <= 0.86
    assert 0.66 <= roc_auc_score(outcome[30:].ravel(), rate[30:].ravel()) <= 0.74


def test_the_true_chance_is_calibrated():
    truth = School(seed=9).truth(days=365)
    for low, high in ((0, 0.05), (0.05, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 1)):
        inside = (truth.probability >= low) & (truth.probability < high)
        error = 4 * np.sqrt(0.25 / inside.sum())
        assert truth.outcome[inside].mean() == pytest.approx(truth.probability[inside].mean(), abs=error)


def test_it_stands_in_for_the_school_of_the_example(monkeypatch):
    school = School(pupils=95)
    monkeypatch.setitem(sys.modules, "school", school)
    import school as module

    day = datetime(2025, 4, 21, tzinfo=KATHMANDU)
    pupils = list(module.roster(day))
    assert len(pupils) == 95
    assert {class_id for class_id, _ in pupils} == {"1a", "4a", "7a"}
    assert module.first_bell(day) == datetime(2025, 4, 21, 8, 15, tzinfo=KATHMANDU)
    assert list(module.roster(datetime(2025, 4, 26, tzinfo=KATHMANDU))) == []
    module.message("1a", "P0001: 83% chance of being absent today")
    assert list(school.messages) == [("1a", "P0001: 83% chance of being absent today")]


def test_names_are_invented_and_classes_have_their_own():
    school = School()
    assert len(set(school.classes)) == len(school.classes) == 20
    assert all(school.name(student) for student in school.students)
    assert school.name("P0001") == School().name("P0001")


def test_the_calendar():
    assert not is_school_day(date(2025, 4, 26))  # a Saturday
    assert not is_school_day(date(2025, 10, 1))
    assert is_before_break(date(2025, 9, 26))
    assert is_after_break(date(2025, 10, 8))
    assert not is_before_break(date(2025, 4, 25))  # before an ordinary Saturday
    assert not is_after_break(date(2025, 4, 27))


@pytest.mark.parametrize("wrong", [{"pupils": 0}, {"days": -1}, {"rate": 0.9}])
def test_a_school_that_cannot_be_is_refused(wrong):
    with pytest.raises(InputError):
        School(**wrong)


def test_questions_that_have_no_answer_are_refused():
    school = School()
    for wrong in (
        lambda: school.true_probability("P9999", START),
        lambda: school.absent("P0001", date(2025, 4, 26)),
        lambda: school.absent("P0001", date(2025, 4, 20)),
        lambda: list(school.arrivals(date(2025, 4, 1), 1)),
        lambda: Faults(repeats=1.5),
        lambda: Faults(corrected_same_day=0.9, never_corrected=0.2),
    ):
        with pytest.raises(InputError):
            wrong()


def test_a_school_without_a_rate_has_one_as_schools_differ():
    rates = [School(seed=seed, pupils=300, rate=None).truth(days=90).probability.mean() for seed in range(40)]
    assert 0.05 < np.median(rates) < 0.12
    assert max(rates) > 2 * min(rates)
