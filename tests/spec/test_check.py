"""What a prediction must not say. Each refusal says where, what was found, what was expected, what to do."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from katmatic import App, Event, Id, Key, Promote, Rank, Time, future, past
from tests.refusals import refused


class Payment(Event):
    payment: Id
    card: Key
    merchant: Key
    country: str
    amount: float
    at: Time


class Chargeback(Event):
    payment: Key
    at: Time


class Login(Event):
    card: Key
    at: Time
    device: str = ""


MODEL = HistGradientBoostingClassifier()
fraud = future.any(Chargeback, per=Payment, within="60d")


@pytest.fixture
def app():
    return App("shop")


def predict(app, name="score", label=fraud, **options):
    given = {"features": {"amount": Payment.amount}, "model": MODEL} | options
    return app.predict(name, label, **given)


def refuses(app, where, *, found, expected, do, **options):
    with refused(f"App.predict('score'){where}", found=found, expected=expected, do=do):
        predict(app, **options)
    assert app.predictors == {}, "what is refused leaves nothing behind"


def test_two_predictors_of_one_name(app):
    predict(app)
    with refused(
        "App.predict('score')", found="a second predictor of this name", expected="one", do="give it a name of its own"
    ):
        predict(app)


@pytest.mark.parametrize("label", [Payment, None, "fraud", past.count(Payment, "1d")], ids=range(4))
def test_a_label_that_does_not_look_forward(app, label):
    refuses(app, "", label=label, found=repr(label), expected="a label made by future.*", do="future.any(...)")


def test_a_feature_from_the_future(app):
    refuses(
        app,
        " features['leak']",
        features={"leak": fraud},
        found=f"{fraud}, which looks forward",
        expected="something known at the moment of the prediction",
        do="use its past: past.mean(label, window, by=...)",
    )


def test_a_field_of_another_event(app):
    refuses(
        app,
        " features['device']",
        features={"device": Login.device},
        found="Login.device, a field of another event",
        expected="a field of the anchor Payment",
        do="take its latest value: past.last(Login.device, by=...)",
    )


def test_a_key_of_another_event(app):
    refuses(
        app,
        " features['logins']",
        features={"logins": past.count(Login, "1d", by=Login.card)},
        found="by=Login.card, a field of another event",
        expected="a Key field of the anchor Payment",
        do="say by=Payment.<key>",
    )


def test_events_that_share_no_key_with_their_anchor(app):
    refuses(
        app,
        " features['logins']",
        features={"logins": past.count(Login, "1d", by=Payment.merchant)},
        found="Login, which has no key called 'merchant'",
        expected="a Key field 'merchant' in Login, as in Payment",
        do="name the key fields alike in both events",
    )


def test_a_label_whose_anchor_shares_no_key(app):
    hacked = future.any(Payment, per=Login, within="1d")
    refuses(
        app,
        " features['hacked']",
        features={"hacked": past.mean(hacked, "1d", by=Payment.merchant)},
        found="Login, which has no key called 'merchant'",
        expected="a Key field 'merchant' in Login, as in Payment",
        do="name the key fields alike in both events",
    )


def test_grouping_by_a_field_that_is_no_key(app):
    refuses(
        app,
        " features['there']",
        features={"there": past.count(Payment, "1d", by=Payment.country)},
        found="by=Payment.country, which is no key",
        expected="a field of type Key",
        do="declare Payment.country as a Key",
    )


def test_a_time_as_a_feature(app):
    refuses(
        app,
        " features['at']",
        features={"at": Payment.at},
        found="Payment.at, a time",
        expected="a number or a text",
        do="lambda event: event.at.hour",
    )


def test_a_list_as_a_feature(app):
    top = past.top(Payment.merchant, "1d", k=3)
    refuses(
        app,
        " features['merchants']",
        features={"merchants": top},
        found=f"{top}, a list",
        expected="one value",
        do="use it in Rank(candidates=[...]); for a feature take past.last or past.distinct",
    )


def test_a_function_of_what_is_no_feature(app):
    refuses(
        app,
        " features['ratio']",
        features={"amount": Payment.amount, "ratio": lambda amount, usual: amount / usual},
        found="the argument 'usual'",
        expected="event, now, or the name of a feature: amount",
        do="name the argument after what it takes",
    )


def test_features_in_a_circle(app):
    refuses(
        app,
        "",
        features={"a": lambda b: b, "b": lambda c: c, "c": lambda a: a},
        found="features in a circle: a -> b -> c -> a",
        expected="features that can be computed one after the other",
        do="break the circle",
    )


@pytest.mark.parametrize("name", ["two words", "event", "now", "", 5])
def test_a_feature_whose_name_no_function_could_take(app, name):
    refuses(
        app,
        f" features[{name!r}]",
        features={name: Payment.amount},
        found=repr(name),
        expected="a name of letters, digits and _",
        do="not event, and not now",
    )


@pytest.mark.parametrize("value", [5, "amount", None, Payment], ids=str)
def test_a_feature_that_says_nothing(app, value):
    if value is Payment:
        value = [Payment.amount]
    refuses(
        app,
        " features['x']",
        features={"x": value},
        found=repr(value),
        expected="past.*, a field of the anchor, or a function",
        do="write lambda event: ... for a value of your own",
    )


def test_no_features_at_all(app):
    refuses(app, "", features={}, found="no features", expected="at least one", do="features={...}")


def test_features_that_are_no_mapping(app):
    refuses(
        app,
        "",
        features=[Payment.amount],
        found="features of type list",
        expected="a dict: each feature by its name",
        do='features={"amount": Payment.amount}',
    )


def test_a_model_that_cannot_take_what_it_is_given(app):
    refuses(
        app,
        " model",
        features={"usual": past.mean(Payment.amount, "30d", by=Payment.card)},
        model=LogisticRegression(),
        found="usual: may be unknown (NaN), given to LogisticRegression",
        expected="a model that takes NaN, or a step before it that fills it",
        do="make_pipeline(SimpleImputer(add_indicator=True), LogisticRegression(...))",
    )


def test_a_prediction_when_the_answer_is_known(app):
    hour = future.any(Chargeback, per=Payment, within="1h")
    refuses(
        app,
        "",
        label=hour,
        lead=("0m", "-1h"),
        found="a prediction 1h after the anchor's time",
        expected="one before the label's window ends, 1h after it",
        do='ask earlier, e.g. lead="30m"',
    )


def test_a_label_that_has_ended_before_its_anchor_needs_a_lead(app):
    before = future.any(Chargeback, per=Payment, within=("-2h", "-1h"))
    refuses(
        app,
        "",
        label=before,
        found="a prediction 0s after the anchor's time",
        expected="one before the label's window ends, -1h after it",
        do='ask earlier, e.g. lead="30m"',
    )
    assert predict(app, label=before, lead="2h").lead == (timedelta(hours=2),)


def test_one_moment_twice(app):
    refuses(
        app, "", lead=("60m", "1h"), found="one lead twice", expected="different moments", do="name each moment once"
    )


@pytest.mark.parametrize(("name", "wanted"), [("retrain", "Retrain"), ("promote", "Promote"), ("rank", "Rank")])
def test_a_policy_of_another_kind(app, name, wanted):
    refuses(app, "", **{name: "7d"}, found=f"{name}='7d'", expected=wanted, do=f"{name}={wanted}(...)")


def test_a_metric_that_means_nothing_for_the_label(app):
    refuses(
        app,
        "",
        promote=Promote(metric="rmse"),
        found="promote=Promote(metric='rmse')",
        expected=f"for {fraud}, one of log_loss, brier, roc_auc, average_precision, accuracy",
        do="choose one of these",
    )


def test_candidates_that_are_no_key_of_the_anchor(app):
    top = past.top(Payment.country, "1d", k=3)
    refuses(
        app,
        " rank",
        rank=Rank(candidates=[top]),
        found="candidates of country",
        expected="one Key of the anchor Payment, which no candidate is found by",
        do="rank one of card, merchant",
    )


def test_candidates_found_by_themselves(app):
    top = past.top(Payment.merchant, "1d", k=3, by=Payment.merchant)
    refuses(
        app,
        " rank",
        rank=Rank(candidates=[top]),
        found="candidates of merchant",
        expected="one Key of the anchor Payment, which no candidate is found by",
        do="rank one of card, merchant",
    )
