"""MLflow as the registry: a SQLite file by default, or a tracking server. For trainings and the commands only."""

from __future__ import annotations

import json
import logging
import os
import platform
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from katmatic.clock import SystemClock
from katmatic.errors import KatmaticError, ModelError, RegistryError
from katmatic.places import Place
from katmatic.registry.base import Run, Version

CHAMPION, CHALLENGER = "champion", "challenger"  # aliases: who is to answer, and who came last and is not
FOLDER = "folder"  # tag: where the pipeline finds the exported model
APPLICATION = "application"  # tag of a registered model: whose it is
SQLITE = "sqlite:///"
PARAM_LIMIT = 6_000  # characters of a parameter
METRICS_LIMIT, PARAMS_LIMIT = 1_000, 100  # of one request
# A server that is started again is waited for, about a minute; MLflow's own patience is five, of two minutes a request.
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
SILENCE = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
QUIET = ("mlflow", "alembic")  # loggers that tell of every table and migration


class MlflowRegistry:
    """Versions of models in MLflow's model registry. `uri`: sqlite:///..., or http(s)://... of a tracking server."""

    def __init__(self, uri: str) -> None:
        for name, value in {**SILENCE, **PATIENCE}.items():
            os.environ.setdefault(name, value)
        self._uri = uri
        with warnings.catch_warnings(), self._explained():
            warnings.simplefilter("ignore")
            from mlflow.exceptions import MlflowException
            from mlflow.tracking import MlflowClient

            for name in QUIET:  # after the import, which sets them
                logging.getLogger(name).setLevel(logging.WARNING)
            self._raised: Any = MlflowException
            self._client: Any = MlflowClient(tracking_uri=uri, registry_uri=uri)

    def save(self, predictor: str, folder: str, run: Run) -> int:
        """Log the training as a run and register its model; gives back the version, which is the challenger.

        What is in `folder` is registered once: if that broke off half-way it is done again from there.
        """
        with self._explained():
            self._claim(predictor, run.application)
            saved = next((each for each in self.versions(predictor) if each.folder == str(folder)), None)
            number = saved.version if saved is not None else self._register(predictor, folder, run)
            if saved is None or not saved.is_champion:
                self._client.set_registered_model_alias(predictor, CHALLENGER, str(number))
            return number

    def _claim(self, predictor: str, application: str) -> None:
        """Make the registered model of a predictor; refuse one that is another application's."""
        found = self._model(predictor)
        if found is None:
            self._client.create_registered_model(predictor, tags={APPLICATION: application})
        elif (owner := found.tags.get(APPLICATION, application)) != application:
            raise RegistryError(
                f"the registered model {predictor!r}",
                found=f"versions of the application {owner!r}",
                expected=f"those of {application!r}",
                do="give one of the two predictors another name, or each application a registry of its own",
            )

    def _register(self, predictor: str, folder: str, run: Run) -> int:
        logged = self._client.create_run(self._experiment(run.application), run_name=predictor)
        number = logged.info.run_id
        try:
            self._log(number, predictor, folder, run)
        except BaseException:
            with suppress(self._raised):  # that it cannot be told either is not what went wrong
                self._client.set_terminated(number, "FAILED")
            raise
        self._client.set_terminated(number)
        figures = {f"metric.{name}": repr(value) for name, value in run.metrics.items()}
        made = self._client.create_model_version(
            predictor,
            source=f"{logged.info.artifact_uri}/model",
            run_id=number,
            tags={**run.tags, **figures, FOLDER: str(folder)},
        )
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
        self._client.log_batch(number, tags=tags)
        for first in range(0, len(params), PARAMS_LIMIT):
            self._client.log_batch(number, params=params[first : first + PARAMS_LIMIT])
        for first in range(0, len(metrics), METRICS_LIMIT):
            self._client.log_batch(number, metrics[first : first + METRICS_LIMIT])
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
        with self._explained():
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
        with self._explained():
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

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What MLflow, its server, its database or its store of artifacts raise, in four parts."""
        try:
            yield
        except KatmaticError:
            raise
        except Exception as error:
            raise RegistryError(
                f"MLflow at {self._uri}",
                found=f"{type(error).__name__}: {' '.join(str(error).split())}",
                expected="a registry that answers",
                do="see that it runs, that its address is right and who may, and do it again",
            ) from error


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
