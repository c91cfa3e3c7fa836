"""The engine equals the naive oracle on random histories, however they are cut."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from katmatic.engine.ask import ask, candidates
from katmatic.engine.plan import micros
from katmatic.spec.app import SourcePolicy
from katmatic.spec.event import schema
from tests.engine.running import Running, all_at_once, answered, assert_equal, at_random, is_same, one_by_one
from tests.histories import APPS, History, histories

MADE = {name: make() for name, make in APPS.items()}
QUICK = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
LONG = settings(
    max_examples=int(os.environ.get("ORACLE_EXAMPLES", "100")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)


def check(history: History, seed: int) -> None:
    """However the history is cut, the engine says what the oracle says."""
    oracle = answered(history.app, history.moments)
    for steps in (all_at_once(history.moments), one_by_one(history.moments), at_random(history.moments, seed)):
        engine = Running(history.app)
        for i, moments in enumerate(steps):
            engine.apply(moments)
            if (i + seed) % 5 == 4:
                engine.reload()
        assert_equal(engine, oracle)


@pytest.mark.parametrize("name", MADE)
def test_the_engine_equals_the_oracle(name):
    @QUICK
    @given(histories(MADE[name]), st.integers(0, 99))
    def holds(history, seed):
        check(history, seed)

    holds()


@pytest.mark.slow
@pytest.mark.parametrize("name", MADE)
def test_the_engine_equals_the_oracle_on_long_histories(name):
    @LONG
    @given(histories(MADE[name], most=150), st.integers(0, 99))
    def holds(history, seed):
        check(history, seed)

    holds()


@pytest.mark.parametrize("name", MADE)
def test_questions_from_outside_are_answered_alike_and_change_nothing(name):
    @settings(QUICK, max_examples=12)
    @given(histories(MADE[name]), st.integers(0, 99))
    def holds(history, seed):
        app = history.app
        engine, oracle = Running(app), answered(app, [])
        for now, records in history.moments:
            engine.apply([(now, records)])
            oracle.apply(now, records)
            for questions in engine.plan.questions:
                fields = next(
                    (fact.fields for fact in reversed(oracle.facts) if fact.kind is questions.predictor.anchor), None
                )
                if fields is None:
                    continue
                horizon = app.sources.get(questions.predictor.anchor, SourcePolicy()).horizon
                at = now - min(seed % 4 * 1_000_000, micros(horizon))
                time = schema(questions.predictor.anchor).time
                block = ask(engine.plan, engine.state, questions, [{**fields, time: at}], now)
                anchor = oracle.anchor(questions.predictor.anchor, fields, at)
                errors = oracle.errors.copy()
                wanted = oracle.ask(questions.predictor, anchor, at, now, None).features
                for key, value in block.row(0).features.items():
                    assert is_same(key, value, wanted[key]), key
                if questions.candidates:
                    drawn = candidates(engine.plan, engine.state, questions, {**fields, time: at}, now)
                    assert drawn == oracle.candidates(questions.predictor, anchor, at)
                oracle.errors = errors
        assert_equal(engine, oracle)

    holds()
