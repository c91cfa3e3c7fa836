"""One training: read what is known, fit, judge on the newest rows, export, promote or refuse. The log is only read."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from katmatic import duration
from katmatic.errors import KatmaticError, ModelError
from katmatic.labels.ripe import ripens_after
from katmatic.log.base import History
from katmatic.log.codec import decode
from katmatic.predictions.artifact import Exported, answers, load
from katmatic.records import MODELS, ModelVersion
from katmatic.registry.base import Registry
from katmatic.spec.app import App, Predictor
from katmatic.training import report
from katmatic.training.dataset import Dataset, judged, read
from katmatic.training.evaluate import base_rate, default_metric, metrics, own_past_rate
from katmatic.training.export import export
from katmatic.training.model import fit
from katmatic.training.promote import verdict

JUDGED_SHARE = 0.2  # of the anchors, the newest
EARLIER_LIMIT = 4  # versions that are looked at, with the one that answers
JUDGED_LEAST = 30  # rows; with fewer, what the champion was trained on is judged, too


def train(
    app: App, name: str, log: History, registry: Registry, artifacts: Path, *, now: int, may_go_back: bool = False
) -> ModelVersion:
    """Train predictor `name` as of `now`: the record of what came of it ("promoted", "refused" or "failed").

    The model that is promoted is fitted again on all rows; its figures are those of one that was fitted on what was
    known before the newest rows were asked. If it `may_go_back`, a refused one may be told by an earlier version that
    does better than the champion ("rolled-back"). Nothing is raised for a model that cannot be trained: the record
    says why.
    """
    try:
        return _train(app, app.predictors[name], log, registry, artifacts, now, may_go_back=may_go_back)
    except KatmaticError as error:
        reason = str(error)
    except Exception as error:  # model, disk and registry are not ours: whatever they raise is told
        reason = f"{type(error).__name__}: {error}"
    return _failed(name, reason, now, rows=0)


def _train(
    app: App, predictor: Predictor, log: History, registry: Registry, artifacts: Path, now: int, *, may_go_back: bool
) -> ModelVersion:
    name, is_binary = predictor.name, predictor.label.is_binary
    rows = _rows(app, predictor, log, now, since=now)
    if rows is None or len(rows) < predictor.retrain.rows:
        found = 0 if rows is None else len(rows)
        return _failed(name, f"{found} labelled rows of {predictor.retrain.rows}", now, rows=found)
    answered_before = _answered_before(log, predictor)
    champion = answered_before[0] if answered_before else None
    known, asked = _split(app, predictor, log, rows, champion, now)
    if known is None or not len(known):
        reason = "there are no rows from before those that it would be judged on"
        not_before = _not_before(app, predictor, rows)
        return _failed(name, reason, now, rows=len(rows), not_before=not_before)
    answered = {
        "model": _told(fit(predictor, known), replace(asked, tables=known.tables), is_binary),
        "base rate": base_rate(known, asked),
        "own past rate": own_past_rate(known, asked),
    }
    figures = {rival: _figures(predictor, known, asked, answer) for rival, answer in answered.items()}
    challenger = figures["model"]
    baselines = {rival: found for rival, found in figures.items() if rival != "model"}
    metric = predictor.promote.metric or default_metric(predictor.label)
    told = None if champion is None else _judge(predictor, known, asked, champion)
    is_better, reason = verdict(predictor.promote, metric, challenger, told, baselines)
    folder = _free(artifacts.resolve() / name / str(now))
    digest = rows.digest()
    kind = export(
        fit(predictor, rows), rows, folder, is_binary=is_binary, about={"trained_at": now, "rows_sha256": digest}
    )
    load(folder)
    baseline = {rival: found[metric] for rival, found in baselines.items() if metric in found}
    tags = {"kind": kind, "reason": reason, "now": str(now), "rows": str(len(rows)), "rows_sha256": digest}
    told_of = report.run(app, predictor, rows, known, asked, answered, metrics=challenger, tags=tags)
    version = registry.save(name, folder, told_of)
    if is_better:
        registry.promote(name, version)
    elif may_go_back and told is not None:
        for earlier in answered_before[1:]:
            does_better, why = verdict(predictor.promote, metric, _judge(predictor, known, asked, earlier), told, {})
            if does_better:
                registry.promote(name, earlier.record.version)
                reason = f"{why}; the new version {version} was refused: {reason}"
                return msgspec.structs.replace(earlier.record, action="rolled-back", reason=reason, now=now)
    return ModelVersion(
        predictor=name,
        version=version,
        action="promoted" if is_better else "refused",
        reason=reason,
        now=now,
        artifact=str(folder),
        metrics=challenger,
        baselines=baseline,
        rows=len(rows),
    )


def _not_before(app: App, predictor: Predictor, rows: Dataset) -> int:
    """When the oldest rows will have been known before the newest were asked: that takes their label's time twice."""
    ripe = ripens_after(app, predictor.label)
    return int(rows.at.min()) + ripe + round(ripe / (1 - JUDGED_SHARE))


def _failed(name: str, reason: str, now: int, *, rows: int, not_before: int = 0) -> ModelVersion:
    return ModelVersion(
        predictor=name, version=0, action="failed", reason=reason, now=now, rows=rows, not_before=not_before
    )


def _rows(app: App, predictor: Predictor, log: History, now: int, *, since: int) -> Dataset | None:
    """What is known at `now`, as far as the history goes back from `since`."""
    rows = read(log, app, predictor, now)
    if rows is None:
        return None
    if predictor.retrain.history is not None:
        rows = rows.take(rows.at >= since - duration.micros(duration.parse(predictor.retrain.history)))
    return rows.with_tables()


@dataclass(frozen=True)
class _Champion:
    model: Exported
    trained_at: int
    record: ModelVersion


def _judge(predictor: Predictor, known: Dataset, asked: Dataset, version: _Champion) -> dict[str, float]:
    return _figures(predictor, known, asked, version.model.predict(asked.values, asked.texts))


def _split(
    app: App, predictor: Predictor, log: History, rows: Dataset, champion: _Champion | None, now: int
) -> tuple[Dataset | None, Dataset]:
    """What was known before the newest were asked, and the newest; as far as they reach, none that the champion saw."""
    asked = judged(rows, JUDGED_SHARE, champion.trained_at if champion else 0)
    if len(asked) >= JUDGED_LEAST or champion is None:
        known = _rows(app, predictor, log, int(asked.at[0]) - 1, since=now)
        if known is not None and len(known):
            return known, asked
    asked = judged(rows, JUDGED_SHARE, 0)
    return _rows(app, predictor, log, int(asked.at[0]) - 1, since=now), asked


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


def _answered_before(log: History, predictor: Predictor) -> list[_Champion]:
    """Who answers, and who did before, newest first: those that take the features of now, and can be loaded.

    Empty if that is not so of the one that answers.
    """
    records: dict[int, ModelVersion] = {}
    for value in (*(value for _, value in log.scan(MODELS)), *log.pending(MODELS)):
        record = decode(MODELS, value)
        if record.predictor == predictor.name and record.action in ("promoted", "rolled-back"):
            records.pop(record.version, None)
            records[record.version] = record
    found: list[_Champion] = []
    for record in itertools.islice(reversed(records.values()), EARLIER_LIMIT):
        try:
            model = load(Path(record.artifact))
        except ModelError:
            model = None
        if model is not None and model.columns == tuple(predictor.features):
            found.append(_Champion(model, model.trained_at, record))
        elif not found:
            return []
    return found


def _free(folder: Path) -> Path:
    """`folder`, or the first of `folder-2`, `folder-3`, ... that is not there: a version is never written over."""
    numbered = (folder.with_name(f"{folder.name}-{n}") for n in itertools.count(2))
    return folder if not folder.exists() else next(other for other in numbered if not other.exists())
