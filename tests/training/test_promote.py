"""Champion against challenger."""

from __future__ import annotations

import pytest

from katmatic import Promote
from katmatic.training.promote import verdict

BASELINES = {"base rate": {"log_loss": 0.7, "roc_auc": 0.5}, "own past rate": {"log_loss": 0.6, "roc_auc": 0.7}}


@pytest.mark.parametrize(
    ("metric", "margin", "mine", "champions", "expected", "why"),
    [
        ("log_loss", 0.0, 0.65, None, True, "the first model: log_loss 0.6500"),
        ("log_loss", 0.0, 0.70, None, False, "log_loss 0.7000 is no better than the base rate's 0.7000"),
        ("log_loss", 0.0, 0.50, 0.55, True, "log_loss 0.5000, the champion's 0.5500"),
        ("log_loss", 0.0, 0.55, 0.55, False, "not better than the champion's 0.5500 by more than 0"),
        ("log_loss", 0.1, 0.50, 0.55, False, "not better than the champion's 0.5500 by more than 0.1"),
        ("log_loss", 0.0, 0.65, 0.68, False, "log_loss 0.6500 is no better than the own past rate's 0.6000"),
        ("roc_auc", 0.01, 0.90, 0.88, True, "roc_auc 0.9000, the champion's 0.8800"),
        ("roc_auc", 0.05, 0.90, 0.88, False, "not better"),
        ("roc_auc", 0.0, 0.45, None, False, "no better than the base rate's 0.5000"),
    ],
)
def test_who_is_to_answer(metric, margin, mine, champions, expected, why):
    champion = None if champions is None else {metric: champions}
    found, reason = verdict(Promote(metric=metric, margin=margin), metric, {metric: mine}, champion, BASELINES)
    assert found is expected
    assert why in reason


def test_what_cannot_be_measured_is_not_promoted():
    found = verdict(Promote(), "roc_auc", {"log_loss": 0.1}, None, BASELINES)
    assert found == (False, "roc_auc cannot be told from the newest rows")


def test_a_figure_that_is_no_number_is_not_promoted():
    nan = {"log_loss": float("nan")}
    assert not verdict(Promote(), "log_loss", nan, None, BASELINES)[0]
    assert not verdict(Promote(), "log_loss", nan, {"log_loss": 0.5}, BASELINES)[0]
