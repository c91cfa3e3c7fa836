"""Exported models answer like the models themselves; a folder that was changed is refused."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import replace

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from katmatic.errors import ModelError
from katmatic.predictions.artifact import answers, load
from katmatic.training.dataset import Dataset
from katmatic.training.export import export


def rows_of(n=300, *, seed=1, holes=False, texts=False, width=5):
    """A training set: two of the features matter; a third of each is unknown, if there are `holes`."""
    chance = np.random.default_rng(seed)
    values = chance.normal(size=(n, width))
    label = (values[:, 0] + values[:, 1] ** 2 + chance.normal(size=n) > 1).astype(float)
    if holes:
        values[chance.random(values.shape) < 0.3] = np.nan
    moods = chance.choice(["glad", "sad", "calm"], n).tolist()
    moods[::9] = [None] * len(moods[::9])
    return Dataset(
        columns=tuple(f"f{j}" for j in range(width)),
        anchor=np.arange(n),
        key=[("k",)] * n,
        at=np.arange(n),
        values=values,
        texts={"f0": moods} if texts else {},
        label=label,
        label_now=np.arange(n),
        weight=np.ones(n),
        score=np.full(n, np.nan),
        tables={},
    ).with_tables()


def exported(model, rows, folder, *, is_binary=True):
    fitted = model.fit(rows.matrix(), rows.label.astype(int) if is_binary else rows.values[:, 0])
    kind = export(fitted, rows, folder, is_binary=is_binary, about={"trained_at": 7})
    return fitted, kind


CLASSIFIERS = [
    (LogisticRegression(), "linear", False),
    (SGDClassifier(loss="log_loss", random_state=1), "linear", False),
    (make_pipeline(StandardScaler(), LogisticRegression()), "linear", False),
    (make_pipeline(SimpleImputer(add_indicator=True), StandardScaler(), LogisticRegression()), "linear", True),
    (make_pipeline(SimpleImputer(strategy="median"), LogisticRegression()), "linear", True),
    (DecisionTreeClassifier(max_depth=5), "trees", True),
    (RandomForestClassifier(20, random_state=1), "trees", True),
    (ExtraTreesClassifier(20, random_state=1), "trees", True),
    (make_pipeline(SimpleImputer(), RandomForestClassifier(20, random_state=1)), "trees", True),
    (GradientBoostingClassifier(n_estimators=20), "pickled", False),
    (HistGradientBoostingClassifier(max_iter=30), "trees", True),
    (HistGradientBoostingClassifier(max_iter=10, class_weight="balanced"), "trees", True),
    (HistGradientBoostingClassifier(max_iter=10, categorical_features=[0]), "pickled", True),
    (GaussianNB(), "pickled", False),
]


@pytest.mark.parametrize(
    ("model", "kind", "takes_holes"),
    CLASSIFIERS,
    ids=lambda value: (getattr(value, "steps", None) and "pipeline") or type(value).__name__,
)
def test_an_export_answers_like_its_model(tmp_path, model, kind, takes_holes):
    rows = rows_of(holes=takes_holes)
    if "categorical_features=[0]" in repr(model):
        rows = replace(rows, values=np.column_stack([np.arange(300) % 4.0, rows.values[:, 1:]]))
    fitted, found = exported(model, rows, tmp_path)
    assert found == kind
    new = rows_of(1000, seed=2, holes=takes_holes)
    if kind == "pickled" and takes_holes:
        new = replace(new, values=np.column_stack([np.arange(1000) % 4.0, new.values[:, 1:]]))
    told = load(tmp_path).predict(new.values, {})
    np.testing.assert_allclose(told, fitted.predict_proba(new.values)[:, 1], rtol=1e-12, atol=1e-15)


REGRESSORS = [
    (LinearRegression(), "linear", False),
    (make_pipeline(SimpleImputer(), Ridge()), "linear", True),
    (RandomForestRegressor(20, random_state=1), "trees", True),
    (HistGradientBoostingRegressor(max_iter=30), "trees", True),
    (HistGradientBoostingRegressor(max_iter=30, loss="poisson"), "pickled", True),
]


@pytest.mark.parametrize(("model", "kind", "takes_holes"), REGRESSORS, ids=lambda value: type(value).__name__)
def test_an_export_gives_the_number_of_its_model(tmp_path, model, kind, takes_holes):
    rows = rows_of(holes=takes_holes)
    target = np.abs(np.nan_to_num(rows.values[:, 0])) * 3 + 1
    fitted = model.fit(rows.values, target)
    assert export(fitted, rows, tmp_path, is_binary=False, about={}) == kind
    new = rows_of(1000, seed=2, holes=takes_holes)
    np.testing.assert_allclose(load(tmp_path).predict(new.values, {}), fitted.predict(new.values), rtol=1e-10)


@pytest.mark.parametrize("model", [RandomForestClassifier(30, random_state=3), HistGradientBoostingClassifier()])
def test_unknown_values_go_where_the_model_sends_them_even_if_it_never_saw_one(tmp_path, model):
    fitted, kind = exported(model, rows_of(), tmp_path)
    assert kind == "trees"
    new = rows_of(500, seed=2, holes=True)
    np.testing.assert_allclose(
        load(tmp_path).predict(new.values, {}), fitted.predict_proba(new.values)[:, 1], rtol=1e-12
    )


def test_a_text_that_was_never_seen_is_unknown(tmp_path):
    rows = rows_of(texts=True)
    encode = ColumnTransformer([("mood", OneHotEncoder(handle_unknown="ignore"), [0])], remainder="passthrough")
    fitted, _ = exported(make_pipeline(encode, LogisticRegression()), rows, tmp_path)
    table = rows.tables["f0"]
    new = rows_of(4, seed=3)
    told = load(tmp_path).predict(new.values, {"f0": [table[0], "furious", None, table[2]]})
    x = new.values.copy()
    x[:, 0] = [0, np.nan, np.nan, 2]
    np.testing.assert_allclose(told, fitted.predict_proba(x)[:, 1])
    assert told[0] != told[1]


def test_a_feature_that_was_text_and_comes_without_is_unknown(tmp_path):
    fitted, _ = exported(HistGradientBoostingClassifier(), rows_of(texts=True), tmp_path)
    new = rows_of(3, seed=3)
    x = new.values.copy()
    x[:, 0] = np.nan
    np.testing.assert_allclose(load(tmp_path).predict(new.values, {}), fitted.predict_proba(x)[:, 1], rtol=1e-12)


@pytest.mark.parametrize(
    "fitted",
    [
        RandomForestClassifier(30, random_state=3),
        make_pipeline(SimpleImputer(add_indicator=True), StandardScaler(), LogisticRegression()),
    ],
    ids=["trees", "linear"],
)
def test_one_row_and_many_get_the_same_answers(tmp_path, fitted):
    """Of a linear model the last bits of a row's score once depended on the rows beside it."""
    exported(fitted, rows_of(holes=True), tmp_path)
    model, new = load(tmp_path), rows_of(50, seed=2, holes=True).values
    assert [model.predict(new[i : i + 1], {})[0] for i in range(50)] == model.predict(new, {}).tolist()


class Zeroing(GaussianNB):
    """It fills what is unknown in the table that it is given."""

    def predict_proba(self, rows):
        rows[np.isnan(rows)] = 0.0
        return super().predict_proba(rows)


def test_a_model_cannot_change_what_was_served(tmp_path):
    exported(Zeroing(), rows_of(), tmp_path)
    served = np.full((3, 5), np.nan)
    assert np.isfinite(load(tmp_path).predict(served, {})).all()
    assert np.isnan(served).all()


def test_what_one_class_only_was_shown_to_says_never():
    fitted = DecisionTreeClassifier().fit([[0.0], [1.0]], [0, 0])
    assert answers(fitted, np.zeros((2, 1)), is_binary=True).tolist() == [0.0, 0.0]


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.fixture
def folder(tmp_path):
    exported(RandomForestClassifier(5, random_state=1), rows_of(), tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["model.json", "arrays.npz"])
def test_a_file_that_was_changed_is_refused(folder, name):
    file = folder / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(ModelError, match="a file that was changed"):
        load(folder)


@pytest.mark.parametrize("name", ["manifest.json", "model.json", "arrays.npz"])
def test_a_file_that_is_gone_is_refused(folder, name):
    (folder / name).unlink()
    with pytest.raises(ModelError, match="the files of an exported model"):
        load(folder)


@pytest.mark.parametrize("manifest", [b"", b"{", b"[]", b"{}", b'{"model.json": "00"}'])
def test_a_manifest_that_does_not_name_the_files_is_refused(folder, manifest):
    (folder / "manifest.json").write_bytes(manifest)
    with pytest.raises(ModelError):
        load(folder)


def test_a_model_that_does_not_give_its_known_answers_is_refused(folder):
    import hashlib

    with np.load(folder / "arrays.npz") as found:
        arrays = dict(found)
    arrays["value"] = arrays["value"] * 0.5  # as by a mistake of an exporter: well-formed, and wrong
    np.savez(folder / "arrays.npz", **arrays)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["arrays.npz"] = hashlib.sha256((folder / "arrays.npz").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match="answers that differ by"):
        load(folder)


class Fragile(GaussianNB):
    """It can be pickled, and not be read again."""

    def __setstate__(self, state):
        raise ImportError("no module named 'exotic'")


def test_a_model_whose_library_is_not_here_is_refused(tmp_path):
    """Found by reading: an ImportError of a pickle went through and stopped the pipeline."""
    exported(Fragile(), rows_of(), tmp_path)
    with pytest.raises(ModelError, match="ImportError: no module named 'exotic'"):
        load(tmp_path)


class Locked(GaussianNB):
    """It holds what cannot be pickled."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


def test_a_model_that_cannot_be_pickled_is_refused_with_its_name(tmp_path):
    with pytest.raises(ModelError, match=r"Locked: found TypeError: cannot pickle"):
        exported(Locked(), rows_of(), tmp_path)


def test_a_version_remembers_its_columns_and_its_moment(folder):
    model = load(folder)
    assert (model.columns, model.trained_at) == (("f0", "f1", "f2", "f3", "f4"), 7)


def test_rows_of_another_width_are_refused_and_not_read_past_their_end(tmp_path):
    exported(make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()), rows_of(holes=True), tmp_path)
    model = load(tmp_path)
    with pytest.raises(ValueError, match="5 features"):
        model.predict(np.zeros((3, 4)), {})


@pytest.mark.parametrize("name", ["coef", "mean1", "scale1"])
def test_a_linear_model_whose_arrays_do_not_agree_is_refused(tmp_path, name):
    exported(make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()), rows_of(holes=True), tmp_path)
    with np.load(tmp_path / "arrays.npz") as found:
        arrays = dict(found)
    arrays[name] = arrays[name][:-1]
    np.savez(tmp_path / "arrays.npz", **arrays)
    manifest = json.loads((tmp_path / "manifest.json").read_text("utf-8"))
    manifest["arrays.npz"] = hashlib.sha256((tmp_path / "arrays.npz").read_bytes()).hexdigest()
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(ModelError, match="arrays of"):
        load(tmp_path)
