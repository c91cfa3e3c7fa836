"""A school in which models learn: its declaration, and the rows of its log."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression

from katmatic import App, Event, Key, Retrain, Time, future, past
from katmatic.log.codec import encode, encode_labels, encode_predictions
from katmatic.log.memory import MemoryLog
from katmatic.records import (
    DECISIONS,
    LABELS,
    MODELS,
    NOTHING,
    PREDICTIONS,
    Decision,
    LabelBlock,
    LabelState,
    ModelVersion,
    PredictionBlock,
)

SECOND = 1_000_000
MINUTE = 60_000_000
HOUR, DAY = 60 * MINUTE, 1440 * MINUTE
RIPE = 15 * MINUTE + 10 * MINUTE  # the label's window, and the lateness of its evidence


class Expected(Event):
    student: Key
    mood: str
    bell: Time


class CheckIn(Event):
    student: Key
    at: Time


def school(model=None, *, features=None, provisional=None, retrain=None, **more) -> App:
    """Who will be absent? One predictor, "absence"."""
    app = App("school")
    app.source(CheckIn, lateness="10m")
    absent = future.none(CheckIn, per=Expected, within=("-2h", "15m"), provisional=provisional)
    found = features or {
        "rate": past.count(CheckIn, "60d", by=Expected.student),
        "seen": past.count(CheckIn, "5d", by=Expected.student),
    }
    app.predict(
        "absence",
        absent,
        features=found,
        model=model if model is not None else LogisticRegression(),
        retrain=retrain or Retrain(rows=40),
        **more,
    )
    return app


def asked(anchors, time, *, values=None, columns=("rate", "seen"), texts=None, score=None, version=0, at=None):
    """Predictions of "absence"; `time` is one moment, or one for each anchor."""
    n = len(anchors)
    moments = np.broadcast_to(np.asarray(time, np.int64), n).copy()
    about = moments if at is None else np.broadcast_to(np.asarray(at, np.int64), n).copy()
    return PredictionBlock(
        predictor="absence",
        columns=tuple(columns),
        anchor=np.array(anchors, np.int64),
        key=[(f"pupil {anchor % 7}",) for anchor in anchors],
        time=moments,
        at=about,
        now=about,
        lead=np.full(n, NOTHING),
        values=np.zeros((n, len(columns))) if values is None else np.asarray(values, np.float64),
        texts=texts or {},
        failed=np.zeros(n, np.bool_),
        version=version,
        score=None if score is None else np.asarray(score, np.float64),
    )


def known(anchors, time, value, *, state="final", version=1, now=None, label="absence"):
    """Versions of the label: one for each anchor. `value` None: none."""
    n = len(anchors)
    moments = np.broadcast_to(np.asarray(time, np.int64), n).copy()
    values = value if isinstance(value, list | tuple) else [value] * n
    states = state if isinstance(state, list | tuple) else [state] * n
    return LabelBlock(
        label=label,
        anchor=np.array(anchors, np.int64),
        key=[(f"pupil {anchor % 7}",) for anchor in anchors],
        time=moments,
        version=np.broadcast_to(np.asarray(version, np.int64), n).copy(),
        state=np.array([LabelState[each.upper()] for each in states], np.uint8),
        value=np.array([np.nan if each is None else each for each in values], np.float64),
        now=(moments + RIPE) if now is None else np.broadcast_to(np.asarray(now, np.int64), n).copy(),
        evidence=np.full(n, NOTHING),
    )


def decided(anchor, *, censored=False, propensity=1.0, action="warn", now=0, predictor="absence"):
    """What was done about a prediction."""
    return Decision(
        predictor=predictor,
        anchor=anchor,
        key=("pupil",),
        action=action,
        score=0.9,
        now=now,
        censored=censored,
        propensity=propensity,
    )


def write(log: MemoryLog, *, predictions=(), labels=(), decisions=(), models: list[ModelVersion] | tuple = ()) -> None:
    """Commit records to a log, as the pipeline does."""
    if models:
        log.append(MODELS, [encode(each) for each in models])
    written = {
        PREDICTIONS: [encode_predictions(block) for block in predictions],
        LABELS: [encode_labels(block) for block in labels],
    }
    log.commit(log.read(0, limit=1000), written, {DECISIONS: [encode(each) for each in decisions]} if decisions else {})
    log.commit(log.read(0, limit=1000), {})


def a_term(days=60, pupils=7, seed=1, *, start=1_700_000_000_000_000, learnable=True):
    """Predictions and final labels of a term: absent are mostly those whose `rate` is high, if it is `learnable`."""
    chance = np.random.default_rng(seed)
    predictions, labels = [], []
    for day in range(days):
        anchors = [day * pupils + i for i in range(pupils)]
        values = chance.normal(size=(pupils, 2))
        odds = 1 / (1 + np.exp(-3 * values[:, 0])) if learnable else np.full(pupils, 0.5)
        absent = (chance.random(pupils) < odds).astype(float).tolist()
        bell = start + day * DAY
        predictions.append(asked(anchors, bell, values=values))
        labels.append(known(anchors, bell, absent))
    return predictions, labels


def after(days, start=1_700_000_000_000_000):
    """The moment when so many days of a term have passed."""
    return start + days * DAY
