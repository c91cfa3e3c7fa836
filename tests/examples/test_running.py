"""The applications of `examples/` at work on a simulated school, bank and shop: they predict, learn and act."""

from __future__ import annotations

import contextlib
import sys
from datetime import date

import pytest

from katmatic.clock import ManualClock
from katmatic.demo import examples, run_days
from katmatic.drive import drive
from katmatic.records import LabelState
from katmatic.runtime import Runtime, load_app
from katmatic.settings import Settings
from katmatic.sources.simulator import Bank, Shop

pytestmark = pytest.mark.slow
FIRST = date(2025, 4, 20)


@pytest.fixture
def running(tmp_path, monkeypatch):
    """A function that runs an example on simulated days; gives back its runtime, and all turns."""
    monkeypatch.syspath_prepend(str(examples()))
    with contextlib.ExitStack() as opened:

        def run(name, world, days):
            arrivals = list(world.arrivals(FIRST, days))
            clock = ManualClock(arrivals[0].now)
            path = examples() / f"{name}.py"
            runtime = Runtime(load_app(path), path, Settings(data=str(tmp_path / name)), clock=clock, waits=True)
            opened.enter_context(runtime)
            turns = []
            drive(runtime.pipeline, clock, arrivals, grain=60_000_000, after=turns.append)
            return runtime, turns

        yield run
    for neighbour in ("school", "bank"):
        sys.modules.pop(neighbour, None)


def conserved(runtime):
    counts = runtime.pipeline.state.store.counts
    return counts["events"] == counts["applied"] + counts["duplicate"] + counts["late"] + counts["dead"]


def test_attendance_predicts_better_than_the_rule(tmp_path):
    found = run_days(8, pupils=400, seed=3, data=str(tmp_path), show=False)
    assert found["events"] == found["applied"] + found["duplicate"] + found["late"] + found["dead"]
    assert found["versions"] >= 1
    assert found["auc"] > found["auc_rule"]
    assert found["labels"] > found["predictions"] / 4


def test_fraud_learns_from_disputes_and_declines(running, capsys):
    """Silence counts as honest after a week, so the first model comes then; it then stops thieves who pay often."""
    bank = Bank(seed=1, cards=250, payments_a_day=600)
    runtime, turns = running("fraud", bank, 24)
    assert conserved(runtime)
    rows = [(block, i) for turn in turns for block in turn.predictions for i in range(len(block))]
    counts = runtime.pipeline.state.store.counts
    assert 0 < len(rows) <= counts["applied"] + counts["late"]
    states = {LabelState(state) for turn in turns for block in turn.labels for state in block.state.tolist()}
    assert {LabelState.OPEN, LabelState.PROVISIONAL, LabelState.FINAL} <= states, "honest for now; fraud for good"
    assert "promoted" in {record.action for record in runtime.live.models("score")}
    scored = [(block.key[i][0], block.score[i]) for block, i in rows if block.score is not None]
    assert scored, "a model answers"
    frauds = [score for payment, score in scored if payment in bank.frauds]
    honest = [score for payment, score in scored if payment not in bank.frauds]
    assert sum(frauds) / len(frauds) > 3 * sum(honest) / len(honest)
    decided = [decision for turn in turns for decision in turn.decisions]
    assert all(decision.score > 0.9 for decision in decided)


def test_the_shop_ranks_what_is_liked_highest(running):
    """The online model learns as clicks come; its ranking prefers what a shopper would really click."""
    shop = Shop(seed=1, shoppers=60, items=40, impressions_a_day=4_000)
    runtime, _ = running("shop", shop, 3)
    assert conserved(runtime)
    report = runtime.live.quality["ranking"].report(runtime.clock.now())
    assert report.model.auc > 0.6
    better, pairs = 0, 0
    for shopper in range(60):
        anchors = [
            {"shopper": f"s{shopper}", "item": f"i{item}", "category": category(shop, item)} for item in range(40)
        ]
        answers = runtime.live.predict("ranking", anchors)
        assert len(answers) == 40
        liked = [shop.chance(shopper, int(answer.key[1][1:])) for answer in answers]
        pairs += 1
        better += sum(liked[:10]) > sum(liked[-10:])
    assert better / pairs > 0.8
    shown = runtime.live.predict("ranking", [{"shopper": "s7"}])
    assert 0 < len(shown) <= runtime.app.predictors["ranking"].rank.size
    assert [answer.score for answer in shown] == sorted((answer.score for answer in shown), reverse=True)


def category(shop, item):
    from katmatic.sources.simulator.shop import CATEGORIES

    return CATEGORIES[shop._category[item]]
