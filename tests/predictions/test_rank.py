"""The shop's ranking: who asks gets what they are most likely to click, the likeliest first."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import httpx
import pytest

from katmatic.clock import ManualClock
from katmatic.drive import drive
from katmatic.errors import InputError
from katmatic.live import Live
from katmatic.log.codec import decode_predictions
from katmatic.log.memory import MemoryLog
from katmatic.pipeline import Pipeline
from katmatic.predictions import rank
from katmatic.predictions.rank import Ranking, asked_keys, ranked
from katmatic.records import PREDICTIONS
from katmatic.runtime import load_app
from katmatic.serving.api import make_api
from katmatic.serving.server import Server
from katmatic.sources.simulator.shop import Shop
from tests.learning import MINUTE, asked

EXAMPLE = Path(__file__).parents[2] / "examples" / "shop.py"
DAYS = 4
SHOP = Shop(seed=3, shoppers=20, items=25, impressions_a_day=500)


@pytest.fixture(scope="module")
def live():
    """The example, after some days of a simulated shop."""
    pipeline = Pipeline(load_app(EXAMPLE), MemoryLog(), ManualClock(0))
    found = Live(pipeline)
    pipeline.watchers.append(found)
    drive(pipeline, pipeline.clock, SHOP.arrivals(date(2025, 4, 21), DAYS), grain=10 * MINUTE)
    return found


@pytest.fixture(scope="module")
def web(live):
    server = Server(make_api(live), closing=live.hub.close)
    server.start()
    with httpx.Client(base_url=server.url) as client:
        yield client
    server.stop()


def test_who_asks_gets_a_ranked_list(web):
    answer = web.post("/v1/predict/ranking", json={"shopper": "s1"})
    assert answer.status_code == 200
    found = answer.json()
    chances = [each["probability"] for each in found]
    assert len(found) == 10, "the size that Rank has unless it is told another"
    assert chances == sorted(chances, reverse=True)
    assert {each["key"]["shopper"] for each in found} == {"s1"}
    assert len({each["key"]["item"] for each in found}) == 10
    assert {each["state"] for each in found} == {"ok"}


def test_a_candidate_is_in_its_own_category(web):
    for each in web.post("/v1/predict/ranking", json={"shopper": "s2"}).json():
        number = int(each["key"]["item"][1:])
        assert each["key"]["category"] == ("shoes", "books", "tea", "tools")[SHOP._category[number]]


def test_what_is_ranked_high_is_liked(web):
    """The simulated shop knows how likely each click is: the first are liked more than what is shown on average."""
    ranks, all_items = [], []
    for shopper in range(20):
        found = web.post("/v1/predict/ranking", json={"shopper": f"s{shopper}"}).json()
        ranks += [SHOP.chance(shopper, int(each["key"]["item"][1:])) for each in found[:3]]
        all_items += [SHOP.chance(shopper, item) for item in range(25)]
    assert sum(ranks) / len(ranks) > 1.5 * sum(all_items) / len(all_items)


def test_candidates_that_are_named_come_back_in_their_order(web):
    named = [{"shopper": "s1", "item": f"i{i}", "category": "tea"} for i in range(25)]
    found = web.post("/v1/predict/ranking", json=named).json()
    chances = [each["probability"] for each in found]
    assert len(found) == 25, "all that were named"
    assert chances == sorted(chances, reverse=True)
    assert chances != [web.post("/v1/predict/ranking", json=one).json()["probability"] for one in named]


def test_about_one_candidate_there_is_one_answer(web):
    found = web.post("/v1/predict/ranking", json={"shopper": "s1", "item": "i3", "category": "tea"}).json()
    assert found["key"] == {"shopper": "s1", "item": "i3", "category": "tea"}


def test_a_category_that_is_given_is_kept(web):
    found = web.post("/v1/predict/ranking", json={"shopper": "s1", "category": "tea"}).json()
    assert {each["key"]["category"] for each in found} == {"tea"}


def test_a_stranger_gets_what_is_popular(web):
    assert len(web.post("/v1/predict/ranking", json={"shopper": "nobody ever saw"}).json()) > 0


@pytest.mark.parametrize(
    "given", [{}, {"item": "i3"}, [{"shopper": "s1"}], {"shopper": ""}, {"shopper": "s1", "at": []}]
)
def test_a_question_that_names_nobody_or_half_a_candidate_is_refused(web, given):
    assert web.post("/v1/predict/ranking", json=given).status_code == 422


def test_asking_is_not_logged(live):
    before = live._pipeline.log.end(PREDICTIONS)
    live.predict("ranking", [{"shopper": "s1"}])
    live._pipeline.turn()
    assert live._pipeline.log.end(PREDICTIONS) == before


def test_a_ranking_of_nothing_is_empty():
    pipeline = Pipeline(load_app(EXAMPLE), MemoryLog(), ManualClock(10**15))
    assert Live(pipeline).predict("ranking", [{"shopper": "s1"}]) == []


def test_after_a_restart_the_candidates_are_known_again(live):
    again = Live(live._pipeline)
    assert again.predict("ranking", [{"shopper": "s1"}]) == []
    again.rebuild()
    found, expected = (each.predict("ranking", [{"shopper": "s1"}]) for each in (again, live))
    assert [each.key for each in found] == [each.key for each in expected]


def test_half_a_candidate_is_refused_by_the_engine_too(live):
    with pytest.raises(InputError):
        live.predict("ranking", [{"shopper": "s1"}, {"shopper": "s2"}])


# ----------------------------------------------------------------------------------------------------------- the pieces


def test_whoever_asks_names_themselves_and_what_finds_the_candidates(live):
    assert asked_keys(live.app.predictors["ranking"]) == ("shopper",)


def test_the_highest_answer_is_first_and_no_answer_is_last():
    block = asked([1, 2, 3, 4, 5], 0, score=[0.2, float("nan"), 0.9, 0.2, 0.5])
    rows = [block.row(i) for i in range(5)]
    assert [each.anchor for each in ranked(rows)] == [3, 5, 1, 4, 2]


def test_what_is_known_of_candidates_is_bounded(live, monkeypatch):
    monkeypatch.setattr(rank, "KNOWN_LIMIT", 3)
    ranking = Ranking(live.app.predictors["ranking"])
    for _, value in live._pipeline.log.scan(PREDICTIONS):
        ranking.know(decode_predictions(value))
    assert len(ranking._known) == 3
    assert len(ranking.anchors({"shopper": "s1"}, [f"i{i}" for i in range(25)])) == 3
