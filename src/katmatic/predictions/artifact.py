"""A model as a folder of files: what training writes, and the running pipeline reads without the model's library.

`model.json` names the kind (linear, trees, onnx or pickled) and the inputs; `arrays.npz` holds the numbers, and a few
known rows with their answers; `model.pkl` is only there for what has no export of its own. Each file's SHA-256 stands
in `manifest.json`.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from katmatic.errors import ModelError, PlaceError
from katmatic.places import Place
from katmatic.predictions.linear import Linear
from katmatic.predictions.trees import Trees

TOLERANCE = 1e-9  # relative: how near a loaded model must come to its known rows
TOLERANCE_32_BITS = 1e-5  # of a network, which computes with 32 bits

_ALWAYS = ("model.json", "arrays.npz")
# The steps before a linear model that one loop does with it.
_WEIGHED: tuple[list[str], ...] = ([], ["fill"], ["scale"], ["fill", "scale"])

Floats = NDArray[np.float64]


class Exported:
    """A model that was loaded: rows in, answers out."""

    def __init__(self, facts: dict[str, Any], arrays: dict[str, NDArray[Any]], pickled: Any = None) -> None:
        self._facts, self._arrays, self._pickled = facts, arrays, pickled
        self.columns: tuple[str, ...] = tuple(facts["columns"])
        self.trained_at: int = facts.get("trained_at", 0)
        self.is_32_bits: bool = facts["kind"] == "onnx"
        self.texts: tuple[str, ...] = tuple(facts["texts"])  # the columns that are texts
        self._codes = {name: {value: i for i, value in enumerate(values)} for name, values in facts["texts"].items()}
        self._linear: Linear | None = None
        if facts["kind"] == "linear" and [step["name"] for step in facts["steps"]] in _WEIGHED:
            self._linear = Linear(facts, arrays)
        if facts["kind"] == "trees":
            self._trees = Trees(arrays, start=facts["start"], single=facts["single"])
        elif facts["kind"] == "onnx":
            from katmatic.predictions.onnx import Network

            self._network = Network(arrays["onnx"].tobytes())

    def predict(self, values: Floats, texts: dict[str, list[Any]]) -> Floats:
        """The chance of the label (or its value) for each row."""
        x = self.matrix(values, texts)
        kind = self._facts["kind"]
        if kind == "pickled":  # it may write into what it is given: what was served stays as it was
            x = x.copy() if x is values else x
            return answers(self._pickled, x, is_binary=self._facts["is_binary"])
        if self._linear is not None:
            return self._linear.predict(x)
        for step in self._facts["steps"]:
            x = _step(x, step, self._arrays)
        if kind == "trees":
            raw = self._trees.add_up(x) / self._facts["divisor"]
        elif kind == "onnx":
            raw = self._network.predict(x)
        else:
            # Row by row: what BLAS gives for a row depends, in its last bits, on the rows beside it.
            raw = np.einsum("ij,j->i", np.ascontiguousarray(x), self._arrays["coef"]) + self._facts["intercept"]
        return _expit(raw) if self._facts["link"] == "logit" else raw

    def matrix(self, values: Floats, texts: dict[str, list[Any]]) -> Floats:
        """The rows as numbers: a text is its number in the table of those that were seen in training, else unknown."""
        if not texts and not self._codes:
            return values
        x = values.copy()
        for name, codes in self._codes.items():
            column = texts.get(name)
            x[:, self.columns.index(name)] = (
                np.nan if column is None else [codes.get(value, np.nan) for value in column]
            )
        return x


def load(folder: Path | str) -> Exported:
    """The model in a folder, or in a part of a bucket.

    Raises ModelError if a file is missing or was changed, or if the model does not give its known answers.
    """
    try:
        place = Place(folder)
        manifest: dict[str, str] = json.loads(place.read("manifest.json"))
        files = {name: place.read(name) for name in {**dict.fromkeys(_ALWAYS), **manifest}}
        digests = {name: manifest[name] for name in files}
    except (PlaceError, OSError, ValueError, TypeError, KeyError) as error:
        raise _wrong(folder, f"{type(error).__name__}: {error}", "the files of an exported model") from error
    for name, digest in digests.items():
        if hashlib.sha256(files[name]).hexdigest() != digest:
            raise _wrong(f"{folder}/{name}", "a file that was changed", f"SHA-256 {digest[:12]}...")
    try:
        model, known = _read(files)
        told = model.predict(known["known_rows"], known["known_texts"])
    except ModelError:  # it says what is missing
        raise
    except Exception as error:  # a model of the user's, or of a library that is not here, may raise anything
        raise _wrong(folder, f"{type(error).__name__}: {error}", "a model that can be loaded here") from error
    tolerance = TOLERANCE_32_BITS if model.is_32_bits else TOLERANCE
    if not np.allclose(told, known["known_answers"], rtol=tolerance, atol=tolerance, equal_nan=True):
        worst = float(np.max(np.abs(np.nan_to_num(told - known["known_answers"], nan=np.inf))))
        raise _wrong(folder, f"answers that differ by {worst:.3g}", "the answers it gave when it was exported")
    return model


def _read(files: dict[str, bytes]) -> tuple[Exported, dict[str, Any]]:
    """The model, and its known rows with their answers."""
    facts = json.loads(files["model.json"])
    with np.load(io.BytesIO(files["arrays.npz"]), allow_pickle=False) as found:
        arrays = dict(found)
    pickled = pickle.loads(files["model.pkl"]) if "model.pkl" in files else None
    return Exported(facts, arrays, pickled), {**arrays, "known_texts": facts["known_texts"]}


def answers(model: Any, x: Floats, *, is_binary: bool) -> Floats:
    """What a fitted model itself says: the chance of class 1, or the value."""
    if not is_binary:
        return np.asarray(model.predict(x), np.float64)
    classes = [float(label) for label in getattr(model, "classes_", (0.0, 1.0))]
    chances = np.asarray(model.predict_proba(x), np.float64)
    return chances[:, classes.index(1.0)] if 1.0 in classes else np.zeros(len(x))


def _step(x: Floats, step: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Floats:
    if step["name"] == "fill":
        holes = np.isnan(x)
        kept, marked = arrays[step["kept"]], arrays[step["marked"]]
        filled = np.where(holes, arrays[step["fill"]], x) if holes.any() else x
        if len(kept) < x.shape[1]:  # they are in order
            filled = filled[:, kept]
        return np.hstack([filled, holes[:, marked].astype(np.float64)]) if len(marked) else filled
    found: Floats = (x - arrays[step["mean"]]) / arrays[step["scale"]]
    return found


def _expit(raw: Floats) -> Floats:
    e = np.exp(-np.abs(raw))
    return np.where(raw >= 0, 1 / (1 + e), e / (1 + e))


def _wrong(path: Path | str, found: str, expected: str) -> ModelError:
    return ModelError(str(path), found=found, expected=expected, do="train again, or roll back to another version")
