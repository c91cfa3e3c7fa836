"""The user's models as they are: fitted on a dataset, whatever library they are from."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import numpy as np

from katmatic.errors import ModelError
from katmatic.spec.app import Predictor
from katmatic.training.dataset import Dataset


def fit(predictor: Predictor, rows: Dataset) -> Any:
    """A fresh copy of the predictor's model, fitted on `rows`; weights are given if it takes them.

    Features are columns of numbers, unknown is NaN, and a text is its number in the table of the texts seen (the most
    frequent is 0). Raises ModelError if there is nothing to learn from, or if the model raises.
    """
    where = f"{predictor.name} model"
    if not len(rows):
        raise ModelError(where, found="no labelled rows", expected="some", do="wait for labels")
    label = rows.label
    if predictor.label.is_binary:
        label = (label > 0.5).astype(np.int64)
        if label.min() == label.max():
            raise ModelError(
                where, found=f"only {'true' if label[0] else 'false'} labels", expected="both", do="wait for the other"
            )
    x, weighed = rows.matrix(), {}
    x[:, np.isnan(x).all(axis=0)] = 0.0  # never known so far: a constant, which nothing is learnt from
    try:
        model = copy.deepcopy(predictor.model)
        _by_place(model, rows.columns)
        if not np.all(rows.weight == 1.0):
            weighed = _weight_argument(model, rows)
        model.fit(x, label, **weighed)
    except ModelError:  # it says what is missing
        raise
    except Exception as error:  # the model is the user's
        raise ModelError(
            where, found=f"{type(error).__name__}: {error}", expected="a model that can be fitted", do="correct it"
        ) from error
    return model


def _by_place(step: Any, columns: tuple[str, ...]) -> None:
    """Let a model that names its columns after the features number them: it is given a table without names."""

    def places(chosen: Any) -> Any:
        if isinstance(chosen, str):
            return columns.index(chosen)
        is_named = isinstance(chosen, list | tuple) and chosen and all(isinstance(each, str) for each in chosen)
        return [columns.index(name) for name in chosen] if is_named else chosen

    if isinstance(transformers := getattr(step, "transformers", None), list | tuple):
        step.transformers = [(name, part, places(chosen)) for name, part, chosen in transformers]
    elif isinstance(getattr(step, "categorical_features", None), list | tuple):
        step.categorical_features = places(step.categorical_features)
    elif isinstance(steps := getattr(step, "steps", None), list) and steps:
        _by_place(steps[0][1], columns)  # what comes after it sees other columns
    for group in ("transformer_list", "estimators"):
        if isinstance(parts := getattr(step, group, None), list | tuple):
            for part in parts:
                _by_place(part[1], columns)
    if hasattr(inner := getattr(step, "estimator", None), "fit"):
        _by_place(inner, columns)


def _weight_argument(model: Any, rows: Dataset) -> dict[str, Any]:
    if type(model).__name__ == "Pipeline":
        name, last = model.steps[-1]
        return {f"{name}__{key}": value for key, value in _weight_argument(last, rows).items()}
    return {"sample_weight": rows.weight} if "sample_weight" in inspect.signature(model.fit).parameters else {}
