"""What a training tells of itself."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from katmatic import past
from katmatic.log.memory import MemoryLog
from katmatic.training import report
from katmatic.training.dataset import read
from tests.learning import DAY, CheckIn, Expected, a_term, after, school, write


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
