"""Small blocks of records for the stories of monitoring."""

from __future__ import annotations

from datetime import datetime

import numpy as np

from katmatic import App, Event, Key, Time, future, past
from katmatic.moment import to_micros
from katmatic.records import NOTHING, Example, LabelBlock, LabelState, PredictionBlock

MINUTE = 60_000_000


class Expected(Event):
    student: Key
    room: Key
    bell: Time


class CheckIn(Event):
    student: Key
    at: Time


class Model:
    def fit(self, rows, labels):
        return self

    def predict_proba(self, rows):
        return rows


def school(zone: str = "Asia/Kathmandu") -> App:
    app = App("school", timezone=zone)
    app.source(CheckIn, lateness="10m")
    absent = future.none(CheckIn, per=Expected, within=("-2h", "15m"))
    app.predict("absence", absent, features={"rate": past.mean(absent, "60d", by=Expected.student)}, model=Model())
    return app


def bell(day: int = 21, app: App | None = None) -> int:
    """08:15 on a day of April 2025, in the app's zone."""
    zone = (app or school()).timezone
    return to_micros(datetime(2025, 4, day, 8, 15, tzinfo=zone))


def predictions(anchors, keys, scores, *, time, at=None, version=1, columns=("rate",), values=None, texts=None):
    n = len(anchors)
    moment = np.full(n, time if at is None else at)
    return PredictionBlock(
        predictor="absence",
        columns=tuple(columns),
        anchor=np.array(anchors, np.int64),
        key=list(keys),
        time=np.full(n, time),
        at=moment,
        now=moment,
        lead=np.full(n, NOTHING),
        values=np.zeros((n, len(columns))) if values is None else values,
        texts=texts or {},
        failed=np.zeros(n, np.bool_),
        version=version,
        score=None if scores is None else np.array(scores, np.float64),
    )


def labels(anchors, keys, state, values, *, time, evidence=None, now=None):
    n = len(anchors)
    return LabelBlock(
        label="absence",
        anchor=np.array(anchors, np.int64),
        key=list(keys),
        time=np.full(n, time),
        version=np.zeros(n, np.int64),
        state=np.full(n, LabelState[state.upper()], np.uint8),
        value=np.array([np.nan if value is None else value for value in values], np.float64),
        now=np.full(n, time if now is None else now),
        evidence=np.array([NOTHING if evidence is None else evidence] * n, np.int64),
    )


def examples(anchors, keys, labels, scores, *, time, label_now, at=None, weight=None):
    n = len(anchors)
    about = time if at is None else at
    columns = [np.nan] * n if scores is None else scores, [1.0] * n if weight is None else weight
    return [
        Example(anchor, key, time, about, float(label), label_now, float(score), float(weighs))
        for anchor, key, label, score, weighs in zip(anchors, keys, labels, *columns, strict=True)
    ]
