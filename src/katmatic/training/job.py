"""One training: read what is known, fit, judge on the newest rows, export, promote or refuse. The log is only read."""

from __future__ import annotations

from pathlib import Path

import msgspec

from katmatic.errors import KatmaticError
from katmatic.log.base import History
from katmatic.records import ModelVersion
from katmatic.registry.base import Registry
from katmatic.spec.app import App, Predictor
from katmatic.training import stages
from katmatic.training.promote import verdict


def train(
    app: App,
    name: str,
    log: History,
    registry: Registry,
    artifacts: str | Path,
    *,
    now: int,
    may_go_back: bool = False,
    may_promote: bool = True,
) -> ModelVersion:
    """Train predictor `name` as of `now`: the record of what came of it ("promoted", "refused" or "failed").

    The model that is promoted is fitted again on all rows; its figures are those of one that was fitted on what was
    known before the newest rows were asked. If it `may_go_back`, and the new one is refused, an earlier version that
    does better than the champion answers again ("rolled-back"). Unless it `may_promote`, the registry keeps its
    champion: whoever hands the version to the pipeline makes it that. Nothing is raised for a model that cannot be
    trained: the record says why.
    """
    rows, not_before = 0, 0
    try:
        found = _train(app, app.predictors[name], log, registry, artifacts, now, may_go_back=may_go_back)
        if may_promote and found.action != "refused":
            registry.promote(found.predictor, found.version)
        return found
    except stages.TooLittle as error:
        reason, rows, not_before = error.reason, error.rows, error.not_before
    except KatmaticError as error:
        reason = str(error)
    except Exception as error:  # model, disk and registry are not ours: whatever they raise is told
        reason = f"{type(error).__name__}: {error}"
    return ModelVersion(
        predictor=name, version=0, action="failed", reason=reason, now=now, rows=rows, not_before=not_before
    )


def _train(
    app: App,
    predictor: Predictor,
    log: History,
    registry: Registry,
    artifacts: str | Path,
    now: int,
    *,
    may_go_back: bool,
) -> ModelVersion:
    prepared = stages.prepare(app, predictor, log, now)
    fitted = stages.fit(predictor, prepared, artifacts)
    evaluated = stages.evaluate(app, predictor, log, registry, prepared, fitted)
    record = stages.gate(predictor, log, evaluated)
    if record.action == "refused" and may_go_back:
        return _back(predictor, log, prepared, record) or record
    return record


def _back(predictor: Predictor, log: History, prepared: stages.Prepared, refused: ModelVersion) -> ModelVersion | None:
    """The record by which an earlier version answers again, if one does better than the champion."""
    metric, answered = stages.metric_of(predictor), stages.answered_before(log, predictor)
    figures = [stages.judge(predictor, prepared, each) for each in answered]
    for other, mine in list(zip(answered, figures, strict=True))[1:]:
        does_better, why = verdict(predictor.promote, metric, mine, figures[0], {})
        if does_better:
            reason = f"{why}; the new version {refused.version} was refused: {refused.reason}"
            return msgspec.structs.replace(other.record, action="rolled-back", reason=reason, now=prepared.now)
    return None
