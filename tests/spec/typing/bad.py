"""What an editor refuses: each line that is marked, and no other. Checked by mypy and pyright."""

from datetime import UTC, datetime

from katmatic import App, Event, Id, Key, Promote, Retrain, Time, future, past

app = App("shop", timezon="UTC")  # wrong


class Payment(Event):
    payment: Id
    card: Key
    at: Time
    amount: float


class Chargeback(Event):
    payment: Key
    at: Time


def is_large(event: Payment) -> bool:
    return event.amuont > 100  # wrong


misspelt = Payment.amuont  # wrong
mean = past.mean(Payment.amuont, "30d", by=Payment.card)  # wrong
key = past.mean(Payment.amount, "30d", by=Payment.crad)  # wrong
window = past.mean(Payment.amount, 30, by=Payment.card)  # wrong
aggregate = past.median(Payment.amount, "30d", by=Payment.card)  # wrong
no_anchor = future.any(Chargeback, within="60d")  # wrong
no_event = future.any(Chargeback, per="Payment", within="60d")  # wrong
value = future.sum(Chargeback.amount, per=Payment, within="60d")  # wrong
policy = Retrain(evry="1d")  # wrong
metric = Promote(metric=0.5)  # wrong
by_place = Payment("p1", "c1", datetime(2025, 4, 21, tzinfo=UTC), 12.5)  # wrong
misnamed = Payment(payment="p1", card="c1", at=datetime(2025, 4, 21, tzinfo=UTC), amuont=12.5)  # wrong
missing = Payment(payment="p1", card="c1", at=datetime(2025, 4, 21, tzinfo=UTC))  # wrong
text = Payment(payment="p1", card="c1", at="2025-04-21", amount=12.5)  # wrong
payment = Payment(payment="p1", card="c1", at=datetime(2025, 4, 21, tzinfo=UTC), amount=12.5)
payment.amount = 13.0  # wrong
