"""Why an answer is what it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from katmatic.predictions.explain import REASONS_MOST, USUAL_MOST, reasons
from tests.learning import DAY, asked

BELL = 50 * DAY


def linear(block):
    """0.1 + 0.4 rate - 0.2 seen, and 0.3 if the mood is sad."""
    score = 0.1 + 0.4 * block.values[:, 0] - 0.2 * block.values[:, 1]
    if "mood" in block.texts:
        score = score + 0.3 * np.array([mood == "sad" for mood in block.texts["mood"]])
    return replace(block, score=score)


def usual(n=20, rate=0.25):
    return asked(range(n), BELL, values=[[rate, 0.5]] * n)


def one(values, **more):
    return linear(asked([7], BELL, values=[values], **more)).row(0)


def test_each_feature_has_the_effect_of_not_being_usual():
    found = reasons(linear, one([1.0, 0.0]), usual())
    assert found == [("rate", pytest.approx(0.3)), ("seen", pytest.approx(0.1))]


def test_what_is_usual_is_no_reason():
    assert reasons(linear, one([0.25, 0.0]), usual()) == [("seen", pytest.approx(0.1))]


def test_a_text_is_a_reason_too():
    columns = ("rate", "seen", "mood")
    sad = one([0.25, 0.5, np.nan], columns=columns, texts={"mood": ["sad"]})
    others = asked(range(4), BELL, values=[[0.25, 0.5, np.nan]] * 4, columns=columns, texts={"mood": ["glad"] * 4})
    assert reasons(linear, sad, others) == [("mood", pytest.approx(0.3))]


def test_the_largest_effects_come_first_and_few_of_them():
    columns = tuple(f"f{j}" for j in range(9))

    def answer(block):
        return replace(block, score=block.values @ np.arange(9))

    values = np.ones((1, 9))
    asked_of = answer(asked([1], BELL, values=values, columns=columns)).row(0)
    found = reasons(answer, asked_of, asked([2], BELL, values=values * 0, columns=columns))
    assert [name for name, _ in found] == ["f8", "f7", "f6", "f5", "f4"]
    assert len(found) == REASONS_MOST


def test_a_model_that_raises_on_some_of_the_usual_rows_is_asked_about_the_others():
    def answer(block):
        found = linear(block)
        found.score[::2] = np.nan
        return found

    assert reasons(answer, one([1.0, 0.5]), usual()) == [("rate", pytest.approx(0.3))]
    assert reasons(lambda block: replace(block, score=np.full(len(block), np.nan)), one([1.0, 0.5]), usual()) == []


def test_without_a_score_or_a_past_there_is_no_reason():
    assert reasons(linear, asked([7], BELL).row(0), usual()) == []
    assert reasons(linear, one([1.0, 0.0]), usual(0)) == []
    of_other_features = asked([7], BELL, columns=("rate",), values=[[1]], score=[1]).row(0)
    assert reasons(linear, of_other_features, usual()) == []
    assert reasons(lambda block: block, one([1.0, 0.0]), usual()) == [], "a model that is learning again"


def test_however_many_rows_are_usual_few_are_asked_about():
    sizes = []

    def answer(block):
        sizes.append(len(block))
        return linear(block)

    n = 50 * USUAL_MOST
    spread = asked(range(n), BELL, values=np.column_stack([np.linspace(0, 1, n), np.full(n, 0.5)]))
    ((name, effect),) = reasons(answer, one([1.0, 0.5]), spread)
    assert (name, effect) == ("rate", pytest.approx(0.2, abs=1e-3))
    assert max(sizes) == USUAL_MOST
