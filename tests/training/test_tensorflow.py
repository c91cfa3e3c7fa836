"""Keras networks in the learning loop: trained with TensorFlow, answering without it."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from katmatic import past
from katmatic.errors import DeclarationError
from katmatic.predictions.artifact import load
from katmatic.training.dataset import Dataset
from katmatic.training.export import export
from katmatic.training.job import train
from katmatic.training.tensorflow import KerasClassifier, KerasRegressor
from tests.learning import CheckIn, Expected, school
from tests.program import PATIENCE_SECONDS, Program
from tests.training.test_job import World

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # TensorFlow warns of its own code


def network(inputs):
    import keras

    model = keras.Sequential(
        [
            keras.Input((inputs,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss="binary_crossentropy")
    return model


def number(inputs):
    import keras

    model = keras.Sequential([keras.Input((inputs,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(1)])
    model.compile(optimizer=keras.optimizers.Adam(0.05), loss="mse")
    return model


def unlike(inputs):
    """What tf2onnx gets wrong: the statistics of this layer are lost on the way."""
    import keras

    scale = keras.layers.Normalization()
    model = keras.Sequential([keras.Input((inputs,)), scale, keras.layers.Dense(1, activation="sigmoid")])
    scale.adapt(np.random.default_rng(1).normal(3, 2, (100, inputs)))
    model.compile(loss="binary_crossentropy")
    return model


def piped(build=network, **options):
    return make_pipeline(SimpleImputer(), StandardScaler(), KerasClassifier(build, epochs=40, batch_size=32, **options))


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "models")


def test_a_network_learns_is_promoted_and_answers_without_tensorflow(world):
    record = train(school(piped()), "absence", world.log, world.registry, world.folder, now=world.lived(40))
    assert record.action == "promoted", record.reason
    assert world.registry.saved[0][3]["kind"] == "onnx"
    asked = (
        "import sys, numpy as np; from pathlib import Path; from katmatic.predictions.artifact import load; "
        f"found = load(Path({record.artifact!r})).predict(np.array([[2.0, 0.0], [-2.0, 0.0]]), {{}}); "
        "assert not {'tensorflow', 'keras', 'sklearn'} & set(sys.modules), 'they are not needed to answer'; "
        "print(*found)"
    )
    ran = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    likely, unlikely = map(float, ran.stdout.split())
    assert likely > 0.7 > 0.3 > unlikely


def test_a_network_that_the_export_gets_wrong_is_not_believed(world):
    app = school(piped(unlike))
    record = train(app, "absence", world.log, world.registry, world.folder, now=world.lived(40))
    assert record.action == "failed"
    assert world.registry.saved == []


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("keras", "no TensorFlow to train it with: .*pip install 'katmatic\\[tensorflow\\]'"),
        ("onnxruntime", "no ONNX Runtime to answer with, expected it; install it: pip install 'katmatic\\[onnx\\]'"),
    ],
)
def test_what_is_not_installed_is_named(world, monkeypatch, missing, words):
    """Found by running: "correct it", and "train again, or roll back"."""
    monkeypatch.setitem(sys.modules, missing, None)
    record = train(school(piped()), "absence", world.log, world.registry, world.folder, now=world.lived(40))
    assert record.action == "failed"
    assert re.search(words, record.reason), record.reason


APP = """
from tests.apps import door
from tests.training.test_tensorflow import piped

app = door(model=piped())
"""


def test_a_running_pipeline_answers_with_a_network_and_never_loads_tensorflow(katmatic, recorded, tmp_path):
    """The whole loop: declared in a file, trained by itself, exported, proved, promoted, and asked over HTTP."""
    (tmp_path / "app.py").write_text(APP, "utf-8")
    assert katmatic("replay", "app.py", *recorded)[0] == 0
    program = Program("run", tmp_path / "app.py", said=tmp_path / "said")
    try:
        program.start().until(lambda found: found["models"]["open"]["version"] == 1, seconds=6 * PATIENCE_SECONDS)
        program.ask("/v1/events/ring", {"visitor": "v1", "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})
        found = program.until(lambda found: found["version"] == 1, "/v1/predictions/open/v1")
        assert 0 <= found["probability"] <= 1
        loaded = Path(f"/proc/{program.process.pid}/maps").read_text("utf-8")
        assert "onnxruntime" in loaded
        assert "tensorflow" not in loaded
    finally:
        program.end()


def test_unknown_values_are_refused_on_import():
    features = {"since": past.since(CheckIn, by=Expected.student)}
    with pytest.raises(DeclarationError, match=r"since: may be unknown \(NaN\), given to KerasClassifier"):
        school(KerasClassifier(network), features=features)


@pytest.fixture
def table():
    random = np.random.default_rng(3)
    x = random.normal(size=(600, 2))
    return x, (x[:, 0] > 0).astype(float), 2 * x[:, 0] - x[:, 1]


def test_the_same_seed_is_the_same_network(table):
    x, y, _ = table
    one, two = (KerasClassifier(network, epochs=2).fit(x, y).predict_proba(x)[:, 1] for _ in range(2))
    assert np.array_equal(one, two)
    other = KerasClassifier(network, epochs=2, seed=1).fit(x, y).predict_proba(x)[:, 1]
    assert not np.allclose(one, other)


def test_weights_count(table):
    x, y, _ = table
    believed = KerasClassifier(network, epochs=5).fit(x, y, sample_weight=np.where(y > 0, 1.0, 0.0))
    assert believed.predict_proba(x)[:, 1].min() > 0.5, "who weighs nothing is not learnt from"
    assert set(believed.predict(x)) == {1.0}


def test_a_number_is_learnt_and_exported(table, tmp_path):
    x, _, y = table
    model = KerasRegressor(number, epochs=60, batch_size=32).fit(x, y)
    assert np.corrcoef(model.predict(x), y)[0, 1] > 0.98
    assert export(model, tabled(x, y), tmp_path / "model", is_binary=False, about={}) == "onnx"
    assert load(tmp_path / "model").predict(x, {}) == pytest.approx(model.predict(x), abs=1e-5)


def tabled(x, y):
    """A training set of two columns."""
    n = len(x)
    return Dataset(
        columns=("a", "b"),
        anchor=np.arange(n),
        key=[("k",)] * n,
        at=np.arange(n),
        values=x,
        texts={},
        label=y,
        label_now=np.zeros(n, np.int64),
        weight=np.ones(n),
        score=np.full(n, np.nan),
        tables={},
    )


def test_what_answers_changes_nothing_in_a_copy(table):
    """A predictor's model is copied before it is trained: the declared one stays as it was."""
    model = KerasClassifier(network)
    copied = copy.deepcopy(model)
    assert repr(copied) == repr(model)
    copied.fit(table[0][:50], table[1][:50])
    assert not hasattr(model, "network_")
