"""How good answers are: metrics over rows in the order of time, and two baselines that a model has to beat."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from katmatic.spec.future import Label
from katmatic.training.dataset import Dataset

PRIOR = 4.0  # rows that the base rate counts for in a key's own past rate
TINY = float(np.finfo(np.float64).eps)  # how near to 0 or 1 an answer counts in the log loss

Floats = NDArray[np.float64]

LOWER_IS_BETTER = {"log_loss", "brier", "rmse", "mae"}


def default_metric(label: Label) -> str:
    """What a predictor is judged by unless its policy says otherwise."""
    return "log_loss" if label.is_binary else "accuracy" if label.op == "last" else "rmse"


def metrics(label: Floats, answer: Floats, weight: Floats, *, is_binary: bool) -> dict[str, float]:
    """All figures that these rows can give."""
    if not is_binary:
        error = answer - label
        return {
            "rmse": float(np.sqrt(np.average(error**2, weights=weight))),
            "mae": float(np.average(np.abs(error), weights=weight)),
            "accuracy": float(np.average(np.round(answer) == label, weights=weight)),
        }
    p = np.clip(answer, TINY, 1 - TINY)
    losses = -(label * np.log(p) + (1 - label) * np.log1p(-p))
    found = {
        "log_loss": float(np.average(losses, weights=weight)),
        "brier": float(np.average((answer - label) ** 2, weights=weight)),
        "accuracy": float(np.average((answer >= 0.5) == (label >= 0.5), weights=weight)),
    }
    if 0 < label.sum() < len(label):
        found["roc_auc"] = roc_auc(label, answer, weight)
        found["average_precision"] = average_precision(label, answer, weight)
    return found


def roc_auc(label: Floats, answer: Floats, weight: Floats) -> float:
    """The chance that a true row is ranked above a false one, ties counting half (area under the ROC curve)."""
    order = np.argsort(answer, kind="stable")
    answer, label, weight = answer[order], label[order], weight[order]
    last = np.append(answer[1:] != answer[:-1], True)
    true = np.diff(np.cumsum(weight * label)[last], prepend=0.0)
    false = np.diff(np.cumsum(weight * (1 - label))[last], prepend=0.0)
    below = np.cumsum(false) - false
    return float((true * (below + false / 2)).sum() / (true.sum() * false.sum()))


def average_precision(label: Floats, answer: Floats, weight: Floats) -> float:
    """The mean precision over the recalls, from the highest answer down, equal answers together."""
    order = np.argsort(-answer, kind="stable")
    answer, label, weight = answer[order], label[order], weight[order]
    last = np.append(answer[1:] != answer[:-1], True)
    true, total = np.cumsum(weight * label)[last], np.cumsum(weight)[last]
    return float((np.diff(true, prepend=0.0) / true[-1] * (true / total)).sum())


def base_rate(known: Dataset, asked: Dataset) -> Floats:
    """The first baseline: everyone gets the mean of what was learnt from."""
    return np.full(len(asked), float(np.average(known.label, weights=known.weight)) if len(known) else np.nan)


def own_past_rate(known: Dataset, asked: Dataset) -> Floats:
    """The second: the first key's own mean so far, as known when it was asked, with `PRIOR` rows of the base rate."""
    base = float(np.average(known.label, weights=known.weight)) if len(known) else 0.0
    seen: dict[int, tuple[int, str, float]] = {}
    for rows in (known, asked):
        for anchor, key, label, now in zip(
            rows.anchor.tolist(), rows.key, rows.label.tolist(), rows.label_now.tolist(), strict=True
        ):
            seen[anchor] = (now, key[0] if key else "", label)
    facts = sorted(seen.values())
    totals: dict[str, tuple[float, float]] = {}
    found = np.empty(len(asked))
    order = np.argsort(asked.at, kind="stable")
    place = 0
    for i in order.tolist():
        while place < len(facts) and facts[place][0] <= asked.at[i]:
            _, name, label = facts[place]
            number, total = totals.get(name, (0.0, 0.0))
            totals[name] = (number + 1, total + label)
            place += 1
        number, total = totals.get(asked.key[i][0] if asked.key[i] else "", (0.0, 0.0))
        found[i] = (total + PRIOR * base) / (number + PRIOR)
    return found
