"""Keras networks as models of a predictor: trained by TensorFlow, exported as ONNX, answering without TensorFlow.

>>> def network(inputs):
...     import keras  # in here: the running pipeline reads this file, too, and needs no TensorFlow
...
...     model = keras.Sequential([keras.Input((inputs,)), keras.layers.Dense(1, activation="sigmoid")])
...     model.compile(optimizer="adam", loss="binary_crossentropy")
...     return model
>>> KerasClassifier(network, epochs=5).epochs
5
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

from katmatic.errors import ModelError

Floats = NDArray[np.float64]


class _Keras(BaseEstimator):  # type: ignore[misc]
    """What both kinds share. A step before it fills what is unknown and scales the rest."""

    def __init__(
        self, build: Callable[[int], Any], *, epochs: int = 20, batch_size: int = 256, seed: int | None = 0
    ) -> None:
        self.build, self.epochs, self.batch_size, self.seed = build, epochs, batch_size, seed

    def _fit(self, x: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None) -> None:
        keras = _keras()
        if self.seed is not None:
            keras.utils.set_random_seed(self.seed)
        rows = np.asarray(x, np.float32)
        self.network_ = self.build(rows.shape[1])
        self.network_.fit(
            rows,
            np.asarray(y, np.float32),
            sample_weight=None if sample_weight is None else np.asarray(sample_weight, np.float32),
            epochs=self.epochs,
            batch_size=self.batch_size,
            verbose=0,
        )
        self.n_features_in_ = rows.shape[1]

    def _told(self, x: ArrayLike) -> Floats:
        told = self.network_.predict(np.asarray(x, np.float32), batch_size=10_000, verbose=0)
        return np.asarray(told, np.float64).reshape(len(told), -1)[:, -1]

    def to_onnx(self) -> bytes:
        """The trained network in the ONNX format."""
        with tempfile.TemporaryDirectory(prefix="katmatic-") as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path = Path(folder) / "network.onnx"
            self.network_.export(str(path), format="onnx", verbose=False)
            return path.read_bytes()


class KerasClassifier(ClassifierMixin, _Keras):  # type: ignore[misc]
    """Yes or no: `build(inputs)` gives a compiled network whose one output is the chance of yes."""

    def fit(self, x: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Build the network anew, and train it."""
        self.classes_ = np.array([0.0, 1.0])
        self._fit(x, y, sample_weight)
        return self

    def predict_proba(self, x: ArrayLike) -> Floats:
        """The chances of no and of yes."""
        yes = self._told(x)
        return np.column_stack([1 - yes, yes])

    def predict(self, x: ArrayLike) -> Floats:
        """The likelier class."""
        return np.asarray(self._told(x) > 0.5, np.float64)


class KerasRegressor(RegressorMixin, _Keras):  # type: ignore[misc]
    """A number: `build(inputs)` gives a compiled network with one output."""

    def fit(self, x: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Build the network anew, and train it."""
        self._fit(x, y, sample_weight)
        return self

    def predict(self, x: ArrayLike) -> Floats:
        """A value for each row."""
        return self._told(x)


def _keras() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import keras
        except ImportError as error:
            raise ModelError(
                "a Keras network",
                found=f"no TensorFlow to train it with: {error}",
                expected="it",
                do="install it: pip install 'katmatic[tensorflow]'",
            ) from error
    return keras
