"""One stage of a training by itself, as a scheduler calls it: `katmatic step`. Each may be run again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from katmatic import duration
from katmatic.clock import SystemClock
from katmatic.errors import ModelError, SettingsError
from katmatic.log.codec import decode, encode
from katmatic.moment import to_micros
from katmatic.records import MODELS, ModelVersion
from katmatic.registry.base import Registry
from katmatic.runtime import open_history
from katmatic.settings import Settings
from katmatic.spec.app import App
from katmatic.training import stages
from katmatic.training.handover import Work

STAGES = ("validate", "dataset", "fit", "evaluate", "gate", "promote")
SKIP = 99  # the code with which a stage ends that leaves nothing to do for the next; Airflow's, too
SINCE = "7d"


def do(
    stage: str,
    app: App,
    name: str,
    settings: Settings,
    registry: Callable[[Settings], Registry],
    folder: Path,
    *,
    now: str | None,
    since: str | None,
) -> tuple[dict[str, Any], bool]:
    """Do one stage: what it found, and whether the next has something to do. Raises KatmaticError."""
    if stage not in STAGES:
        raise SettingsError("step", found=stage, expected=f"one of {', '.join(STAGES)}", do="name one of these")
    predictor, work = app.predictors[name], Work(folder)
    moment = SystemClock().now() if now is None else _moment("--now", now)
    start = moment - duration.micros(duration.parse(predictor.retrain.every or SINCE))
    try:
        with contextlib.closing(open_history(app, settings)) as history:
            match stage:
                case "validate":
                    begin = start if since is None else _moment("--since", since)
                    return msgspec.to_builtins(stages.validate(app, predictor, history, begin, moment)), True
                case "dataset":
                    prepared = stages.prepare(app, predictor, history, moment)
                    work.put_prepared(prepared)
                    sizes = {part: len(getattr(prepared, part)) for part in ("rows", "known", "asked")}
                    return {"now": moment, "rows_sha256": prepared.rows.digest(), **sizes}, True
                case "fit":
                    fitted = stages.fit(predictor, work.prepared(), settings.artifacts)
                    work.put_fitted(fitted)
                    return {"artifact": fitted.folder, "kind": fitted.kind}, True
                case "evaluate":
                    evaluated = work.evaluated() or stages.evaluate(
                        app, predictor, history, registry(settings), work.prepared(), work.fitted()
                    )
                    work.put(evaluated)
                    return msgspec.to_builtins(evaluated), True
                case "gate":
                    record = stages.gate(predictor, history, work.get(stages.Evaluated, "evaluate"))
                    work.put(record)
                    if record.action == "refused":
                        _post(history, record)
                    return msgspec.to_builtins(record), record.action == "promoted"
                case _:
                    record = work.get(ModelVersion, "gate")
                    if record.action != "promoted":
                        raise ModelError(
                            f"{name} version {record.version}",
                            found=f"refused: {record.reason}",
                            expected="one that the gate has let pass",
                            do="leave it, or let an earlier version answer: katmatic rollback",
                        )
                    registry(settings).promote(name, record.version)
                    _post(history, record)
                    return msgspec.to_builtins(record), True
    except stages.TooLittle as error:
        return {"stage": stage, "reason": error.reason, "rows": error.rows, "not_before": error.not_before}, False


def _post(history: Any, record: ModelVersion) -> None:
    """Hand a record to the running pipeline; once, also if the stage is run again."""
    told = [value for _, value in history.scan(MODELS)] + history.pending(MODELS)
    if record not in [decode(MODELS, value) for value in told]:
        history.post(MODELS, [encode(record)])


def _moment(option: str, text: str) -> int:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise SettingsError(option, found=text, expected="a moment of ISO 8601", do="e.g. 2026-04-21T08:00Z") from error
    return to_micros(found if found.tzinfo else found.astimezone())
