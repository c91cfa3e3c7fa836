"""The published experiment on simulated card fraud, declared with past and future: AUC, AP and card precision@100.

Source: Le Borgne, Siblini, Lebichot, Bontempi, "Reproducible Machine Learning for Credit Card Fraud Detection -
Practical Handbook", chapter 3, section 4.4: trained on 2018-07-25..31, labels seven days late, tested on
2018-08-08..14 without the cards that are known to be defrauded.
"""

from __future__ import annotations

import csv
import gzip
import heapq
import json
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bench.data import data
from bench.report import report
from katmatic import App, Event, Id, Key, Time, future, past
from katmatic.clock import process_seconds, to_micros
from katmatic.engine.plan import compile
from katmatic.engine.step import State, step
from katmatic.log.base import Batch, Slice

app = App("handbook")


class Payment(Event):
    """A card is used at a terminal."""

    payment: Id
    card: Key
    terminal: Key
    amount: float
    at: Time


class Report(Event):
    """A payment turned out to be a fraud."""

    payment: Key
    at: Time


app.source(Payment, horizon="7d")
fraud = future.any(Report, per=Payment, within="7d")

score = app.predict(
    "score",
    fraud,
    features={
        "amount": Payment.amount,
        "weekend": lambda event: event.at.weekday() >= 5,
        "night": lambda event: event.at.hour <= 6,
        # Of the card, this payment included.
        **{f"card_{w}_sum": past.sum(Payment.amount, w, by=Payment.card) for w in ("1d", "7d", "30d")},
        **{f"card_{w}_before": past.count(Payment, w, by=Payment.card) for w in ("1d", "7d", "30d")},
        "card_1d": lambda card_1d_before: card_1d_before + 1,
        "card_7d": lambda card_7d_before: card_7d_before + 1,
        "card_30d": lambda card_30d_before: card_30d_before + 1,
        "card_1d_mean": lambda amount, card_1d_sum, card_1d: (card_1d_sum + amount) / card_1d,
        "card_7d_mean": lambda amount, card_7d_sum, card_7d: (card_7d_sum + amount) / card_7d,
        "card_30d_mean": lambda amount, card_30d_sum, card_30d: (card_30d_sum + amount) / card_30d,
        # Of the terminal: labels are known after seven days, so that a window of 8 days holds those of one day.
        "terminal_1d": past.count(fraud, "8d", by=Payment.terminal),
        "terminal_7d": past.count(fraud, "14d", by=Payment.terminal),
        "terminal_30d": past.count(fraud, "37d", by=Payment.terminal),
        "terminal_1d_risk": past.mean(fraud, "8d", by=Payment.terminal),
        "terminal_7d_risk": past.mean(fraud, "14d", by=Payment.terminal),
        "terminal_30d_risk": past.mean(fraud, "37d", by=Payment.terminal),
    },
    # Of no payment in a window the share of frauds is 0, as published.
    model=make_pipeline(
        SimpleImputer(strategy="constant", fill_value=0), StandardScaler(), LogisticRegression(random_state=0)
    ),
)
INPUTS = [
    "amount",
    "weekend",
    "night",
    *(f"card_{w}{part}" for w in ("1d", "7d", "30d") for part in ("", "_mean")),
    *(f"terminal_{w}{part}" for w in ("1d", "7d", "30d") for part in ("", "_risk")),
]
TRAIN = datetime(2018, 7, 25, tzinfo=UTC)
TEST = TRAIN + timedelta(days=14)
DAYS = 7
PUBLISHED = {"lr": {"auc": 0.871, "ap": 0.606, "cp100": 0.291}, "rf": {"auc": 0.867, "ap": 0.658, "cp100": 0.287}}


def events() -> Iterator[tuple[int, str, bytes]]:
    """Payments, and reports of frauds just before the seventh day is over, in the order of their moments."""
    reports: list[tuple[int, str]] = []
    path = data("fraud_handbook_simulated") / "transactions_2018-06-01_2018-08-14.csv.gz"
    with gzip.open(path, "rt") as file:
        for row in csv.DictReader(file):
            moment = to_micros(datetime.fromisoformat(row["TX_DATETIME"]).replace(tzinfo=UTC))
            while reports and reports[0][0] <= moment:
                due, payment = heapq.heappop(reports)
                yield due, "report", json.dumps({"payment": payment, "at": due / 1e6}).encode()
            payment = row["TRANSACTION_ID"]
            value = {
                "payment": payment,
                "card": row["CUSTOMER_ID"],
                "terminal": row["TERMINAL_ID"],
                "amount": float(row["TX_AMOUNT"]),
                "at": row["TX_DATETIME"],
            }
            yield moment, "payment", json.dumps(value).encode()
            if row["TX_FRAUD"] == "1":
                heapq.heappush(reports, (moment + 7 * 86_400_000_000 - 1_000, payment))
    end = moment + 7 * 86_400_000_000
    yield from (
        (due, "report", json.dumps({"payment": payment, "at": due / 1e6}).encode())
        for due, payment in sorted(reports)
        if due < end
    )
    yield end, "report", b""


def served() -> tuple[dict[str, Any], int]:
    """Every payment's features as they were served, and its label."""
    plan = compile(app)
    state = State(plan)
    found: dict[str, list[Any]] = defaultdict(list)
    label: dict[int, float] = {}
    position, sequence, source = 0, 0, events()
    while chunk := list(islice(source, 20_000)):
        batches = []
        for moment, topic, value in chunk:
            sequence += 1
            batches.append(Batch(sequence, moment, (Slice(topic, position, (value,)),)))
            position += 1
        changes = step(plan, state, *batches)
        assert not changes.dead, changes.dead[0]
        for block, _ in changes.predictions:
            found["anchor"].append(block.anchor)
            found["time"].append(block.time)
            found["card"] += [key[1] for key in block.key]
            found["x"].append(block.values[:, [block.columns.index(name) for name in INPUTS]])
        for versions, _ in changes.labels:
            known = ~np.isnan(versions.value)
            label.update(zip(versions.anchor[known].tolist(), versions.value[known].tolist(), strict=True))
    anchor = np.concatenate(found["anchor"])
    return {
        "time": np.concatenate(found["time"]),
        "card": np.array(found["card"]),
        "x": np.concatenate(found["x"]),
        "y": np.array([label[a] for a in anchor.tolist()]),
    }, position


def card_precision(day: Any, card: Any, y: Any, p: Any, k: int = 100) -> float:
    """Share of defrauded cards among the `k` most suspicious of each day; a caught one is not looked at again."""
    caught: set[str] = set()
    shares = []
    for d in range(DAYS):
        best: dict[str, tuple[float, float]] = {}
        for i in np.flatnonzero(day == d).tolist():
            if card[i] not in caught:
                most, bad = best.get(card[i], (-1.0, 0.0))
                best[card[i]] = (max(most, p[i]), max(bad, y[i]))
        top = sorted(best, key=lambda name: -best[name][0])[:k]
        hit = [name for name in top if best[name][1] > 0]
        shares.append(len(hit) / k)
        caught.update(hit)
    return float(np.mean(shares))


def experiment() -> dict[str, Any]:
    """The figures, beside those that were published."""
    began = process_seconds()
    rows, number = served()
    seconds = process_seconds() - began
    time, card, x, y = rows["time"], rows["card"], rows["x"], rows["y"]
    day = (time - to_micros(TRAIN)) // 86_400_000_000
    train = (day >= 0) & (day < DAYS)
    test = np.zeros(len(time), bool)
    for d in range(DAYS):
        known = set(card[(day >= 0) & (day <= DAYS + d - 1) & (y > 0)].tolist())
        today = np.flatnonzero(day == 2 * DAYS + d)
        test[[i for i in today.tolist() if card[i] not in known]] = True
    fill, scale = SimpleImputer(strategy="constant", fill_value=0), StandardScaler()
    models = {"lr": score.model, "rf": make_pipeline(fill, scale, RandomForestClassifier(random_state=0))}
    result: dict[str, Any] = {
        "train_rows": int(train.sum()),
        "train_frauds": int(y[train].sum()),
        "test_rows": int(test.sum()),
        "test_frauds": int(y[test].sum()),
        "events_per_cpu_s": round(number / seconds),
    }
    for name, model in models.items():
        p = model.fit(x[train], y[train]).predict_proba(x[test])[:, 1]
        result[name] = {
            "auc": round(roc_auc_score(y[test], p), 4),
            "ap": round(average_precision_score(y[test], p), 4),
            "cp100": round(card_precision(day[test] - 2 * DAYS, card[test], y[test], p), 4),
        }
    result["published"] = PUBLISHED
    return result


if __name__ == "__main__":
    report(experiment)
