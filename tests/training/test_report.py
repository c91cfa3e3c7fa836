"""What a training tells of itself."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from katmatic import past
from katmatic.log.memory import MemoryLog
from katmatic.training import report
from katmatic.training.dataset import read
from katmatic.training.tensorflow import KerasClassifier
from tests.learning import DAY, CheckIn, Expected, a_term, after, school, write
from tests.program import ENVIRONMENT


@pytest.fixture
def rows():
    log, (predictions, labels) = MemoryLog(), a_term(30)
    write(log, predictions=predictions, labels=labels)
    app = school()
    return read(log, app, app.predictors["absence"], after(60)).with_tables()


def told(rows, **answers):
    app = school()
    answers = {name: np.full(len(rows), value) for name, value in {"model": 0.3, "base rate": 0.5, **answers}.items()}
    return report.run(
        app, app.predictors["absence"], rows, rows, rows, answers, metrics={"brier": 0.1}, tags={"a": "b"}
    )


def test_each_day_has_its_error_beside_the_baselines(rows):
    run = told(rows)
    assert set(run.series) == {"by_day/squared_error", "by_day/squared_error/base_rate"}
    days = run.series["by_day/squared_error/base_rate"]
    assert len(days) == 30
    assert {value for _, value in days} == {0.25}
    assert np.diff([at for at, _ in days]).tolist() == [DAY] * 29


def test_a_row_without_an_answer_counts_as_half(rows):
    run = told(rows, model=np.nan)
    assert {value for _, value in run.series["by_day/squared_error"]} == {0.25}


def test_parameters_say_what_was_learnt_from(rows):
    run = told(rows)
    assert (run.application, run.metrics, run.tags["a"]) == ("school", {"brier": 0.1}, "b")
    assert run.params["model"] == "LogisticRegression"
    assert run.params["model.C"] == "1.0"
    assert run.params["features"] == "rate, seen"
    assert run.params["rows"] == str(len(rows)) == "210"
    assert run.columns == {"rate": "double", "seen": "double"}


def test_parameters_of_the_steps_of_a_pipeline_are_told_too(rows):
    """Found by running: of a pipeline only `memory` and `verbose` were told."""
    app = school(make_pipeline(StandardScaler(), LogisticRegression(C=0.1)))
    answers = {"model": np.full(len(rows), 0.3)}
    params = report.run(app, app.predictors["absence"], rows, rows, rows, answers, metrics={}, tags={}).params
    assert (params["model"], params["model.logisticregression__C"]) == ("Pipeline", "0.1")
    assert params["model.standardscaler__with_mean"] == "True"


def test_the_plots_are_pictures(rows):
    assert {name: picture[:4] for name, picture in told(rows).pictures.items()} == {
        "by_day.png": b"\x89PNG",
        "reliability.png": b"\x89PNG",
    }


def features(function):
    return {"rate": past.count(CheckIn, "60d", by=Expected.student), "odd": function}


def test_a_declaration_is_told_from_another():
    def hashed(**declared):
        declared.setdefault("model", HistGradientBoostingClassifier())
        return report.declaration(school(**declared).predictors["absence"])

    assert hashed() == hashed(), "and not by where it lies in memory"
    same = [hashed(features=features(lambda rate: rate + 1)) for _ in range(2)]
    assert same[0] == same[1]
    others = {
        hashed(),
        same[0],
        hashed(features=features(lambda rate: rate + 2)),
        hashed(features=features(lambda rate: rate * 1)),
        hashed(model=HistGradientBoostingClassifier(max_iter=7)),
        hashed(provisional="5m"),
    }
    assert len(others) == 6


def network(size):
    def build(inputs):
        return inputs, size

    return make_pipeline(SimpleImputer(), KerasClassifier(build))


def test_every_function_that_stands_in_a_declaration_counts():
    """Found by running: of a window's `where`, of what a function closes over and of a network nothing was told."""

    def above(least):
        return lambda rate: rate > least

    def where(name):
        return {"rate": past.count(CheckIn, "60d", by=Expected.student, where=lambda e: e.student == name)}

    model = HistGradientBoostingClassifier()
    apps = [school(model, features=features(above(1))), school(model, features=features(above(2)))]
    apps += [school(model, features=where("a")), school(model, features=where("b"))]
    apps += [school(network(8)), school(network(16))]
    assert len({report.declaration(app.predictors["absence"]) for app in apps}) == 6


@pytest.mark.slow
def test_a_declaration_is_the_same_in_every_process_and_wherever_it_stands():
    """Found by running: a set was told in the order of its process, a function within a function with its line."""
    code = """
from sklearn.ensemble import HistGradientBoostingClassifier
from katmatic import past
from katmatic.training import report
from tests.learning import CheckIn, Expected, school
def odd(event):
    return event.mood in {"glad", "sad", "cross", "calm"} or max(event.mood, key=lambda letter: letter > "m")
features = {"rate": past.count(CheckIn, "60d", by=Expected.student), "odd": odd}
print(report.declaration(school(HistGradientBoostingClassifier(), features=features).predictors["absence"]))
"""
    told = {
        subprocess.run(
            [sys.executable, "-c", "\n" * seed + code],
            env={**ENVIRONMENT, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (1, 2, 3)
    }
    assert len(told) == 1
