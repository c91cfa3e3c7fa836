"""How good answers are: the figures of scikit-learn, over rows in the order of time; and the baselines."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    log_loss,
    mean_absolute_error,
    mean_squared_error,
    roc_auc_score,
)

from katmatic.log.memory import MemoryLog
from katmatic.training.dataset import read
from katmatic.training.evaluate import PRIOR, base_rate, default_metric, metrics, own_past_rate
from tests.learning import DAY, RIPE, asked, decided, known, school, write

BELL = 50 * DAY

answers = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1, allow_subnormal=False))
rows = st.lists(st.tuples(st.booleans(), answers, st.sampled_from([0.5, 1.0, 20.0])), min_size=2, max_size=60)


@settings(max_examples=200, deadline=None)
@given(rows=rows)
def test_figures_of_a_yes_or_no_are_those_of_scikit_learn(rows):
    label, answer, weight = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    found = metrics(label, answer, weight, is_binary=True)
    assert found["log_loss"] == pytest.approx(log_loss(label, answer, sample_weight=weight, labels=[0, 1]))
    assert found["brier"] == pytest.approx(brier_score_loss(label, answer, sample_weight=weight, labels=[0, 1]))
    assert found["accuracy"] == pytest.approx(accuracy_score(label, answer >= 0.5, sample_weight=weight))
    if len(set(label)) == 1:
        assert "roc_auc" not in found
        assert "average_precision" not in found
    else:
        assert found["roc_auc"] == pytest.approx(roc_auc_score(label, answer, sample_weight=weight))
        expected = average_precision_score(label, answer, sample_weight=weight)
        assert found["average_precision"] == pytest.approx(expected)


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9), st.floats(0.5, 9)), min_size=1, max_size=40))
def test_figures_of_a_number_are_those_of_scikit_learn(rows):
    label, answer, weight = (np.array(column) for column in zip(*rows, strict=True))
    found = metrics(label, answer, weight, is_binary=False)
    assert found["rmse"] == pytest.approx(mean_squared_error(label, answer, sample_weight=weight) ** 0.5)
    assert found["mae"] == pytest.approx(mean_absolute_error(label, answer, sample_weight=weight))


def test_a_yes_or_no_is_judged_by_its_log_loss():
    assert default_metric(school().predictors["absence"].label) == "log_loss"


def learnt(truths, *, decisions=()):
    """A training set: for each (anchor, label, time), asked at its time and known a little later."""
    log, app = MemoryLog(), school()
    anchors, labels, times = (list(column) for column in zip(*truths, strict=True))
    write(log, predictions=[asked(anchors, times)], labels=[known(anchors, times, labels)], decisions=decisions)
    return read(log, app, app.predictors["absence"], BELL + 90 * DAY)


def test_the_base_rate_is_the_mean_of_what_was_learnt_from():
    past = learnt([(1, 1.0, BELL), (2, 0.0, BELL), (3, 0.0, BELL)], decisions=[decided(1, propensity=0.25)])
    assert base_rate(past, learnt([(4, 1.0, BELL + DAY)])).tolist() == [4 / 6]


def test_ones_own_past_rate_is_of_those_labels_that_were_known_when_it_was_asked():
    one = [(7, 1.0, BELL), (14, 1.0, BELL + DAY), (21, 0.0, BELL + 2 * DAY), (28, 0.0, BELL + 2 * DAY + RIPE - 1)]
    other = [(8, 0.0, BELL)]
    past, now = learnt([one[0], other[0]]), learnt(one[1:])
    base = 0.5
    assert own_past_rate(past, now).tolist() == [
        (1 + PRIOR * base) / (1 + PRIOR),
        (2 + PRIOR * base) / (2 + PRIOR),
        (2 + PRIOR * base) / (2 + PRIOR),  # the label of the third is not known yet
    ]


def test_a_stranger_gets_the_base_rate():
    past = learnt([(1, 1.0, BELL), (2, 0.0, BELL)])
    assert own_past_rate(past, learnt([(3, 1.0, BELL + DAY)])).tolist() == [0.5]
