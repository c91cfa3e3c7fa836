"""MLflow as the registry: a SQLite file by default, or a tracking server. For trainings and the commands only."""

from __future__ import annotations

import json
import logging
import os
import platform
import tempfile
import warnings
from pathlib import Path
from typing import Any

from katmatic.clock import SystemClock
from katmatic.errors import ModelError
from katmatic.places import Place
from katmatic.registry.base import Run, Version

CHAMPION, CHALLENGER = "champion", "challenger"  # aliases: who is to answer, and who came last and is not
FOLDER = "folder"  # tag: where the pipeline finds the exported model
SQLITE = "sqlite:///"
PARAM_LIMIT = 500  # characters of a parameter
METRICS_LIMIT = 1_000  # of one request
QUIET = ("mlflow", "alembic")  # loggers that tell of every table and migration


class MlflowRegistry:
    """Versions of models in MLflow's model registry. `uri`: sqlite:///..., or http(s)://... of a tracking server."""

    def __init__(self, uri: str) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from mlflow.exceptions import MlflowException
            from mlflow.tracking import MlflowClient

            for name in QUIET:  # after the import, which sets them
                logging.getLogger(name).setLevel(logging.WARNING)
            self._raised: Any = MlflowException
            self._uri = uri
            self._client: Any = MlflowClient(tracking_uri=uri, registry_uri=uri)

    def save(self, predictor: str, folder: str, run: Run) -> int:
        """Log the training as a run and register its model; gives back the version, which is the challenger."""
        if self._model(predictor) is None:
            self._client.create_registered_model(predictor)
        logged = self._client.create_run(self._experiment(run.application), run_name=predictor)
        number = logged.info.run_id
        try:
            self._log(number, predictor, folder, run)
        except BaseException:
            self._client.set_terminated(number, "FAILED")
            raise
        self._client.set_terminated(number)
        figures = {f"metric.{name}": repr(value) for name, value in run.metrics.items()}
        made = self._client.create_model_version(
            predictor,
            source=f"{logged.info.artifact_uri}/model",
            run_id=number,
            tags={**run.tags, **figures, FOLDER: folder},
        )
        self._client.set_registered_model_alias(predictor, CHALLENGER, made.version)
        return int(made.version)

    def _experiment(self, application: str) -> str:
        """The number of the application's experiment. With a file as registry, the artifacts lie beside it."""
        name = f"katmatic/{application}"
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        place = (
            (Path(self._uri.removeprefix(SQLITE)).parent / "runs").as_uri() if self._uri.startswith(SQLITE) else None
        )
        return str(self._client.create_experiment(name, artifact_location=place))

    def _log(self, number: str, predictor: str, folder: str, run: Run) -> None:
        from mlflow.entities import Metric, Param, RunTag

        now = SystemClock().now() // 1000
        metrics = [Metric(name, value, now, 0) for name, value in run.metrics.items()]
        for name, figures in run.series.items():
            metrics += [Metric(name, value, at // 1000, step) for step, (at, value) in enumerate(figures)]
        params = [Param(name, value[:PARAM_LIMIT]) for name, value in run.params.items()]
        tags = [RunTag(name, value) for name, value in {**run.tags, "predictor": predictor}.items()]
        for first in range(0, max(len(metrics), 1), METRICS_LIMIT):
            part = metrics[first : first + METRICS_LIMIT]
            self._client.log_batch(number, part, params if first == 0 else (), tags if first == 0 else ())
        with tempfile.TemporaryDirectory(prefix="katmatic-") as place:
            made = Path(place)
            exported, data = Place(folder), made / "model" / "data"
            data.mkdir(parents=True)
            for name in exported.names():
                (data / name).write_bytes(exported.read(name))
            (made / "model" / "MLmodel").write_text(_mlmodel(run, number), "utf-8")
            for name, picture in run.pictures.items():
                (made / "plots").mkdir(exist_ok=True)
                (made / "plots" / name).write_bytes(picture)
            self._client.log_artifacts(number, place)

    def promote(self, predictor: str, version: int) -> None:
        """Make `version` the champion."""
        found = self._model(predictor)
        known = [each.version for each in self.versions(predictor)]
        if found is None or version not in known:
            raise ModelError(
                predictor, found=f"version {version}", expected=f"one of {known}", do="choose one of these"
            )
        self._client.set_registered_model_alias(predictor, CHAMPION, str(version))
        if int(found.aliases.get(CHALLENGER, 0)) == version:
            self._client.delete_registered_model_alias(predictor, CHALLENGER)

    def champion(self, predictor: str) -> Version | None:
        """The version that is to answer, if there is one."""
        return next((found for found in self.versions(predictor) if found.is_champion), None)

    def versions(self, predictor: str) -> list[Version]:
        """Every version, oldest first."""
        model = self._model(predictor)
        if model is None:
            return []
        champion = int(model.aliases.get(CHAMPION, 0))
        found = self._client.search_model_versions(f"name = '{predictor}'")
        return sorted((_version(each, champion) for each in found), key=lambda each: each.version)

    def _model(self, predictor: str) -> Any:
        """What MLflow knows of a predictor; None if it was never saved."""
        try:
            return self._client.get_registered_model(predictor)
        except self._raised as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None


def _mlmodel(run: Run, number: str) -> str:
    """The description by which `mlflow.pyfunc` loads the model (MLflow's storage format; JSON is YAML, too)."""
    inputs = [{"name": name, "type": kind, "required": True} for name, kind in run.columns.items()]
    return json.dumps(
        {
            "artifact_path": "model",
            "run_id": number,
            "flavors": {
                "python_function": {
                    "loader_module": "katmatic.predictions.pyfunc",
                    "data": "data",
                    "python_version": platform.python_version(),
                }
            },
            "signature": {"inputs": json.dumps(inputs), "outputs": json.dumps([{"type": "double", "required": True}])},
        },
        indent=2,
    )


def _version(found: Any, champion: int) -> Version:
    number = int(found.version)
    metrics = {
        name.removeprefix("metric."): float(value) for name, value in found.tags.items() if name.startswith("metric.")
    }
    tags = {name: value for name, value in found.tags.items() if not name.startswith("metric.")}
    folder = str(tags.pop(FOLDER, found.source))  # without it, somebody else registered the version
    return Version(found.name, number, folder, metrics, tags, number == champion)
