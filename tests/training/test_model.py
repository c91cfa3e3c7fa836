"""The user's models are fitted as they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, VotingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from katmatic import past
from katmatic.errors import ModelError
from katmatic.log.memory import MemoryLog
from katmatic.training.dataset import read
from katmatic.training.model import fit
from tests.learning import CheckIn, Expected, a_term, after, asked, known, school, write

FEATURES = {"mood": lambda event: event.mood, "seen": past.count(CheckIn, "5d", by=Expected.student)}


def learnt(app, *, truths=None):
    """The training set of a term in which the sad are absent."""
    log, (predictions, labels) = MemoryLog(), a_term(30)
    columns = tuple(app.predictors["absence"].features)
    if "mood" in columns:
        predictions = [
            asked(b.anchor, b.time, values=b.values, columns=columns, texts={"mood": moods(b)}) for b in predictions
        ]
    if truths is not None:
        labels = [known(b.anchor, b.time, truths) for b in labels]
    write(log, predictions=predictions, labels=labels)
    return read(log, app, app.predictors["absence"], after(60)).with_tables()


def moods(block):
    return ["sad" if value > 0 else "glad" for value in block.values[:, 0]]


def one_hot():
    return ColumnTransformer([("mood", OneHotEncoder(handle_unknown="ignore"), ["mood"])], remainder="passthrough")


@pytest.mark.parametrize(
    "model",
    [
        HistGradientBoostingClassifier(max_iter=40, categorical_features=["mood"]),
        make_pipeline(one_hot(), LogisticRegression()),
        make_pipeline(one_hot(), HistGradientBoostingClassifier(max_iter=40)),
        CalibratedClassifierCV(make_pipeline(one_hot(), LogisticRegression())),
        VotingClassifier([("one", make_pipeline(one_hot(), LogisticRegression()))], voting="soft"),
    ],
    ids=lambda model: type(model).__name__,
)
def test_a_model_may_name_its_columns_after_the_features(model):
    """Found by reading: it was accepted on import, as its refusals advise, and then failed in every training."""
    app = school(model, features=FEATURES)
    rows = learnt(app)
    told = fit(app.predictors["absence"], rows).predict_proba(rows.matrix())[:, 1]
    is_sad = np.array([mood == "sad" for mood in rows.texts["mood"]])
    assert told[is_sad].mean() > 0.6 > 0.4 > told[~is_sad].mean()


def test_the_declared_model_is_left_as_it_is():
    app = school(make_pipeline(one_hot(), LogisticRegression()), features=FEATURES)
    before = repr(app.predictors["absence"].model)
    fit(app.predictors["absence"], learnt(app))
    assert repr(app.predictors["absence"].model) == before


@pytest.mark.parametrize("model", [LogisticRegression(), make_pipeline(SimpleImputer(), LogisticRegression())])
def test_weights_reach_the_model(model):
    app = school(model)
    rows = learnt(app)
    rows = replace(rows, weight=np.where(rows.label > 0.5, 100.0, 1.0))
    heavy, plain = (
        fit(app.predictors["absence"], each).predict_proba(rows.matrix())[:, 1].mean()
        for each in (rows, replace(rows, weight=np.ones(len(rows))))
    )
    assert heavy > plain + 0.2


def test_a_model_that_takes_no_weights_is_fitted_without():
    app = school(KNeighborsClassifier())
    rows = learnt(app)
    assert fit(app.predictors["absence"], replace(rows, weight=rows.weight * 2)).n_samples_fit_ == len(rows)


@pytest.mark.parametrize(("truth", "only"), [(1.0, "true"), (0.0, "false")])
def test_one_class_is_nothing_to_learn_from(truth, only):
    app = school(GaussianNB())
    with pytest.raises(ModelError, match=f"absence model: found only {only} labels, expected both; wait for the other"):
        fit(app.predictors["absence"], learnt(app, truths=truth))


def test_no_rows_are_nothing_to_learn_from():
    app = school()
    rows = learnt(app)
    with pytest.raises(ModelError, match="found no labelled rows"):
        fit(app.predictors["absence"], rows.take(np.zeros(len(rows), np.bool_)))


class Stubborn(GaussianNB):
    """It cannot even be copied."""

    def __deepcopy__(self, memo):
        raise TypeError("cannot be copied")


def test_a_model_that_cannot_be_copied_says_so():
    app = school(Stubborn())
    with pytest.raises(ModelError, match="cannot be copied"):
        fit(app.predictors["absence"], learnt(app))
