"""The roll call: who is expected, who came when, who is missing; and how the days went."""

from __future__ import annotations

import dataclasses
from datetime import date, timedelta

import numpy as np
import pytest

from katmatic import future, past
from katmatic.monitoring import board as module
from katmatic.monitoring.board import Board, Standing
from katmatic.records import Decision
from tests.monitoring.blocks import MINUTE, CheckIn, Expected, Model, bell, labels, predictions, school

A, B, C, D = ("a", "9b"), ("b", "9b"), ("c", "10a"), ("d", "10a")
KEYS = [A, B, C, D]


@pytest.fixture
def board():
    """Four are expected at the bell, asked two hours before."""
    board = Board(school())
    board.labels(labels(range(4), KEYS, "open", [None] * 4, time=bell()))
    board.predictions(predictions(range(4), KEYS, [0.1, 0.9, 0.3, 0.2], time=bell(), at=bell() - 120 * MINUTE))
    return board


def standings(board, now):
    return {line.key[0]: line.standing.value for group in board.roll("absence", now).groups for line in group.lines}


def test_before_the_bell_all_are_expected(board):
    roll = board.roll("absence", bell() - 60 * MINUTE)
    assert (roll.day, roll.total, roll.counts[Standing.EXPECTED]) == (date(2025, 4, 21), 4, 4)
    assert roll.names == ("9b", "10a")
    assert [line.key[0] for line in roll.groups[0].lines] == ["b", "a"]
    assert [line.key[0] for group in roll.groups for line in group.lines if line.is_likely] == ["b"]


def test_a_morning(board):
    board.labels(labels([0], [A], "final", [0.0], time=bell(), evidence=bell() - 5 * MINUTE))
    board.labels(labels([2], [C], "final", [0.0], time=bell(), evidence=bell() + 7 * MINUTE))
    assert standings(board, bell() + 8 * MINUTE) == {"a": "here", "b": "missing", "c": "late", "d": "missing"}
    board.labels(labels([1, 3], [B, D], "final", [1.0, 1.0], time=bell()))
    assert standings(board, bell() + 25 * MINUTE) == {"a": "here", "b": "absent", "c": "late", "d": "absent"}
    (late,) = [line for group in board.roll("absence", bell()).groups for line in group.lines if line.key == C]
    assert late.late_by == timedelta(minutes=7)
    assert late.since == bell() + 7 * MINUTE


def test_exactly_at_the_bell_is_in_time(board):
    board.labels(labels([0], [A], "final", [0.0], time=bell(), evidence=bell()))
    assert standings(board, bell())["a"] == "here"
    assert standings(board, bell())["b"] == "missing"
    assert standings(board, bell() - 1)["b"] == "expected"


def test_a_late_upload_revises(board):
    board.labels(labels([1], [B], "final", [1.0], time=bell()))
    board.labels(labels([1], [B], "revised", [0.0], time=bell(), evidence=bell() - MINUTE))
    assert standings(board, bell() + 60 * MINUTE)["b"] == "here"


def test_a_void_label_is_unknown(board):
    board.labels(labels([1], [B], "censored", [None], time=bell()))
    assert standings(board, bell() + 60 * MINUTE)["b"] == "unknown"


def test_who_is_here_is_not_likely_to_be_absent(board):
    board.labels(labels([1], [B], "final", [0.0], time=bell(), evidence=bell()))
    assert board.roll("absence", bell()).likely == 0


def test_one_group(board):
    roll = board.roll("absence", bell(), group="10a")
    assert [group.name for group in roll.groups] == ["10a"]
    assert roll.total == 2
    assert roll.names == ("9b", "10a")
    assert board.roll("absence", bell(), group="nowhere").total == 0


def test_the_newest_day_is_shown_until_another_has_something(board):
    assert board.roll("absence", bell(22)).day == date(2025, 4, 21)
    board.labels(labels([9], [A], "open", [None], time=bell(23)))
    assert board.roll("absence", bell(22)).day == date(2025, 4, 21), "what is published ahead waits"
    assert board.roll("absence", bell(23) - 60 * MINUTE).total == 1


def test_the_day_is_that_of_the_zone():
    app = school("Pacific/Kiritimati")
    board = Board(app)
    moment = bell(21, app)
    board.labels(labels([0], [A], "open", [None], time=moment))
    assert board.roll("absence", moment).day == date(2025, 4, 21)


def test_nothing_at_all():
    board = Board(school())
    assert (board.roll("absence", 0).day, board.roll("absence", 0).total) == (None, 0)
    assert board.trend("absence") == ()
    assert board.latest("absence", A) is None
    assert board.newest("absence") == []


def test_the_trend_of_days_that_are_over(board):
    assert board.trend("absence") == ()
    board.labels(labels([0, 2, 3], [A, C, D], "final", [0.0] * 3, time=bell(), evidence=bell()))
    assert board.trend("absence") == (), "those who came are known first, and are not like the rest"
    board.labels(labels([1], [B], "final", [1.0], time=bell()))
    (day,) = board.trend("absence")
    assert (day.anchors, day.known, day.actual, day.rate) == (4, 4, 1.0, 0.25)
    assert day.forecast == pytest.approx(1.5)
    assert [(d.known, d.actual) for d in board.trend("absence", group="9b")] == [(2, 1.0)]
    board.labels(labels([1], [B], "revised", [0.0], time=bell(), evidence=bell()))
    assert board.trend("absence")[0].actual == 0.0


def test_the_forecast_is_the_first_of_the_day(board):
    board.predictions(predictions([1], [B], [0.99], time=bell(), at=bell()))
    board.labels(labels(range(4), KEYS, "final", [0.0, 1.0, 0.0, 0.0], time=bell()))
    assert board.trend("absence")[0].forecast == pytest.approx(1.5)


def test_a_day_without_a_model_has_no_forecast():
    board = Board(school())
    board.predictions(predictions([0], [A], None, time=bell()))
    board.labels(labels([0], [A], "final", [1.0], time=bell()))
    assert (board.trend("absence")[0].forecast, board.trend("absence")[0].forecast_rate) == (None, None)
    assert board.latest("absence", A).state == "learning"


def test_the_latest_of_a_key(board):
    assert board.latest("absence", B).score == 0.9
    assert board.latest("absence", ("b",)).score == 0.9
    assert board.latest("absence", ("b", "10a")) is None
    assert board.latest("nothing", B) is None
    board.predictions(predictions([7], [("b", "9c")], [0.5], time=bell(22)))
    assert board.latest("absence", ("b",)).key == ("b", "9c")
    assert board.latest("absence", B).score == 0.9
    assert [row.key[0] for row in board.newest("absence", 2)] == ["b", "d"]


def test_what_is_kept_has_a_bound(monkeypatch):
    monkeypatch.setattr(module, "ANCHORS_LIMIT", 10)
    monkeypatch.setattr(module, "LATEST_LIMIT", 10)
    monkeypatch.setattr(module, "DAYS_LIMIT", 3)
    board = Board(school())
    for i in range(40):
        board.predictions(predictions([i], [(f"p{i}", "9b")], [0.5], time=bell(1 + i // 4)))
        board.labels(labels([i], [(f"p{i}", "9b")], "final", [1.0], time=bell(1 + i // 4)))
    sheet = board._sheets["absence"]
    assert len(sheet.cells) == 10 <= len(sheet.latest) == len(sheet.firsts) <= 20
    assert sum(len(day) for day in sheet.days.values()) == 10
    assert [day.day.day for day in board.trend("absence")] == [8, 9, 10]
    assert board.latest("absence", ("p0",)) is None
    assert board.latest("absence", ("p39",)) is not None


def coming(n):
    """A board of a predictor without a roll call; of so many pupils the keys, the chances, and who came."""
    app = school()
    happens = future.any(CheckIn, per=Expected, within="15m")
    app.predict("coming", happens, features={"rate": past.mean(happens, "60d", by=Expected.student)}, model=Model())
    board, random = Board(app), np.random.default_rng(1)
    chances, keys = random.random(n), [(f"p{i}", "9b") for i in range(n)]
    came = (random.random(n) < chances).astype(float)
    return board, keys, chances, came


def test_days_are_known_though_more_anchors_wait_for_their_labels_than_are_kept(monkeypatch):
    monkeypatch.setattr(module, "ANCHORS_LIMIT", 2_000)
    n, part = 60_000, 500
    board, keys, chances, came = coming(n)

    def feed(first, state, values):
        place = slice(first, first + part)
        block = labels(range(first, first + part), keys[place], state, values, time=bell(1 + 2 * first // n))
        board.labels(dataclasses.replace(block, label="coming"))

    for first in range(0, n, part):  # two days, half of them each
        place = slice(first, first + part)
        block = predictions(range(first, first + part), keys[place], chances[place], time=bell(1 + 2 * first // n))
        board.predictions(dataclasses.replace(block, predictor="coming"))
        feed(first, "open", [None] * part)
    assert board.trend("coming") == ()
    assert len(board._sheets["coming"].cells) == 2_000
    for state in ("provisional", "final"):
        for first in range(0, n, part):
            feed(first, state, came[first : first + part])
        days = board.trend("coming")
        assert [day.day.day for day in days] == [1, 2]
        for half, day in enumerate(days):
            mine = slice(half * n // 2, (half + 1) * n // 2)
            assert day.anchors == day.known == pytest.approx(n / 2, rel=0.15)
            assert day.rate == pytest.approx(came[mine].mean(), abs=0.08)
            assert day.forecast_rate == pytest.approx(chances[mine].mean(), abs=0.05)


def test_of_a_day_with_very_many_anchors_an_even_sample_counts_for_all(monkeypatch):
    monkeypatch.setattr(module, "DAY_LIMIT", 1_000)
    n, part = 40_000, 50
    board, keys, chances, came = coming(n)

    def feed(positions, day):
        mine = list(positions)
        times = {"time": bell(day), "at": bell(day)}
        block = predictions(mine, [keys[i] for i in mine], chances[mine], **times)
        board.predictions(dataclasses.replace(block, predictor="coming"))
        for state, values in ("open", [None] * len(mine)), ("final", came[mine]):
            block = labels(mine, [keys[i] for i in mine], state, values, time=bell(day))
            board.labels(dataclasses.replace(block, label="coming"))

    feed(range(900), 1)
    for first in range(1_000, n, part):
        feed(range(first, first + part), 2)
    few, many = board.trend("coming")
    assert (few.anchors, few.known, few.actual, few.is_estimate) == (900, 900, came[:900].sum(), False)
    assert many.is_estimate
    assert many.anchors == many.known == pytest.approx(n - 1_000, rel=0.1)
    assert many.rate == pytest.approx(came[1_000:].mean(), abs=0.05)
    assert many.forecast_rate == pytest.approx(chances[1_000:].mean(), abs=0.03)
    sheet = board._sheets["coming"]
    assert 1_000 < len(sheet.cells) - 900 < 1_000 + 500 * 7, "each time that half as many again came, half as many stay"
    feed(range(1_000, 1_900), 2)  # late versions of the same: nothing is counted twice
    assert board.trend("coming")[1].anchors == many.anchors
    assert board.latest("coming", keys[n - 1]) is not None, "each key's latest answer is there all the same"


def test_a_roll_calls_all_of_the_newest_though_their_labels_are_open(monkeypatch):
    monkeypatch.setattr(module, "ANCHORS_LIMIT", 100)
    board, keys = Board(school()), [(f"p{i}", "9b") for i in range(300)]
    for day in (1, 2, 3):
        mine = range(100 * day - 100, 100 * day)
        board.predictions(predictions(mine, [keys[i] for i in mine], [0.5] * 100, time=bell(day)))
    roll = board.roll("absence", bell(3))
    assert roll.total == 100
    assert sorted(line.anchor for group in roll.groups for line in group.lines) == list(range(200, 300))


def test_a_large_block_is_not_kept_alive_by_one_row():
    board = Board(school())
    keys = [(f"p{i}", "9b") for i in range(100)]
    scores = [i / 100 for i in range(100)]
    board.predictions(predictions(range(100), keys, scores, time=bell(), values=np.arange(100.0)[:, None]))
    found = board.latest("absence", ("p37",))
    assert (found.anchor, found.score, found.features) == (37, 0.37, {"rate": 37.0})
    latest = board._sheets["absence"].latest
    assert max(len(latest.get(key)[0]) for key in latest) == module.PIECE_ROWS


def test_actions_newest_first(board):
    taken = [Decision(predictor="absence", anchor=i, key=A, action=f"a{i}", score=0.9, now=i) for i in range(3)]
    board.decisions(taken)
    assert [one.action for one in board.actions("absence", 2)] == ["a2", "a1"]


def test_others_are_none_of_ours(board):
    before = board.roll("absence", bell())
    board.labels(
        labels([5], [A], "open", [None], time=bell()).__class__(
            **{**vars(labels([5], [A], "open", [None], time=bell())), "label": "x"}
        )
    )
    assert board.roll("absence", bell()) == before
