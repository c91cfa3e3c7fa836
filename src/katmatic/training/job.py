"""One training: read what is known, fit, judge on the newest rows, export, promote or refuse. The log is only read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from katmatic import duration
from katmatic.errors import KatmaticError
from katmatic.log.base import History
from katmatic.log.codec import decode
from katmatic.predictions.artifact import answers, load
from katmatic.records import MODELS, ModelVersion
from katmatic.registry.base import Registry
from katmatic.spec.app import App, Predictor
from katmatic.training.dataset import Dataset, read, split
from katmatic.training.evaluate import base_rate, default_metric, metrics, own_past_rate
from katmatic.training.export import export
from katmatic.training.model import fit
from katmatic.training.promote import verdict

JUDGED_SHARE = 0.2  # of the anchors, the newest
JUDGED_LEAST = 30  # rows; with fewer, what the champion was trained on is judged, too


def train(app: App, name: str, log: History, registry: Registry, artifacts: Path, *, now: int) -> ModelVersion:
    """Train predictor `name` as of `now`: the record of what came of it ("promoted", "refused" or "failed").

    The model that is promoted is fitted again on all rows; its figures are those of the one that had not seen the
    newest. Nothing is raised for a model that cannot be trained: the record says why.
    """
    predictor = app.predictors[name]
    champion = _champion(log, name)
    try:
        return _train(app, predictor, log, registry, artifacts, champion, now)
    except KatmaticError as error:
        return ModelVersion(predictor=name, version=0, action="failed", reason=str(error), now=now)


def _train(
    app: App,
    predictor: Predictor,
    log: History,
    registry: Registry,
    artifacts: Path,
    champion: ModelVersion | None,
    now: int,
) -> ModelVersion:
    rows = _rows(app, predictor, log, now)
    if rows is None or len(rows) < predictor.retrain.rows:
        found = 0 if rows is None else len(rows)
        reason = f"{found} labelled rows of {predictor.retrain.rows}"
        return ModelVersion(predictor=predictor.name, version=0, action="failed", reason=reason, now=now, rows=found)
    known, judged = _split(rows, champion)
    if not len(known):
        reason = "there are no rows from before those that it would be judged on"
        return ModelVersion(
            predictor=predictor.name, version=0, action="failed", reason=reason, now=now, rows=len(rows)
        )
    is_binary = predictor.label.is_binary
    challenger = _figures(judged, answers(fit(predictor, known), judged.matrix(), is_binary=is_binary), is_binary)
    baselines = {
        "base rate": _figures(judged, base_rate(known, judged), is_binary),
        "own past rate": _figures(judged, own_past_rate(known, judged), is_binary),
    }
    metric = predictor.promote.metric or default_metric(predictor.label)
    told = None
    if champion is not None:
        told = _figures(judged, load(Path(champion.artifact)).predict(judged.values, judged.texts), is_binary)
    is_better, reason = verdict(predictor.promote, metric, challenger, told, baselines)
    folder = artifacts.resolve() / predictor.name / str(now)
    kind = export(fit(predictor, rows), rows, folder, is_binary=is_binary, about={"trained_at": now})
    load(folder)
    baseline = {name: figures[metric] for name, figures in baselines.items() if metric in figures}
    version = registry.save(
        predictor.name, folder, metrics=challenger, tags={"kind": kind, "reason": reason, "now": str(now)}
    )
    if is_better:
        registry.promote(predictor.name, version)
    return ModelVersion(
        predictor=predictor.name,
        version=version,
        action="promoted" if is_better else "refused",
        reason=reason,
        now=now,
        artifact=str(folder),
        metrics=challenger,
        baselines=baseline,
        rows=len(rows),
    )


def _rows(app: App, predictor: Predictor, log: History, now: int) -> Dataset | None:
    rows = read(log, app, predictor, now)
    if rows is None:
        return None
    if predictor.retrain.history is not None:
        rows = rows.take(rows.at >= now - duration.micros(duration.parse(predictor.retrain.history)))
    return rows.with_tables()


def _split(rows: Dataset, champion: ModelVersion | None) -> tuple[Dataset, Dataset]:
    after = 0
    if champion is not None:
        facts: dict[str, Any] = json.loads((Path(champion.artifact) / "model.json").read_text("utf-8"))
        after = int(facts["trained_at"])
    known, judged = split(rows, JUDGED_SHARE, after)
    if len(judged) >= JUDGED_LEAST and len(known):
        return known, judged
    return split(rows, JUDGED_SHARE, 0)


def _figures(rows: Dataset, answer: Any, is_binary: bool) -> dict[str, float]:
    told = np.nan_to_num(np.asarray(answer, np.float64), nan=float(np.mean(rows.label)) if len(rows) else 0.0)
    return metrics(rows.label, told, rows.weight, is_binary=is_binary)


def _champion(log: History, name: str) -> ModelVersion | None:
    found = None
    for _, value in log.scan(MODELS):
        record = decode(MODELS, value)
        if record.predictor == name and record.action in ("promoted", "rolled-back"):
            found = record
    return found if found is not None and (Path(found.artifact) / "manifest.json").exists() else None
