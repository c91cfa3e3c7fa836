"""One step of the engine, and what it gave."""

from __future__ import annotations

import msgspec
import numpy as np
from sklearn.linear_model import LogisticRegression

from katmatic import App, Event, Key, Time, future, past
from katmatic.engine.plan import compile
from katmatic.engine.step import State, step
from katmatic.log.base import Batch, Slice
from katmatic.log.codec import encode_labels, encode_predictions

SECOND = 1_000_000
BEGIN = 1_700_000_000


class Payment(Event):
    card: Key
    amount: float
    at: Time


class Dispute(Event):
    card: Key
    at: Time


def app():
    cards = App("cards")
    cards.source(Payment, lateness="0s", horizon="1h")
    cards.predict(
        "disputed",
        future.any(Dispute, per=Payment, within="1m"),
        features={"amount": Payment.amount, "count": past.count(Payment, "1h", by=Payment.card)},
        model=LogisticRegression(),
    )
    return cards


def test_what_a_step_gave_stays_what_it_was_while_others_follow():
    plan = compile(app())
    state = State(plan)
    given = []
    for n, count in enumerate((1, 3, 40)):
        cards = [f"C{(n + 1) * i}" for i in range(count)]
        values = [
            msgspec.json.encode({"card": card, "amount": float(i), "at": BEGIN + n}) for i, card in enumerate(cards)
        ]
        changes = step(plan, state, Batch(n + 1, (BEGIN + n) * SECOND, (Slice("payment", 100 * n, values),)))
        ((predictions, _),), ((labels, _),) = changes.predictions, changes.labels
        given.append((predictions, encode_predictions(predictions), labels, encode_labels(labels), cards))
    for predictions, prediction_bytes, labels, label_bytes, cards in given:
        assert (encode_predictions(predictions), encode_labels(labels)) == (prediction_bytes, label_bytes)
        assert predictions.values[:, 0].tolist() == [*map(float, range(len(cards)))]
        assert predictions.key == labels.key == [(card,) for card in cards]
        assert np.all(labels.version == 0)
