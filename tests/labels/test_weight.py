"""How much a row weighs."""

from __future__ import annotations

import pytest

from katmatic.labels.weight import weight
from tests.learning import decided


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        ([], 1.0),
        ([decided(1)], 1.0),
        ([decided(1, propensity=0.25)], 4.0),
        ([decided(1, censored=True)], 0.0),
        ([decided(1, propensity=0.5), decided(1, propensity=0.25)], 8.0),
        ([decided(1, propensity=0.5), decided(1, censored=True)], 0.0),
    ],
)
def test_a_row_weighs_what_its_odds_say(taken, expected):
    assert weight(taken) == expected


def test_the_rows_let_by_stand_for_all():
    share, rows = 0.05, 1000
    let_by = [decided(i, propensity=share) for i in range(round(rows * share))]
    held_back = [decided(i, censored=True) for i in range(rows - len(let_by))]
    assert sum(weight([each]) for each in [*let_by, *held_back]) == pytest.approx(rows)
