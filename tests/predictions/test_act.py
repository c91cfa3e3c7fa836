"""Which predictions are acted on, which are let through, and what becomes of an action that raises."""

from __future__ import annotations

import sys
from functools import partial

import numpy as np
import pytest

from katmatic.predictions.act import Actions
from tests.learning import DAY, MINUTE, Expected, asked, school

BELL = 50 * DAY
EVENT = Expected(student="pupil 3", mood="glad", bell="2025-04-21T08:15:00+00:00")


def predictor(**more):
    return school(**more).predictors["absence"]


def nothing(prediction):
    """Do nothing."""


def scored(*scores, at=None):
    return asked(range(len(scores)), BELL, score=scores, version=1, at=at)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"above": 0.8}, [0.8, 0.95]),
        ({"below": 0.3}, [0.0]),
        ({"above": 0.3, "below": 0.8}, [0.3, 0.5]),
    ],
)
def test_an_action_is_taken_at_and_above_its_threshold_and_below_the_other(limits, expected):
    absence = predictor()
    absence.when(**limits)(nothing)
    found = Actions(absence).decide(scored(0.0, 0.3, np.nan, 0.5, 0.8, 0.95))
    assert [decision.score for decision in found] == expected


def test_while_it_is_learning_nothing_is_done():
    absence = predictor()
    absence.when(above=0.0)(nothing)
    assert Actions(absence).decide(asked([1], BELL)) == []


def test_a_decision_says_of_whom_and_what():
    absence = predictor()
    absence.when(above=0.8)(nothing)
    (found,) = Actions(absence).decide(scored(0.1, 0.9))
    assert (found.predictor, found.anchor, found.key, found.action) == ("absence", 1, ("pupil 1",), "nothing")
    assert (found.score, found.now, found.censored, found.propensity) == (0.9, BELL, False, 1.0)


def test_the_held_out_share_is_let_by_with_its_odds():
    absence = predictor()
    absence.when(above=0.5, censors=True, holdout=0.1)(nothing)
    found = Actions(absence, seed=7).decide(asked(range(5000), BELL, score=np.full(5000, 0.9)))
    let_by = [decision for decision in found if not decision.censored]
    assert {decision.propensity for decision in let_by} == {0.1}
    assert {decision.propensity for decision in found if decision.censored} == {1.0}
    assert 420 < len(let_by) < 580, "a tenth of 5,000, within four standard deviations"


def test_chance_is_of_the_seed_and_of_the_anchor():
    absence = predictor()
    absence.when(above=0.5, censors=True, holdout=0.5)(nothing)

    def let_by(seed, blocks):
        actions = Actions(absence, seed)
        return [d.anchor for block in blocks for d in actions.decide(block) if not d.censored]

    whole = asked(range(200), BELL, score=np.full(200, 0.9))
    pieces = [asked(range(i, i + 20), BELL, score=np.full(20, 0.9)) for i in range(0, 200, 20)]
    assert let_by(1, [whole]) == let_by(1, pieces)
    assert let_by(1, [whole]) != let_by(2, [whole])


def test_an_anchor_that_is_asked_about_again_is_acted_on_once():
    """Found by reading: a teacher was warned once for each lead."""
    absence = predictor(lead=("2h", "30m"))
    absence.when(above=0.8)(nothing)
    actions = Actions(absence)
    first = actions.decide(scored(0.9, 0.1, at=BELL - 120 * MINUTE))
    second = actions.decide(scored(0.9, 0.9, at=BELL - 30 * MINUTE))
    assert [decision.anchor for decision in first + second] == [0, 1]


def test_both_leads_in_one_block_are_one_decision():
    absence = predictor(lead=("2h", "30m"))
    absence.when(above=0.8)(nothing)
    assert len(Actions(absence).decide(asked([5, 5], BELL, at=[BELL - 2, BELL - 1], score=[0.9, 0.9]))) == 1


@pytest.mark.parametrize("way", ["checkpoint", "log"])
def test_what_was_decided_in_an_earlier_life_is_not_decided_again(way):
    absence = predictor(lead=("2h", "30m"))
    absence.when(above=0.8)(nothing)
    before, now = Actions(absence), Actions(absence)
    decided = before.decide(scored(0.9))
    if way == "checkpoint":
        now.load(before.dump())
    else:
        now.know(decided[0])
    assert now.decide(scored(0.9)) == []


def test_two_actions_of_one_name_are_two():
    """Found by reading: the second function was called for both."""
    absence, called = predictor(), []
    for above in (0.5, 0.8):

        @absence.when(above=above)
        def _(prediction, above=above):
            called.append(above)

    actions = Actions(absence)
    found = actions.decide(scored(0.6, 0.9))
    actions.run(found, [EVENT] * len(found))
    assert sorted(called) == [0.5, 0.5, 0.8]
    assert {decision.action for decision in found} == {"_", "_ #2"}


class Siren:
    """A function without a name of its own."""

    def __call__(self, prediction):
        raise RuntimeError("no power")


def test_what_can_be_called_can_act():
    absence = predictor()
    absence.when(above=0.5)(Siren())
    absence.when(above=0.5)(partial(nothing))
    found = Actions(absence).decide(scored(0.6))
    assert [decision.action for decision in found] == ["Siren", "partial"]


def test_an_action_sees_the_event_and_the_chance():
    absence, seen = predictor(), []
    absence.when(above=0.5)(seen.append)
    actions = Actions(absence)
    actions.run(actions.decide(scored(0.6)), [EVENT])
    (acted,) = seen
    assert (acted.event, acted.probability, acted.value, acted.key, acted.now) == (EVENT, 0.6, 0.6, ("pupil 0",), BELL)


def test_what_is_held_out_is_not_done():
    absence, seen = predictor(), []
    absence.when(above=0.5, censors=True, holdout=0.999999)(seen.append)
    actions = Actions(absence)
    (done,) = actions.run(actions.decide(scored(0.6)), [EVENT])
    assert (seen, done.error, done.censored) == ([], None, False)


@pytest.mark.parametrize("raised", [ValueError("no such class"), SystemExit(1)])
def test_an_action_that_raises_says_so_and_the_next_is_done(raised):
    absence, seen = predictor(), []

    @absence.when(above=0.5)
    def warn(prediction):
        seen.append(prediction.score)
        if prediction.score == 0.6:
            raise raised

    actions = Actions(absence)
    done = actions.run(actions.decide(scored(0.6, 0.7)), [EVENT] * 2)
    assert [decision.error for decision in done] == [repr(raised), None]
    assert seen == [0.6, 0.7]


def test_what_was_decided_is_bounded(monkeypatch):
    monkeypatch.setattr(sys.modules["katmatic.predictions.act"], "DECIDED_LIMIT", 10)
    absence = predictor(lead=("2h", "30m"))
    absence.when(above=0.5)(nothing)
    actions = Actions(absence)
    actions.decide(asked(range(100), BELL, score=np.full(100, 0.9)))
    assert [anchor for _, anchor in actions.dump()] == list(range(90, 100))
