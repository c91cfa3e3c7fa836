"""What a model can take is asked of the model; what it cannot take is refused, and the message says what to write."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from river import compose, linear_model, preprocessing, tree
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import (
    BaggingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.semi_supervised import SelfTrainingClassifier
from sklearn.svm import SVC

from katmatic import Event, Key, Time, future
from katmatic.spec import model as module
from katmatic.spec.feature import Given
from katmatic.spec.model import ENCODER, check_model
from tests.refusals import refused


class Payment(Event):
    card: Key
    at: Time
    amount: float


fraud = future.any(Payment, per=Payment, within="1d")
spent = future.sum(Payment.amount, per=Payment, within="1d")
next_amount = future.last(Payment.amount, per=Payment, within="1d")

amount = Given("amount", is_text=False, may_be_unknown=False)
usual = Given("usual", is_text=False, may_be_unknown=True)
country = Given("country", is_text=True, may_be_unknown=False)
city = Given("city", is_text=True, may_be_unknown=True)

PLACE = "App.predict('score') model"


def check(model, *features, label=fraud):
    check_model("App.predict('score')", model, label, features)


def unknown(names, model):
    return {
        "found": f"{names}: may be unknown (NaN), given to {model}",
        "expected": "a model that takes NaN, or a step before it that fills it",
        "do": f"make_pipeline(SimpleImputer(add_indicator=True), {model}(...))",
    }


def text(names, model):
    return {
        "found": f"{names}: text, given to {model}",
        "expected": "numbers",
        "do": f"encode it first: {ENCODER}",
    }


TAKE_NAN = [
    HistGradientBoostingClassifier(),
    RandomForestClassifier(),
    BaggingClassifier(),
    make_pipeline(StandardScaler(), HistGradientBoostingClassifier()),
    make_pipeline(SimpleImputer(add_indicator=True), LogisticRegression()),
    make_pipeline(StandardScaler(), SimpleImputer(), LogisticRegression()),
    make_pipeline(FunctionTransformer(), LogisticRegression()),  # a function may do anything
    Pipeline([("none", "passthrough"), ("fill", SimpleImputer()), ("model", LogisticRegression())]),
    make_pipeline(FeatureUnion([("fill", SimpleImputer()), ("fill too", SimpleImputer())]), LogisticRegression()),
    CalibratedClassifierCV(HistGradientBoostingClassifier()),
    GridSearchCV(make_pipeline(SimpleImputer(), LogisticRegression()), {}),
    VotingClassifier([("a", RandomForestClassifier()), ("b", HistGradientBoostingClassifier())], voting="soft"),
    StackingClassifier([("a", RandomForestClassifier())], final_estimator=LogisticRegression()),
    DummyClassifier(),
]


@pytest.mark.parametrize("model", TAKE_NAN, ids=str)
def test_a_model_that_takes_the_unknown_is_given_it(model):
    check(model, amount, usual)


REFUSE_NAN = [
    (LogisticRegression(), "LogisticRegression"),
    (GaussianNB(), "GaussianNB"),
    (make_pipeline(StandardScaler(), LogisticRegression()), "LogisticRegression"),
    (make_pipeline(make_pipeline(StandardScaler()), SVC(probability=True)), "SVC"),
    (CalibratedClassifierCV(LogisticRegression()), "LogisticRegression"),
    (GridSearchCV(make_pipeline(StandardScaler(), LogisticRegression()), {}), "LogisticRegression"),
    (VotingClassifier([("a", RandomForestClassifier()), ("b", GaussianNB())], voting="soft"), "GaussianNB"),
    (StackingClassifier([("a", GaussianNB())], final_estimator=LogisticRegression()), "GaussianNB"),
    (BaggingClassifier(GaussianNB()), "GaussianNB"),
    (
        make_pipeline(FeatureUnion([("fill", SimpleImputer()), ("scale", StandardScaler())]), LogisticRegression()),
        "LogisticRegression",
    ),
]


@pytest.mark.filterwarnings("ignore:The `probability` parameter:FutureWarning")
@pytest.mark.parametrize(("model", "culprit"), REFUSE_NAN, ids=str)
def test_a_model_that_cannot_take_the_unknown_is_refused(model, culprit):
    check(model, amount)
    with refused(PLACE, **unknown("usual", culprit)):
        check(model, amount, usual)


def test_every_feature_that_may_be_unknown_is_named():
    other = Given("gap", is_text=False, may_be_unknown=True)
    with refused(PLACE, **unknown("usual, gap", "LogisticRegression")):
        check(LogisticRegression(), usual, amount, other)


@pytest.mark.parametrize(
    ("model", "culprit"),
    [
        (HistGradientBoostingClassifier(), "HistGradientBoostingClassifier"),
        (make_pipeline(StandardScaler(), LogisticRegression()), "StandardScaler"),
        (make_pipeline(SimpleImputer(), LogisticRegression()), "SimpleImputer"),
    ],
    ids=str,
)
def test_text_is_refused_by_what_takes_numbers(model, culprit):
    with refused(PLACE, **text("country", culprit)):
        check(model, amount, country)


ENCODE = OneHotEncoder(handle_unknown="ignore")


@pytest.mark.parametrize(
    "model",
    [
        make_pipeline(ColumnTransformer([("text", ENCODE, ["country", "city"])]), LogisticRegression()),
        make_pipeline(
            ColumnTransformer([("text", ENCODE, ["country", "city"]), ("rest", SimpleImputer(), ["amount", "usual"])]),
            LogisticRegression(),
        ),
        make_pipeline(
            ColumnTransformer([("text", ENCODE, ["country", "city"])], remainder="passthrough"),
            HistGradientBoostingClassifier(),
        ),
        make_pipeline(ColumnTransformer([("text", ENCODE, [2, 3])], remainder=SimpleImputer()), LogisticRegression()),
        make_pipeline(
            ColumnTransformer([("text", ENCODE, slice(2, 4)), ("rest", "drop", [1])], remainder="passthrough"),
            LogisticRegression(),
        ),
        make_pipeline(ColumnTransformer([("text", ENCODE, [False, False, True, True])]), LogisticRegression()),
        make_pipeline(
            ColumnTransformer([("text", ENCODE, make_column_selector(dtype_include=object))]), LogisticRegression()
        ),
        make_pipeline(
            ColumnTransformer([("text", make_pipeline(SimpleImputer(strategy="most_frequent"), ENCODE), ["city"])]),
            LogisticRegression(),
        ),
        make_pipeline(
            ColumnTransformer([("text", OrdinalEncoder(encoded_missing_value=-1), ["country", "city"])]),
            LogisticRegression(),
        ),
    ],
    ids=range(9),
)
def test_columns_are_followed_by_name_place_and_choice(model):
    check(model, amount, usual, country, city)


def test_what_a_transformer_leaves_over_reaches_the_model():
    encode = ColumnTransformer([("text", ENCODE, ["country"])], remainder="passthrough")
    with refused(PLACE, **unknown("usual", "LogisticRegression")):
        check(make_pipeline(encode, LogisticRegression()), country, usual)
    check(make_pipeline(encode, LogisticRegression()), country, amount)


def test_an_encoder_that_keeps_the_unknown_fills_nothing():
    model = make_pipeline(ColumnTransformer([("text", OrdinalEncoder(), ["city"])]), LogisticRegression())
    with refused(PLACE, **unknown("city", "LogisticRegression")):
        check(model, city)


def test_a_column_that_is_no_feature_is_refused():
    model = make_pipeline(ColumnTransformer([("text", ENCODE, ["contry"])]), LogisticRegression())
    with refused(
        PLACE,
        found="the column 'contry'",
        expected="the name of a feature: amount, country",
        do="name the columns after the features",
    ):
        check(model, amount, country)


@pytest.mark.parametrize(
    ("model", "owner", "method"),
    [
        (RidgeClassifier(), "RidgeClassifier", "predict_proba"),
        (LinearRegression(), "LinearRegression", "predict_proba"),
        (linear_model.LinearRegression(), "LinearRegression", "predict_proba_one"),
        (preprocessing.StandardScaler() | linear_model.LinearRegression(), "LinearRegression", "predict_proba_one"),
    ],
    ids=["classifier", "regressor", "online", "online pipeline"],
)
def test_a_probability_needs_a_model_that_gives_one(model, owner, method):
    with refused(
        PLACE,
        found=f"{owner}, which has no {method}",
        expected=f"a model that gives probabilities, for {fraud}",
        do="take a classifier that does, or calibrate this one (CalibratedClassifierCV)",
    ):
        check(model, amount)


def test_a_number_needs_a_regressor():
    check(HistGradientBoostingRegressor(), amount, usual, label=spent)
    check(linear_model.LinearRegression(), amount, usual, label=spent)
    for model in (HistGradientBoostingClassifier(), linear_model.LogisticRegression()):
        with refused(
            PLACE,
            found=type(model).__name__,
            expected=f"a model that gives a number, for {spent}",
            do="take a regressor",
        ):
            check(model, amount, label=spent)


def test_the_newest_value_may_be_a_class_or_a_number():
    check(HistGradientBoostingClassifier(), amount, label=next_amount)
    check(HistGradientBoostingRegressor(), amount, label=next_amount)


def test_a_class_instead_of_a_model_is_refused():
    with refused(PLACE, found="the class LogisticRegression", expected="a model", do="make one: LogisticRegression()"):
        check(LogisticRegression, amount)


def test_what_cannot_learn_is_refused():
    with refused(
        PLACE,
        found="str, which can learn neither in batches nor row by row",
        expected="a model with fit, or with learn_one",
        do="take one of scikit-learn's or of River's",
    ):
        check("logistic", amount)


def test_a_model_that_learns_row_by_row_gets_no_unknown_values():
    check(preprocessing.StandardScaler() | linear_model.LogisticRegression(), amount, usual)


def test_a_model_that_learns_row_by_row_is_shown_a_text():
    encode = compose.Select("country") | preprocessing.OneHotEncoder()
    rest = compose.Discard("country") | preprocessing.StandardScaler()
    check(encode + rest | linear_model.LogisticRegression(), amount, country)
    check(tree.HoeffdingTreeClassifier(), amount, country)
    model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    with refused(
        PLACE,
        found="country: text, on which Pipeline raises TypeError",
        expected="numbers",
        do="encode it first: (compose.Select('country') | preprocessing.OneHotEncoder()) + compose.Discard('country')",
    ):
        check(model, amount, country)
    assert model["StandardScaler"].counts == {}, "a copy was asked, not the model itself"


class Bare:
    """A model of the user's own: no tags."""

    def fit(self, rows, labels):
        return self

    def predict_proba(self, rows):
        return rows


def test_a_model_without_tags_says_nothing_and_is_given_everything():
    check(Bare(), amount, usual, country)


def test_a_model_whose_tags_cannot_be_asked_yet_is_given_everything():
    check(SelfTrainingClassifier(Bare()), amount, usual)


def test_no_library_of_models_is_imported():
    tree_of = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree_of) if isinstance(node, ast.Import) for alias in node.names}
    assert names == {"copy"}
