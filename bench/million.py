"""The application of `bench.recovery` and `bench.state`: card payments, ten windows for each card, a linear model."""

from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from katmatic import App, Event, Key, Time, future, past

app = App("million")


class Payment(Event):
    """A card is asked to pay."""

    card: Key
    amount: float
    at: Time


class Dispute(Event):
    """A payment was disputed."""

    card: Key
    at: Time


app.source(Payment, lateness="10m", horizon="2h", duplicates="10m")
app.source(Dispute, horizon="10m")
disputed = future.any(Dispute, per=Payment, within="1m")
app.predict(
    "disputed",
    disputed,
    features={
        "count_1h": past.count(Payment, "1h", by=Payment.card),
        "sum_1h": past.sum(Payment.amount, "1h", by=Payment.card),
        "max_1h": past.max(Payment.amount, "1h", by=Payment.card),
        "count_24h": past.count(Payment, "24h", by=Payment.card),
        "sum_24h": past.sum(Payment.amount, "24h", by=Payment.card),
        "max_24h": past.max(Payment.amount, "24h", by=Payment.card),
        "count_7d": past.count(Payment, "7d", by=Payment.card),
        "sum_7d": past.sum(Payment.amount, "7d", by=Payment.card),
        "max_7d": past.max(Payment.amount, "7d", by=Payment.card),
        "since": past.since(Payment, "7d", by=Payment.card),
    },
    model=make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler(), LogisticRegression()),
)
