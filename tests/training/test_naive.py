"""The proof's replay against the tests' oracle, on random histories of every word."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from katmatic.log.base import Batch, Slice
from katmatic.records import Prediction
from katmatic.training.naive import Replay
from tests.engine.running import answered
from tests.histories import APPS, histories

MADE = {name: make() for name, make in APPS.items()}
QUICK = settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def replayed(history, rows, **limits):
    """What the replay says of the rows."""
    replay = Replay(history.app, **limits)
    position, found = 0, []
    for sequence, (now, records) in enumerate(history.moments, 1):
        slices = [Slice(topic, position + i, [value]) for i, (topic, value) in enumerate(records)]
        position += len(records)
        replay.expect([row for row in rows if row.now == now])
        found += replay.apply(Batch(sequence, now, slices))
    return found


@pytest.mark.parametrize("name", MADE)
def test_it_says_what_the_oracle_says(name):
    @QUICK
    @given(histories(MADE[name], most=60))
    def holds(history):
        rows = [row for row in answered(history.app, history.moments).outcomes if isinstance(row, Prediction)]
        found = replayed(history, rows)
        assert {(checked.row.anchor, checked.row.at, checked.row.predictor) for checked in found} == {
            (row.anchor, row.at, row.predictor) for row in rows
        }
        assert [checked for checked in found if checked.verdict != "proved"] == []
        assert len(found) == sum(len(row.features) for row in rows)

    holds()


@pytest.mark.slow
@pytest.mark.parametrize("limits", [{"key_limit": 3}, {"entries_limit": 12}], ids=str)
@pytest.mark.parametrize("name", MADE)
def test_what_has_been_let_go_of_is_never_passed_and_never_blamed(name, limits):
    verdicts = set()

    @QUICK
    @given(histories(MADE[name], most=60))
    def holds(history):
        rows = [row for row in answered(history.app, history.moments).outcomes if isinstance(row, Prediction)]
        found = replayed(history, rows, **limits)
        assert [checked for checked in found if checked.verdict == "different"] == []
        assert len(found) == sum(len(row.features) for row in rows)
        verdicts.update(checked.verdict for checked in found)

    holds()
    assert verdicts == {"proved", "unprovable"}
