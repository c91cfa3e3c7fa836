"""An exported model as a flavour of MLflow: `mlflow.pyfunc.load_model("models:/absence@champion")` answers with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from katmatic.predictions.artifact import Exported, load


class Answers:
    """What MLflow asks: a table of features (a pandas DataFrame) in, one answer for each row out."""

    def __init__(self, model: Exported, texts: tuple[str, ...]) -> None:
        self._model, self._texts = model, texts

    def predict(self, table: Any, params: dict[str, Any] | None = None) -> NDArray[np.float64]:
        """The chance of the label (or its value) for each row; columns are found by their names."""
        columns = self._model.columns
        values = np.full((len(table), len(columns)), np.nan)
        texts = {}
        for i, name in enumerate(columns):
            if name in self._texts:
                texts[name] = [value if isinstance(value, str) else None for value in table[name].tolist()]
            else:
                values[:, i] = np.asarray(table[name], np.float64)
        return self._model.predict(values, texts)


def _load_pyfunc(path: str) -> Answers:
    """Called by MLflow with the folder of the export."""
    model = load(Path(path))
    return Answers(model, model.texts)
