"""An application collects what is declared: its sources, predictors, actions, listeners and calendars."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from katmatic import App, Event, Id, Key, Promote, Retrain, Time, future, past
from katmatic.spec.app import Action, SourcePolicy, windows
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


# The application


def test_an_application_has_a_name_and_a_time_zone():
    assert str(App("attendance", timezone="Asia/Kathmandu").timezone) == "Asia/Kathmandu"
    assert str(App("fraud").timezone) == "UTC"


@pytest.mark.parametrize("name", ["", "Shop", "1shop", "my shop", "a/b", "x" * 64, "é", None, 5])
def test_a_name_that_is_no_part_of_a_topic_or_path(name):
    with refused(
        f"App({name!r})",
        found=repr(name),
        expected="a lower-case letter, then at most 62 of lower-case letters, digits, - and _",
        do='e.g. "attendance"',
    ):
        App(name)


@pytest.mark.parametrize("zone", ["Kathmandu", "", "+05:45", None, "../../etc/passwd"])
def test_a_time_zone_that_nobody_knows(zone):
    with refused("App('shop')", found=f"timezone={zone!r}", expected="an IANA time zone", do='e.g. "Europe/London"'):
        App("shop", timezone=zone)


# Sources


def test_a_source_waits_for_nothing_by_itself(app):
    app.source(Payment)
    assert app.sources[Payment] == SourcePolicy()
    assert SourcePolicy().lateness == timedelta(0)
    assert SourcePolicy().silence is None


def test_a_source_says_how_its_stream_behaves(app):
    app.source(Payment, lateness="10m", silence="2m", horizon="30d", duplicates="2d", ahead="1h")
    assert app.sources[Payment] == SourcePolicy(
        lateness=timedelta(minutes=10),
        silence=timedelta(minutes=2),
        horizon=timedelta(days=30),
        duplicates=timedelta(days=2),
        ahead=timedelta(hours=1),
    )
    assert app.events == (Payment,)


def test_a_source_declared_twice(app):
    app.source(Payment)
    with refused("App.source(Payment)", found="a second declaration", expected="one", do="merge the two"):
        app.source(Payment, lateness="1m")


def test_a_source_of_what_is_no_event(app):
    with refused("schema", found="'payments'", expected="an event class", do="derive it: class Payment(Event)"):
        app.source("payments")


@pytest.mark.parametrize("name", ["lateness", "horizon", "duplicates", "ahead"])
def test_a_negative_wait(app, name):
    with refused(f"App.source(Payment) {name}=", found="'-1h'", expected="no negative time", do='write e.g. "1d"'):
        app.source(Payment, **{name: "-1h"})


def test_silence_of_no_length(app):
    with refused("App.source(Payment) silence=", found="'0s'", expected="more than no time", do='write e.g. "1d"'):
        app.source(Payment, silence="0s")


def test_waiting_for_what_is_too_late(app):
    with refused(
        "App.source(Payment)",
        found="lateness='8d', which is waited for, and horizon='7d', when it is too late",
        expected="a horizon that is no shorter than the lateness",
        do="lengthen the horizon",
    ):
        app.source(Payment, lateness="8d")


def test_two_events_of_one_topic(app):
    class Other(Event, topic="payment"):
        at: Time

    app.source(Payment)
    with refused(
        "class Other",
        found="topic 'payment', which Payment reads",
        expected="a topic for each event",
        do='name another: class Other(Event, topic="...")',
    ):
        app.source(Other)


# Predictors


def test_a_predictor_knows_its_anchor_and_every_event_that_it_needs(app):
    score = predict(
        app,
        features={
            "amount": Payment.amount,
            "logins": past.count(Login, "1d", by=Payment.card),
            "fraud_90d": past.mean(fraud, "90d", by=Payment.merchant),
        },
        lead="0m",
        deadline="50ms",
    )
    assert score.anchor is Payment
    assert score.events == (Payment, Chargeback, Login)
    assert (score.lead, score.deadline) == ((timedelta(0),), timedelta(milliseconds=50))
    assert (score.retrain, score.promote, score.rank) == (Retrain(), Promote(), None)
    assert [str(window) for window in windows(score)] == ["past.count(Login, '1d')", f"past.mean({fraud}, '90d')"]
    assert app.predictors == {"score": score}
    assert app.labels == {"score": fraud}
    assert app.events == (Payment, Chargeback, Login)


def test_labels_that_only_features_or_listeners_read_are_named_by_what_they_say(app):
    seldom = future.any(Chargeback, per=Payment, within="1d")
    twin = future.any(Chargeback, per=Payment, within="1d")
    predict(app, features={"rate": past.mean(seldom, "9d", by=Payment.card)})
    app.on(twin)(print)
    assert app.labels == {"score": fraud, str(seldom): seldom, f"{seldom} #2": twin}


def test_a_deadline_of_no_length(app):
    with refused("App.predict('score') deadline=", found="'0ms'", expected="more than no time", do='write e.g. "1d"'):
        predict(app, deadline="0ms")


# Actions, listeners, calendars


def test_an_action_is_kept_with_its_threshold(app):
    score = predict(app)

    @score.when(above=0.9, censors=True, holdout=0.01)
    def decline(prediction):
        return prediction

    assert decline(5) == 5, "the function stays what it was"
    assert score.actions == [Action(decline, 0.9, None, True, 0.01)]


@pytest.mark.parametrize(
    ("above", "below"), [(None, None), (1.5, None), (None, -0.1), (0.9, 0.1), (float("nan"), None)]
)
def test_a_threshold_that_no_probability_meets(app, above, below):
    with refused(
        "score.when",
        found=f"above={above!r}, below={below!r}",
        expected="above=, below= or both, each a probability in [0, 1]",
        do="e.g. above=0.8",
    ):
        predict(app).when(above=above, below=below)


def test_a_threshold_of_a_number_may_be_any_number(app):
    spent = future.sum(Payment.amount, per=Payment, within="1d")
    score = predict(app, label=spent, model=HistGradientBoostingRegressor())
    score.when(above=100, below=1000)(print)
    for above in ("100", float("nan")):
        with refused(
            "score.when", found=f"above={above!r}, below=None", expected="above=, below= or both", do="e.g. above=0.8"
        ):
            score.when(above=above)


@pytest.mark.parametrize(
    ("holdout", "censors"), [(1.0, True), (-0.1, True), (0.5, False), (float("nan"), True), (None, True), (0.1, "yes")]
)
def test_a_share_that_nobody_holds_out(app, holdout, censors):
    with refused(
        "score.when",
        found=f"censors={censors!r}, holdout={holdout!r}",
        expected="a share in [0, 1), and only with censors=True",
        do="e.g. censors=True, holdout=0.01",
    ):
        predict(app).when(above=0.9, censors=censors, holdout=holdout)


def test_an_action_takes_the_prediction(app):
    with refused(
        "score.when",
        found="a function of nothing",
        expected="a function of the prediction",
        do="let it take one argument",
    ):
        predict(app).when(above=0.9)(lambda: None)


def test_a_listener_takes_a_label(app):
    app.on(fraud)(print)
    assert app.listeners == [(fraud, print)]
    with refused(
        "App.on", found="'fraud'", expected="a label made by future.*", do="pass the label itself: @app.on(absent)"
    ):
        app.on("fraud")


def test_a_calendar_takes_a_day(app):
    @app.every("1d")
    def timetable(day: datetime):
        yield Login(card="c", at=day)

    assert [(calendar.function, calendar.every) for calendar in app.calendars] == [(timetable, timedelta(days=1))]
    with refused(
        "App.every", found="a function of nothing", expected="a function of the day", do="let it take one argument"
    ):
        app.every("1d")(lambda: ())
    with refused(
        "App.every",
        found="'daily'",
        expected='a duration such as "30d", "2h", "-10m" or "50ms"',
        do="write a whole number and a unit: y w d h m s ms us",
    ):
        app.every("daily")
