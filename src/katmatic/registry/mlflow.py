"""MLflow as the registry: a SQLite file by default, or a tracking server. For trainings and the commands only."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from katmatic.errors import ModelError
from katmatic.registry.base import Version

CHAMPION, CHALLENGER = "champion", "challenger"  # aliases: who is to answer, and who came last and is not
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
            self._client: Any = MlflowClient(tracking_uri=uri, registry_uri=uri)

    def save(self, predictor: str, folder: Path, *, metrics: Mapping[str, float], tags: Mapping[str, str]) -> int:
        """Register the exported model in `folder`; gives back its version, which is the challenger."""
        if self._model(predictor) is None:
            self._client.create_registered_model(predictor)
        figures = {f"metric.{name}": repr(value) for name, value in metrics.items()}
        made = self._client.create_model_version(predictor, source=folder.as_uri(), tags={**tags, **figures})
        self._client.set_registered_model_alias(predictor, CHALLENGER, made.version)
        return int(made.version)

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


def _version(found: Any, champion: int) -> Version:
    number = int(found.version)
    metrics = {
        name.removeprefix("metric."): float(value) for name, value in found.tags.items() if name.startswith("metric.")
    }
    tags = {name: value for name, value in found.tags.items() if not name.startswith("metric.")}
    folder = Path(url2pathname(urlsplit(found.source).path))
    return Version(found.name, number, folder, metrics, tags, number == champion)
