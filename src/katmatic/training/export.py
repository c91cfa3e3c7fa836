"""A fitted model -> a folder that answers without the model's library, proved on held-out rows before it is believed.

Linear models and ensembles of trees of scikit-learn are written as numbers, networks as ONNX; whatever else is pickled.
An export that does not agree with its model on the rows at hand (also with unknown values) is not used: the model is
pickled then, or refused if it is a network.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
from numpy.typing import NDArray

from katmatic.errors import ModelError
from katmatic.predictions.artifact import TOLERANCE_32_BITS, Exported, answers
from katmatic.training.dataset import Dataset

TOLERANCE = 1e-12  # relative: how near an export must come to its model
KNOWN_ROWS = 20
CHECKED_ROWS = 2_000

Floats = NDArray[np.float64]


def export(model: Any, rows: Dataset, folder: Path, *, is_binary: bool, about: dict[str, Any]) -> str:
    """Write `model` to `folder`; gives back its kind: linear, trees, onnx or pickled. `rows` prove it, some are kept.

    Raises ModelError for a network whose export answers otherwise: where it is to answer there is no TensorFlow.
    """
    checked = rows.take(np.arange(max(0, len(rows) - CHECKED_ROWS), len(rows)))
    x = checked.matrix()
    probe = np.vstack([x, _with_holes(x)])
    facts: dict[str, Any] = {
        "columns": list(rows.columns),
        "texts": rows.tables,
        "is_binary": is_binary,
        "steps": [],
        "link": "identity",
        **about,
    }
    arrays: dict[str, NDArray[Any]] = {}
    kind = _translate(model, facts, arrays)
    is_same = kind != "pickled" and _agrees(model, facts, arrays, probe, is_binary)
    if kind == "onnx" and not is_same:
        raise ModelError(
            type(model).__name__,
            found="a network whose export to ONNX answers otherwise",
            expected="answers that agree to five digits",
            do="use other layers; scale in a step before it: make_pipeline(StandardScaler(), KerasClassifier(...))",
        )
    if not is_same:
        kind, arrays = "pickled", {}
        facts |= {"kind": "pickled", "steps": []}
    known = checked.take(np.linspace(0, len(checked) - 1, min(KNOWN_ROWS, len(checked))).astype(np.int64))
    facts["known_texts"] = known.texts
    arrays |= {"known_rows": known.values, "known_answers": answers(model, known.matrix(), is_binary=is_binary)}
    _write(folder, facts, arrays, model if kind == "pickled" else None)
    return kind


def _with_holes(x: Floats) -> Floats:
    """The rows with every third value unknown, where the model was shown unknown values."""
    if not np.isnan(x).any():
        return x[:0]
    holes = x.copy()
    holes.reshape(-1)[::3] = np.nan
    return holes


def _agrees(model: Any, facts: dict[str, Any], arrays: dict[str, NDArray[Any]], x: Floats, is_binary: bool) -> bool:
    exported = Exported({**facts, "texts": {}}, arrays)
    rtol, atol = (TOLERANCE_32_BITS, TOLERANCE_32_BITS) if exported.is_32_bits else (TOLERANCE, 1e-15)
    told = answers(model, x, is_binary=is_binary)
    return bool(np.allclose(exported.predict(x, {}), told, rtol=rtol, atol=atol, equal_nan=True))


def _translate(model: Any, facts: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> str:
    """Describe `model` in `facts` and `arrays`; gives back its kind."""
    *before, last = [step for _, step in model.steps] if type(model).__name__ == "Pipeline" else [model]
    for i, step in enumerate(before):
        if not _translate_step(step, i, facts, arrays):
            return "pickled"
    name = type(last).__name__
    if hasattr(last, "to_onnx"):
        arrays["onnx"] = np.frombuffer(last.to_onnx(), np.uint8)
        facts |= {"kind": "onnx", "link": "identity"}
        return "onnx"
    if not type(last).__module__.startswith("sklearn."):
        return "pickled"
    if name in (
        "LogisticRegression",
        "SGDClassifier",
        "LinearRegression",
        "Ridge",
        "SGDRegressor",
        "LogisticRegressionCV",
    ):
        return _linear(last, facts, arrays)
    if name in ("HistGradientBoostingClassifier", "HistGradientBoostingRegressor"):
        return _boosted(last, facts, arrays)
    if name in (
        "RandomForestClassifier",
        "RandomForestRegressor",
        "ExtraTreesClassifier",
        "ExtraTreesRegressor",
        "DecisionTreeClassifier",
        "DecisionTreeRegressor",
    ):
        return _forest(last, facts, arrays)
    return "pickled"


def _translate_step(step: Any, i: int, facts: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> bool:
    name = type(step).__name__
    if name == "StandardScaler":
        width = step.n_features_in_
        arrays[f"mean{i}"] = step.mean_ if step.with_mean else np.zeros(width)
        arrays[f"scale{i}"] = step.scale_ if step.with_std else np.ones(width)
        facts["steps"].append({"name": "scale", "mean": f"mean{i}", "scale": f"scale{i}"})
        return True
    if name == "SimpleImputer" and step.missing_values != step.missing_values:
        fill = np.asarray(step.statistics_, np.float64)
        kept = np.arange(len(fill)) if step.keep_empty_features else np.flatnonzero(~np.isnan(fill))
        marked = step.indicator_.features_ if step.indicator_ is not None else np.arange(0)
        arrays |= {f"fill{i}": fill, f"kept{i}": kept, f"marked{i}": np.asarray(marked, np.int64)}
        facts["steps"].append({"name": "fill", "fill": f"fill{i}", "kept": f"kept{i}", "marked": f"marked{i}"})
        return True
    return bool(step == "passthrough")


def _linear(model: Any, facts: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> str:
    coef = np.atleast_2d(model.coef_)
    is_class = hasattr(model, "classes_")
    if len(coef) != 1 or (is_class and (len(model.classes_) != 2 or not hasattr(model, "predict_proba"))):
        return "pickled"
    if is_class and getattr(model, "loss", "log_loss") != "log_loss":
        return "pickled"
    arrays["coef"] = coef[0].astype(np.float64)
    facts |= {
        "kind": "linear",
        "intercept": float(np.ravel(model.intercept_)[0]),
        "link": "logit" if is_class else "identity",
    }
    return "linear"


def _boosted(model: Any, facts: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> str:
    is_class = hasattr(model, "classes_")
    trees = [trees[0].nodes for trees in model._predictors]
    if (is_class and len(model.classes_) != 2) or any(len(each) != 1 for each in model._predictors):
        return "pickled"
    if any(nodes["is_categorical"].any() for nodes in trees) or (not is_class and model.loss != "squared_error"):
        return "pickled"
    leaf = [nodes["is_leaf"].astype(bool) for nodes in trees]
    _flatten(
        arrays,
        feature=[nodes["feature_idx"] for nodes in trees],
        threshold=[nodes["num_threshold"] for nodes in trees],
        left=[
            np.where(is_leaf, -1, nodes["left"].astype(np.int64)) for nodes, is_leaf in zip(trees, leaf, strict=True)
        ],
        right=[
            np.where(is_leaf, -1, nodes["right"].astype(np.int64)) for nodes, is_leaf in zip(trees, leaf, strict=True)
        ],
        missing_left=[nodes["missing_go_to_left"] for nodes in trees],
        value=[nodes["value"] for nodes in trees],
    )
    facts |= {
        "kind": "trees",
        "start": float(np.ravel(model._baseline_prediction)[0]),
        "single": False,
        "divisor": 1.0,
        "link": "logit" if is_class else "identity",
    }
    return "trees"


def _forest(model: Any, facts: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> str:
    trees = [each.tree_ for each in getattr(model, "estimators_", [model])]
    is_class = hasattr(model, "classes_")
    if model.n_outputs_ != 1 or (is_class and [float(c) for c in model.classes_] != [0.0, 1.0]):
        return "pickled"
    _flatten(
        arrays,
        feature=[tree.feature for tree in trees],
        threshold=[tree.threshold for tree in trees],
        left=[tree.children_left for tree in trees],
        right=[tree.children_right for tree in trees],
        missing_left=[tree.missing_go_to_left for tree in trees],
        value=[tree.value[:, 0, -1] for tree in trees],
    )
    facts |= {"kind": "trees", "start": 0.0, "single": True, "divisor": float(len(trees)), "link": "identity"}
    return "trees"


def _flatten(arrays: dict[str, NDArray[Any]], **parts: list[NDArray[Any]]) -> None:
    """Trees one after the other: children are addressed over all of them."""
    sizes = [len(part) for part in parts["feature"]]
    roots = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    for name in ("left", "right"):
        parts[name] = [
            np.where(part >= 0, part + root, -1) for part, root in zip(parts[name], roots.tolist(), strict=True)
        ]
    kinds = {"threshold": np.float64, "value": np.float64, "missing_left": np.uint8}
    arrays["roots"] = roots
    arrays |= {name: np.concatenate(part).astype(kinds.get(name, np.int64)) for name, part in parts.items()}


def _write(folder: Path, facts: dict[str, Any], arrays: dict[str, NDArray[Any]], pickled: Any) -> None:
    """Write all files, each on the disk before the manifest that vouches for it."""
    folder.mkdir(parents=True, exist_ok=True)
    packed = io.BytesIO()
    np.savez(packed, **arrays)  # type: ignore[arg-type]
    files = {"model.json": json.dumps(facts).encode(), "arrays.npz": packed.getvalue()}
    if pickled is not None:
        files["model.pkl"] = _pickle(pickled)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    for name, data in {**files, "manifest.json": json.dumps(digests).encode()}.items():
        with (folder / name).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def _pickle(model: Any) -> bytes:
    try:
        return bytes(cloudpickle.dumps(model))
    except Exception as error:  # the model is the user's
        raise ModelError(
            type(model).__name__,
            found=f"{type(error).__name__}: {error}",
            expected="a model that can be pickled",
            do="keep locks, files and connections out of it",
        ) from error
