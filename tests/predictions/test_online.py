"""Online models answer and learn row by row, and the cut into batches changes nothing."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import linear_model, preprocessing, tree

from katmatic.predictions.online import OnlineLearner
from tests.learning import DAY, asked, known, school

BELL = 50 * DAY


def logistic():
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


def learner(model=None):
    return OnlineLearner(school(model or logistic()).predictors["absence"])


def history(n, seed=1):
    """Questions and truths in their order: a truth comes some rows after its question, or never."""
    chance, events, waiting = np.random.default_rng(seed), [], []
    for anchor in range(n):
        values = chance.normal(size=2)
        if chance.random() < 0.2:
            values[1] = np.nan
        events.append(("asked", asked([anchor], BELL + anchor, values=[values])))
        waiting.append((anchor, float(values[0] > 0)))
        while waiting and chance.random() < 0.45:
            settled, value = waiting.pop(int(chance.integers(len(waiting))))
            state = "final" if chance.random() < 0.9 else "censored"
            value = value if state == "final" else None
            events.append(("known", known([settled], BELL, value, state=state)))
    return events


def lived(one, events, sizes):
    """The scores of each row, if the events come in batches of these sizes."""
    found, place = [], 0
    for size in [*sizes, len(events)]:
        batch = list(enumerate(events[place : place + size]))
        questions = [(block, np.array([order])) for order, (kind, block) in batch if kind == "asked"]
        truths = [(block, np.array([order])) for order, (kind, block) in batch if kind == "known"]
        for block in one.apply(questions, truths):
            score = np.full(len(block), -1.0) if block.score is None else block.score
            found += [(anchor, block.version, value) for anchor, value in zip(block.anchor, score, strict=True)]
        place += size
    return found


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(0, 60), max_size=12), seed=st.integers(0, 5))
def test_one_batch_or_many_is_the_same(sizes, seed):
    events = history(80, seed)
    one, other = learner(), learner()
    assert lived(one, events, sizes) == lived(other, events, [1] * len(events))
    assert one.learnt == other.learnt > 20


def test_a_learner_that_was_saved_goes_on_as_if_nothing_had_happened():
    events = history(120)
    whole = lived(learner(), events, [])
    one = learner()
    first = lived(one, events[:90], [])
    two = learner()
    two.load(one.dump())
    assert first + lived(two, events[90:], []) == whole
    assert two.version == 1


def test_it_learns():
    one = learner()
    lived(one, history(400), [])
    told = one.score(asked([1, 2], BELL, values=[[2.0, 0.0], [-2.0, 0.0]])).score
    assert told[0] > 0.8
    assert told[1] < 0.2


def test_before_the_first_truth_it_is_learning():
    """Found by reading: an untrained model answered 0.5, and actions could be taken on it."""
    one = learner()
    (block,) = one.apply([(asked([1], BELL), np.array([0]))], [])
    assert (block.score, block.version, block.row(0).state) == (None, 0, "learning")
    assert one.score(asked([1], BELL)).score is None


def test_the_first_truth_divides_a_block():
    one = learner()
    truth = (known([1], BELL, 1.0), np.array([1]))
    before, after = one.apply([(asked([1, 2], BELL), np.array([0, 2]))], [truth])
    assert (before.anchor.tolist(), before.score, before.version) == ([1], None, 0)
    assert (after.anchor.tolist(), len(after.score), after.version) == ([2], 1, 1)


def test_a_truth_that_was_known_before_the_question_is_learnt():
    """Found by reading: who had come before the lesson was announced was never learnt from."""
    one = learner()
    truth = (known([1], BELL, 0.0), np.array([0]))
    one.apply([(asked([1], BELL), np.array([1]))], [truth])
    assert one.learnt == 1


def test_a_row_is_learnt_once():
    one = learner()
    one.apply([(asked([1], BELL), np.array([0]))], [(known([1], BELL, 1.0, state="provisional"), np.array([1]))])
    one.apply([], [(known([1], BELL, 1.0, version=2), np.array([0]))])
    one.apply([], [(known([1], BELL, 0.0, state="revised", version=3), np.array([0]))])
    assert one.learnt == 1


@pytest.mark.parametrize("state", ["open", "censored"])
def test_nothing_is_learnt_of_an_open_or_a_censored_row(state):
    one = learner()
    truth = (known([1], BELL, None, state=state), np.array([1]))
    one.apply([(asked([1], BELL), np.array([0]))], [truth])
    assert one.learnt == 0


class Moody(linear_model.LogisticRegression):
    """It cannot bear a rate above 1, nor a day that was seen more than once."""

    def predict_proba_one(self, x):
        if x["rate"] > 1:
            raise KeyError("rate")
        return super().predict_proba_one(x)

    def learn_one(self, x, y):
        if x["seen"] > 1:
            raise ValueError("seen")
        super().learn_one(x, y)


def test_a_model_that_raises_marks_the_row_and_goes_on():
    """Found by reading: what `learn_one` raised stopped the pipeline."""
    one = learner(Moody())
    blocks = asked([1, 2, 3], BELL, values=[[0, 5], [0, 0], [5, 0]])
    truths = known([1, 2], BELL, 1.0)
    found = one.apply([(blocks, np.array([0, 1, 4]))], [(truths, np.array([2, 3]))])
    assert (one.learnt, one.errors) == (1, 1)
    assert np.isnan(found[-1].score).tolist() == [True]
    assert found[-1].row(0).state == "error"


class Speechless:
    """It learns, and says nothing."""

    def learn_one(self, x, y):
        pass

    def predict_proba_one(self, x):
        return {}


def test_a_model_that_says_nothing_gives_no_answer():
    one = learner(Speechless())
    one.apply([(asked([1], BELL), np.array([0]))], [(known([1], BELL, 1.0), np.array([1]))])
    assert np.isnan(one.score(asked([2], BELL)).score).tolist() == [True]


def test_a_model_that_knows_one_class_says_how_likely_the_other_is():
    one = learner(tree.HoeffdingTreeClassifier())
    one.apply([(asked([1], BELL), np.array([0]))], [(known([1], BELL, 0.0), np.array([1]))])
    assert one.score(asked([2], BELL)).score.tolist() == [0.0]


class Seen:
    """It keeps the rows that it is given."""

    def __init__(self):
        self.rows = []

    def learn_one(self, x, y):
        self.rows.append((x, y))

    def predict_proba_one(self, x):
        return {True: 0.5, False: 0.5}


def test_what_is_unknown_is_left_out_of_a_row():
    one = learner(Seen())
    one._model.rows.clear()
    block = asked([1], BELL, values=[[np.nan, 4]], columns=("mood", "seen"), texts={"mood": [None]})
    one.apply([(block, np.array([0]))], [(known([1], BELL, 1.0), np.array([1]))])
    assert one._model.rows == [({"seen": 4.0}, True)]


def test_what_waits_is_bounded(monkeypatch):
    monkeypatch.setattr(sys.modules["katmatic.predictions.online"], "WAITING_LIMIT", 10)
    monkeypatch.setattr(sys.modules["katmatic.predictions.online"], "SETTLED_LIMIT", 10)
    one = learner(Seen())
    for anchor in range(100):
        one.apply([(asked([anchor], BELL), np.array([0]))], [])
        one.apply([], [(known([1000 + anchor], BELL, 1.0), np.array([0]))])
    assert (len(one._waiting), len(one._settled)) == (10, 10)
