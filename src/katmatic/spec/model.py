"""What a model can take, asked of the model itself: by its methods and its tags, importing no library of models.

Two kinds of models are known by what they can do. One that has `fit` is trained in batches: it gets a table in which
NaN is unknown. One that has `learn_one` learns row by row: it gets a dict without the unknown. A batch model says by
its scikit-learn tags whether it takes NaN and text; steps in front of it may fill and encode. A class without tags says
nothing, and is given everything. Models that learn row by row have no tags: a copy is shown one row with text.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

from katmatic.errors import DeclarationError
from katmatic.spec.feature import Given
from katmatic.spec.future import Label

IMPUTER = "make_pipeline(SimpleImputer(add_indicator=True), {model})"
ONLINE_ENCODER = (
    "encode it first: (compose.Select({name!r}) | preprocessing.OneHotEncoder()) + compose.Discard({name!r})"
)
ENCODER = "a ColumnTransformer with OneHotEncoder(handle_unknown='ignore') for it, or leave it out"


def check_model(where: str, model: Any, label: Label, features: Sequence[Given]) -> None:
    """Refuse a model that cannot answer for `label`, or cannot take the features as they are given."""
    place = f"{where} model"
    if isinstance(model, type):
        raise DeclarationError(
            place, found=f"the class {model.__name__}", expected="a model", do=f"make one: {model.__name__}()"
        )
    if hasattr(model, "learn_one"):
        _check_methods(place, _last(model), label, ("predict_proba_one", "predict_one"))
        _try_texts(place, model, label, features)
    elif hasattr(model, "fit"):
        _check_methods(place, model, label, ("predict_proba", "predict"))
        _through(place, model, list(features))
    else:
        raise DeclarationError(
            place,
            found=f"{_name(model)}, which can learn neither in batches nor row by row",
            expected="a model with fit, or with learn_one",
            do="take one of scikit-learn's or of River's",
        )


def _check_methods(place: str, model: Any, label: Label, methods: tuple[str, str]) -> None:
    chance, value = methods
    if label.is_binary and not hasattr(model, chance):
        raise DeclarationError(
            place,
            found=f"{_name(model)}, which has no {chance}",
            expected=f"a model that gives probabilities, for {label}",
            do="take a classifier that does, or calibrate this one (CalibratedClassifierCV)",
        )
    if label.is_binary or label.op == "last":
        wanted = hasattr(model, chance) or hasattr(model, value)
    else:
        wanted = hasattr(model, value) and not hasattr(model, chance)
    if not wanted:
        raise DeclarationError(
            place, found=_name(model), expected=f"a model that gives a number, for {label}", do="take a regressor"
        )


def _last(model: Any) -> Any:
    """The last step of an online pipeline: it is what answers."""
    steps = getattr(model, "steps", None)
    return list(steps.values())[-1] if isinstance(steps, dict) and steps else model


def _try_texts(place: str, model: Any, label: Label, features: Sequence[Given]) -> None:
    texts = [feature.name for feature in features if feature.is_text]
    if not texts:
        return
    row = {feature.name: "a" if feature.is_text else 1.0 for feature in features}
    try:
        copy.deepcopy(model).learn_one(row, True if label.is_binary else 1.0)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise DeclarationError(
            place,
            found=f"{', '.join(texts)}: text, on which {_name(model)} raises {type(error).__name__}",
            expected="numbers",
            do=ONLINE_ENCODER.format(name=texts[0]),
        ) from error


def _through(place: str, step: Any, features: list[Given]) -> list[Given]:
    """What comes out of `step` if `features` go in; refuse what it cannot take."""
    if step is None or isinstance(step, str):
        return [] if step == "drop" else features
    if (steps := getattr(step, "steps", None)) is not None:
        for _, part in steps:
            features = _through(place, part, features)
        return features
    if (transformers := getattr(step, "transformers", None)) is not None:
        return _columns(place, transformers, getattr(step, "remainder", "drop"), features)
    for group in ("transformer_list", "estimators"):  # a union of features; a vote
        if isinstance(parts := getattr(step, group, None), list):
            return [out for part in parts for out in _through(place, part[1], features)]
    if hasattr(inner := getattr(step, "estimator", None), "fit"):  # a search, a calibration
        return _through(place, inner, features)
    return _step(place, step, features)


def _columns(place: str, transformers: Iterable[Any], remainder: Any, features: list[Given]) -> list[Given]:
    out: list[Given] = []
    taken: set[str] = set()
    for _, part, columns in transformers:
        chosen = _chosen(place, columns, features)
        if chosen is None:  # picked when it is trained, by their values
            return []
        taken |= {feature.name for feature in chosen}
        out += _through(place, part, chosen)
    return out + _through(place, remainder, [feature for feature in features if feature.name not in taken])


def _chosen(place: str, columns: Any, features: list[Given]) -> list[Given] | None:
    if callable(columns):
        return None
    if isinstance(columns, slice):
        return features[columns] if not isinstance(columns.start or columns.stop, str) else None
    wanted = [columns] if isinstance(columns, str | int) else list(columns)
    if wanted and all(isinstance(column, bool) for column in wanted):
        return [feature for feature, is_wanted in zip(features, wanted, strict=False) if is_wanted]
    by_name: dict[Any, Given] = dict(enumerate(features)) | {feature.name: feature for feature in features}
    for column in wanted:
        if column not in by_name:
            raise DeclarationError(
                place,
                found=f"the column {column!r}",
                expected=f"the name of a feature: {', '.join(feature.name for feature in features)}",
                do="name the columns after the features",
            )
    return [by_name[column] for column in wanted]


def _step(place: str, step: Any, features: list[Given]) -> list[Given]:
    tags = _tags(step)
    if tags is None or tags.no_validation:
        return []
    takes = tags.input_tags
    is_imputer = hasattr(step, "missing_values")
    is_encoder = takes.categorical or takes.string
    takes_text = is_encoder or (is_imputer and getattr(step, "strategy", "") in ("most_frequent", "constant"))
    texts = [feature.name for feature in features if feature.is_text]
    if texts and not takes_text:
        raise DeclarationError(
            place,
            found=f"{', '.join(texts)}: text, given to {_name(step)}",
            expected="numbers",
            do=f"encode it first: {ENCODER}",
        )
    unknown = [feature.name for feature in features if feature.may_be_unknown]
    if unknown and not takes.allow_nan:
        raise DeclarationError(
            place,
            found=f"{', '.join(unknown)}: may be unknown (NaN), given to {_name(step)}",
            expected="a model that takes NaN, or a step before it that fills it",
            do=IMPUTER.format(model=f"{_name(step)}(...)"),
        )
    code = getattr(step, "encoded_missing_value", 0)  # of an ordinal encoder; NaN, the default, stays NaN
    if is_imputer or (is_encoder and code == code):
        features = [feature.filled for feature in features]
    return [feature.encoded for feature in features] if is_encoder else features


def _tags(step: Any) -> Any:
    """What scikit-learn's tags say of a step; None if it has none, or they cannot be asked before it is trained."""
    try:
        return step.__sklearn_tags__()
    except AttributeError:
        return None


def _name(model: Any) -> str:
    return type(model).__name__
