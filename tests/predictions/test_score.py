"""The champion answers; a model that raises marks its rows, and nothing stops."""

from __future__ import annotations

import numpy as np
import pytest

from katmatic.predictions.score import Scorer
from tests.learning import DAY, asked, school

BELL = 50 * DAY


class Model:
    """Answers with the first feature; raises for what is above 1."""

    def predict(self, values, texts):
        if (values[:, 0] > 1).any():
            raise ZeroDivisionError
        return values[:, 0]


class Wrong:
    """Answers in a wrong shape."""

    def __init__(self, answer):
        self.answer = answer

    def predict(self, values, texts):
        return self.answer(values)


def scorer(model=None, version=3):
    found = Scorer(school().predictors["absence"])
    if model is not None:
        found.install(version, model)
    return found


def block(*first):
    return asked(range(len(first)), BELL, values=[[value, 0] for value in first])


def test_before_the_first_model_it_is_learning():
    found = scorer().score(block(0.5))
    assert (found.version, found.score, found.row(0).state, found.row(0).score) == (0, None, "learning", None)


def test_an_answer_has_the_version_that_gave_it():
    found = scorer(Model()).score(block(0.5, 0.25))
    assert (found.version, found.score.tolist(), found.row(1).state) == (3, [0.5, 0.25], "ok")


def test_a_row_on_which_the_model_raises_is_marked_and_the_others_are_answered():
    found = scorer(Model()).score(block(0.5, 7, 0.25))
    np.testing.assert_array_equal(found.score, [0.5, np.nan, 0.25])
    assert [found.row(i).state for i in range(3)] == ["ok", "error", "ok"]


@pytest.mark.parametrize(
    "answer",
    [
        lambda values: np.zeros((len(values), 2)),
        lambda values: np.zeros(len(values) + 1),
        lambda values: np.zeros(0),
        lambda values: 0.5,
        lambda values: None,
        lambda values: ["likely"] * len(values),
    ],
)
def test_answers_of_a_wrong_shape_are_no_answers(answer):
    """Found by reading: one answer too many went into the log's block, and the pipeline stopped."""
    found = scorer(Wrong(answer)).score(block(0.5, 0.25))
    assert np.isnan(found.score).tolist() == [True, True]


def test_an_infinite_answer_is_none():
    found = scorer(Wrong(lambda values: np.full(len(values), np.inf))).score(block(0.5))
    assert np.isnan(found.score).tolist() == [True]


def test_the_models_own_array_is_left_alone():
    kept = np.array([0.5, np.inf])
    scorer(Wrong(lambda values: kept)).score(block(0.5, 0.5))
    assert kept.tolist() == [0.5, np.inf]


def test_another_model_answers_from_the_next_block_on():
    one = scorer(Model())
    one.score(block(0.5))
    one.install(4, Wrong(lambda values: np.ones(len(values))))
    found = one.score(block(0.5))
    assert (found.version, found.score.tolist()) == (4, [1.0])
