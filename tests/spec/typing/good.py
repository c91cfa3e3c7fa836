"""What an editor accepts: every word of a declaration, rightly spelt. Checked by mypy and pyright."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from katmatic import App, Event, Id, Key, Promote, Rank, Retrain, Served, Time, future, past

app = App("shop", timezone="Europe/London")


class Payment(Event):
    payment: Id
    card: Key
    at: Time
    amount: float
    country: str = ""
    city: str | None = None


class Shown(Event, topic="shown"):
    card: Key
    item: Key
    at: Time
    served: Served = ""


class Chargeback(Event):
    payment: Key
    at: Time


class Confirmed(Event):
    payment: Key
    at: Time


def is_large(event: Payment) -> bool:
    return event.amount > 100


def price(event: Payment, now: datetime) -> float:
    return event.amount / (now - event.at).total_seconds()


def model() -> Any:
    return object()


amount: float = Payment.amount
app.source(Payment, lateness="10m", silence="2m")
fraud = future.any(Chargeback | Confirmed, per=Payment, within="60d", provisional="7d")
score = app.predict(
    "score",
    fraud,
    lead=("2h", "0m"),
    features={
        "amount": Payment.amount,
        "large_30d": past.count(Payment, "30d", by=Payment.card, where=is_large),
        "mean_30d": past.mean(Payment.amount, "30d", by=(Payment.card, Payment.country)),
        "fraud_90d": past.mean(fraud, "90d", by=Payment.card),
        "city": past.last(Payment.city, by=Payment.card),
        "price": price,
        "ratio": lambda amount, mean_30d: amount / mean_30d,
    },
    model=model(),
    deadline="50ms",
    retrain=Retrain(every="1d", on_drift=True),
    promote=Promote(metric="average_precision", margin=0.01),
    rank=Rank(candidates=[past.top(Shown.item, "6h", k=5)], explore=0.05),
)


@score.when(above=0.9, censors=True, holdout=0.01)
def decline(prediction: Any) -> None:
    print(prediction.event.payment)


@app.on(fraud)
def tell(version: Any) -> None:
    print(version.value)


@app.every("1d")
def timetable(day: datetime) -> Iterator[Shown]:
    yield Shown(card="c1", item="i1", at=day)


payment = Payment(payment="p1", card="c1", at=datetime(2025, 4, 21, tzinfo=UTC), amount=12.5)
decline(payment)
