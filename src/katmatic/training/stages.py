"""A training in stages: validate, prepare, fit, evaluate, gate. Each can be done again, and by another process.

`katmatic train` does them one after the other; with `katmatic step` a scheduler does each by itself. What one hands to
the next is a value, which `handover` keeps in files.
"""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from katmatic import duration
from katmatic.errors import ModelError, PlaceError
from katmatic.labels.ripe import ripens_after
from katmatic.log.base import History
from katmatic.log.codec import decode, decode_predictions
from katmatic.places import Place
from katmatic.predictions.artifact import Exported, answers, load
from katmatic.records import DEAD, MODELS, PREDICTIONS, ModelVersion
from katmatic.registry.base import Registry
from katmatic.spec.app import App, Predictor
from katmatic.training import report
from katmatic.training.dataset import Dataset, judged, read
from katmatic.training.evaluate import base_rate, default_metric, metrics, own_past_rate
from katmatic.training.export import export
from katmatic.training.model import fit as fitted_to
from katmatic.training.promote import verdict

JUDGED_SHARE = 0.2  # of the anchors, the newest
JUDGED_LEAST = 30  # rows; with fewer, what the champion was trained on is judged, too
EARLIER_LIMIT = 4  # versions that are looked at, with the one that answers
VERDICT, REFUSED = "verdict", "refused"  # a tag of a version, and what it says of one that did no better
DEAD_SHARE = 0.05  # of the events; above it something is wrong with them, and nothing is learnt

Floats = NDArray[np.float64]


class TooLittle(ModelError):
    """Not enough is known yet to train; `not_before`: no earlier can there be more to it."""

    def __init__(self, predictor: str, reason: str, rows: int, not_before: int = 0) -> None:
        super().__init__(predictor, found=reason, expected="more labelled rows", do="wait until labels have ripened")
        self.reason, self.rows, self.not_before = reason, rows, not_before


class Findings(msgspec.Struct, frozen=True):
    """What came between two moments."""

    since: int
    now: int
    events: int  # about: from the first anchor in that time to the last one
    predictions: int
    failed: int  # predictions of which a function of the user's raised
    dead: int


@dataclass(frozen=True)
class Prepared:
    """The training set as known at `now`, and how it is to be judged."""

    now: int
    rows: Dataset
    known: Dataset  # what was known before the newest were asked
    asked: Dataset  # the newest, as far as they reach none that the champion saw


@dataclass(frozen=True)
class Fitted:
    """A model that was fitted to all rows and exported to a folder, or to a part of a bucket."""

    folder: str
    kind: str
    answer: Floats  # to the rows `asked`, of the same model fitted to what was `known`


class Evaluated(msgspec.Struct, frozen=True, kw_only=True):
    """A version with its figures on the newest rows, held against the champion and the baselines."""

    predictor: str
    version: int
    now: int
    artifact: str
    rows: int
    metrics: dict[str, float]
    baselines: dict[str, float]  # by the metric that decides
    champion: int  # the version that it was held against; 0: none
    is_better: bool
    reason: str


@dataclass(frozen=True)
class Answering:
    """A version that answers, or did before."""

    model: Exported
    record: ModelVersion


def validate(
    app: App, predictor: Predictor, log: History, since: int, now: int, *, dead_share: float = DEAD_SHARE
) -> Findings:
    """Look at what came since a moment. Raises TooLittle if nothing did, ModelError if too much could not be read."""
    anchors: list[int] = []
    predictions = failed = 0
    for block in (decode_predictions(value) for _, value in log.scan(PREDICTIONS)):
        mine = (block.now > since) & (block.now <= now)
        if mine.any():
            anchors += [int(block.anchor[mine].min()), int(block.anchor[mine].max())]
            if block.predictor == predictor.name:
                predictions += int(mine.sum())
                failed += int(block.failed[mine].sum())
    dead = sum(1 for letter in (decode(DEAD, value) for _, value in log.scan(DEAD)) if since < letter.now <= now)
    found = Findings(since, now, max(anchors) - min(anchors) + 1 if anchors else 0, predictions, failed, dead)
    if dead > dead_share * (found.events + dead):
        raise ModelError(
            f"{app.name}, the events",
            found=f"{dead} that cannot be read beside {found.events} that can",
            expected=f"at most {dead_share:.0%}",
            do="see GET /v1/dead for what is wrong with them, and mend their sender",
        )
    if not predictions:
        raise TooLittle(predictor.name, "no prediction in that time", 0)
    return found


def prepare(app: App, predictor: Predictor, log: History, now: int) -> Prepared:
    """The training set as known at `now`. Raises TooLittle."""
    rows = _rows(app, predictor, log, now, since=now)
    if rows is None or len(rows) < predictor.retrain.rows:
        found = 0 if rows is None else len(rows)
        raise TooLittle(predictor.name, f"{found} labelled rows of {predictor.retrain.rows}", found)
    champion = next(iter(answered_before(log, predictor)), None)
    known, asked = _split(app, predictor, log, rows, champion, now)
    if known is None or not len(known):
        reason = "there are no rows from before those that it would be judged on"
        raise TooLittle(predictor.name, reason, len(rows), _not_before(app, predictor, rows))
    return Prepared(now, rows, known, asked)


def fit(predictor: Predictor, prepared: Prepared, artifacts: str | Path) -> Fitted:
    """Fit the model to what was known, to be judged, and to all rows, to answer; export that below `artifacts`.

    `artifacts` is a folder or the address of a part of a bucket.
    """
    rows, known, is_binary = prepared.rows, prepared.known, predictor.label.is_binary
    answer = _told(fitted_to(predictor, known), replace(prepared.asked, tables=known.tables), is_binary)
    about = {"trained_at": prepared.now, "rows_sha256": rows.digest()}
    with tempfile.TemporaryDirectory(prefix="katmatic-") as made:
        kind = export(fitted_to(predictor, rows), rows, Path(made), is_binary=is_binary, about=about)
        folder = _put(Path(made), Place(artifacts) / predictor.name, str(prepared.now))
    load(folder)
    return Fitted(folder, kind, np.asarray(answer, np.float64))


def evaluate(
    app: App, predictor: Predictor, log: History, registry: Registry, prepared: Prepared, fitted: Fitted
) -> Evaluated:
    """Hold the model against the champion and the baselines, and register it, as a challenger, with its run."""
    rows, known, asked = prepared.rows, prepared.known, prepared.asked
    told = {
        "model": fitted.answer,
        "base rate": base_rate(known, asked),
        "own past rate": own_past_rate(known, asked),
    }
    figures = {rival: _figures(predictor, known, asked, answer) for rival, answer in told.items()}
    challenger = figures.pop("model")
    metric = metric_of(predictor)
    champion = next(iter(answered_before(log, predictor)), None)
    theirs = None if champion is None else judge(predictor, prepared, champion)
    is_better, reason = verdict(predictor.promote, metric, challenger, theirs, figures)
    tags = {"kind": fitted.kind, "reason": reason, "now": str(prepared.now), "rows": str(len(rows))}
    tags |= {"rows_sha256": rows.digest(), VERDICT: "passed" if is_better else REFUSED}
    version = registry.save(
        predictor.name,
        fitted.folder,
        report.run(app, predictor, rows, known, asked, told, metrics=challenger, tags=tags),
    )
    return Evaluated(
        predictor=predictor.name,
        version=version,
        now=prepared.now,
        artifact=fitted.folder,
        rows=len(rows),
        metrics=challenger,
        baselines={rival: found[metric] for rival, found in figures.items() if metric in found},
        champion=0 if champion is None else champion.record.version,
        is_better=is_better,
        reason=reason,
    )


def gate(predictor: Predictor, log: History, evaluated: Evaluated) -> ModelVersion:
    """The record by which the version is "promoted" or "refused": also if another has come since it was evaluated."""
    champion = next(iter(answered_before(log, predictor)), None)
    is_better, reason = evaluated.is_better, evaluated.reason
    if champion is not None and champion.record.version != evaluated.champion:
        is_better, reason = False, f"version {champion.record.version} has come since it was evaluated"
    if champion is not None and champion.record.now > evaluated.now:
        is_better, reason = False, f"version {champion.record.version} answers, which knows of more"
    return ModelVersion(
        predictor=evaluated.predictor,
        version=evaluated.version,
        action="promoted" if is_better else "refused",
        reason=reason,
        now=evaluated.now,
        artifact=evaluated.artifact,
        metrics=evaluated.metrics,
        baselines=evaluated.baselines,
        rows=evaluated.rows,
    )


def metric_of(predictor: Predictor) -> str:
    """The metric that decides."""
    return predictor.promote.metric or default_metric(predictor.label)


def judge(predictor: Predictor, prepared: Prepared, version: Answering) -> dict[str, float]:
    """The figures of a version on the newest rows."""
    asked = prepared.asked
    return _figures(predictor, prepared.known, asked, version.model.predict(asked.values, asked.texts))


def answered_before(log: History, predictor: Predictor) -> list[Answering]:
    """Who answers, and who did before, newest first: those that take the features of now, and can be loaded.

    Empty if that is not so of the one that answers: it is no rival. Raises ModelError if where it lies cannot be
    reached: it may be there all the same.
    """
    records: dict[int, ModelVersion] = {}
    for value in (*(value for _, value in log.scan(MODELS)), *log.pending(MODELS)):
        record = decode(MODELS, value)
        if record.predictor == predictor.name and record.action in ("promoted", "rolled-back"):
            records.pop(record.version, None)
            records[record.version] = record
    found: list[Answering] = []
    for record in itertools.islice(reversed(records.values()), EARLIER_LIMIT):
        try:
            model = load(record.artifact)
        except ModelError as error:
            if not found and isinstance(error.__cause__, PlaceError):
                raise
            model = None
        if model is not None and model.columns == tuple(predictor.features):
            found.append(Answering(model, record))
        elif not found:
            return []
    return found


# -------------------------------------------------------------------------------------------------------------- pieces


def _rows(app: App, predictor: Predictor, log: History, now: int, *, since: int) -> Dataset | None:
    """What is known at `now`, as far as the history goes back from `since`."""
    rows = read(log, app, predictor, now)
    if rows is None:
        return None
    if predictor.retrain.history is not None:
        rows = rows.take(rows.at >= since - duration.micros(duration.parse(predictor.retrain.history)))
    return rows.with_tables()


def _split(
    app: App, predictor: Predictor, log: History, rows: Dataset, champion: Answering | None, now: int
) -> tuple[Dataset | None, Dataset]:
    """What was known before the newest were asked, and the newest; as far as they reach, none that the champion saw."""
    asked = judged(rows, JUDGED_SHARE, champion.model.trained_at if champion else 0)
    if len(asked) >= JUDGED_LEAST or champion is None:
        known = _rows(app, predictor, log, int(asked.at[0]) - 1, since=now)
        if known is not None and len(known):
            return known, asked
    asked = judged(rows, JUDGED_SHARE, 0)
    return _rows(app, predictor, log, int(asked.at[0]) - 1, since=now), asked


def _not_before(app: App, predictor: Predictor, rows: Dataset) -> int:
    """When the oldest rows will have been known before the newest were asked: that takes their label's time twice."""
    ripe = ripens_after(app, predictor.label)
    return int(rows.at.min()) + ripe + round(ripe / (1 - JUDGED_SHARE))


def _told(model: Any, rows: Dataset, is_binary: bool) -> Any:
    try:
        return answers(model, rows.matrix(), is_binary=is_binary)
    except Exception as error:  # the model is the user's
        raise ModelError(
            f"{type(model).__name__}.predict",
            found=f"{type(error).__name__}: {error}",
            expected="one answer for each row",
            do="correct it",
        ) from error


def _figures(predictor: Predictor, known: Dataset, asked: Dataset, answer: Any) -> dict[str, float]:
    """How good answers are; no answer counts as the base rate."""
    told = np.asarray(answer, np.float64)
    told = np.where(np.isfinite(told), told, base_rate(known, asked))
    return metrics(asked.label, told, asked.weight, is_binary=predictor.label.is_binary)


def _put(made: Path, place: Place, name: str) -> str:
    """Put the files of a folder under a name, or the first of name-2, name-3, ... that is free; where that is.

    A version is never written over.
    """
    taken = {each.partition("/")[0] for each in place.names()}
    names = itertools.chain([name], (f"{name}-{n}" for n in itertools.count(2)))
    target = place / next(each for each in names if each not in taken)
    for file in sorted(
        made.iterdir(), key=lambda file: file.name == "manifest.json"
    ):  # by which the others count, last
        target.write(file.name, file.read_bytes())
    return target.address
