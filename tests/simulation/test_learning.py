"""The life of models in one pipeline: who answers after a restart, a damaged file, another declaration."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from river import linear_model, naive_bayes
from sklearn.linear_model import LogisticRegression

from katmatic.clock import ManualClock
from katmatic.log.codec import decode, decode_predictions, encode
from katmatic.log.memory import MemoryLog
from katmatic.pipeline import Pipeline
from katmatic.records import ALERTS, DECISIONS, MODELS, PREDICTIONS, ModelVersion
from katmatic.state.files import FileCheckpoints
from katmatic.training.dataset import Dataset
from katmatic.training.export import export
from tests.learning import DAY, HOUR, school

NOW = 50 * DAY


def version(folder, number, *, columns=("rate", "seen"), sign=1):
    """A promoted version, with its model in a folder."""
    chance = np.random.default_rng(number)
    values = chance.normal(size=(60, len(columns)))
    rows = Dataset(
        columns=columns, anchor=np.arange(60), key=[("k",)] * 60, at=np.arange(60), values=values, texts={},
        label=(sign * values[:, 0] > 0).astype(float), label_now=np.arange(60), weight=np.ones(60),
        score=np.full(60, np.nan), tables={},
    )  # fmt: skip
    path = folder / str(number)
    export(LogisticRegression().fit(values, rows.label), rows, path, is_binary=True, about={})
    return ModelVersion(
        predictor="absence", version=number, action="promoted", reason="", now=NOW, artifact=str(path), rows=60
    )


class Life:
    """A pipeline over a log that outlives it."""

    def __init__(self, app, folder, log=None, now=NOW):
        self.clock = ManualClock(now)
        self.log = MemoryLog(log) if log else MemoryLog()
        self.pipeline = Pipeline(app, self.log, self.clock, checkpoints=FileCheckpoints(folder / "checkpoints"))
        self.pipeline.recover()

    def lesson(self, pupil, *, wait=HOUR, mood="glad"):
        bell = (self.clock.now() + wait) / 1e6
        self.log.append("expected", [msgspec.json.encode({"student": pupil, "mood": mood, "bell": bell})])
        self.pipeline.drain()
        self.clock.move_to(self.clock.now() + wait)
        self.pipeline.drain()

    def post(self, *records):
        self.log.append(MODELS, [encode(each) for each in records])
        self.pipeline.drain()

    def answers(self):
        blocks = [decode_predictions(value) for _, value in self.log.scan(PREDICTIONS)]
        return [(block.version, block.row(i).state) for block in blocks for i in range(len(block))]

    def alerts(self):
        self.pipeline.turn()
        return [decode(ALERTS, value) for _, value in self.log.scan(ALERTS)]

    def ends(self, *, saved=False):
        if saved:
            self.pipeline.save()
        self.log.close()
        return self.log, self.clock.now()


def test_a_promoted_version_answers_from_the_next_row_on(tmp_path):
    life = Life(school(), tmp_path)
    life.lesson("A")
    life.post(version(tmp_path, 1))
    life.lesson("B")
    assert life.answers() == [(0, "learning"), (1, "ok")]


@pytest.mark.parametrize("saved", [False, True])
def test_after_a_restart_the_same_version_answers(tmp_path, saved):
    life = Life(school(), tmp_path)
    one, two = version(tmp_path, 1), version(tmp_path, 2, sign=-1)
    life.post(one, two)
    life.post(msgspec.structs.replace(one, action="rolled-back"))
    log, now = life.ends(saved=saved)
    again = Life(school(), tmp_path, log, now)
    assert (again.pipeline.scorers["absence"].version, again.pipeline.models["absence"].action) == (1, "rolled-back")


def test_a_version_that_was_damaged_does_not_answer_and_the_one_before_goes_on(tmp_path):
    life = Life(school(), tmp_path)
    one, two = version(tmp_path, 1), version(tmp_path, 2)
    life.post(one)
    (Path(two.artifact) / "arrays.npz").write_bytes(b"damaged")
    life.post(two)
    life.lesson("A")
    assert life.answers() == [(1, "ok")]
    (alert,) = life.alerts()
    assert alert.name == "model-not-loaded"
    assert alert.text.startswith("version 2 could not be loaded, version 1 goes on:")
    assert "a file that was changed" in alert.text
    log, now = life.ends()
    assert Life(school(), tmp_path, log, now).pipeline.scorers["absence"].version == 1, "after a restart, too"


def test_a_version_of_other_features_does_not_answer(tmp_path):
    """Found by reading: after features were renamed, the old model answered with the new columns in their places."""
    life = Life(school(), tmp_path)
    life.post(version(tmp_path, 1))
    log, now = life.ends()
    turned = {name: school().predictors["absence"].features[name] for name in ("seen", "rate")}
    again = Life(school(features=turned), tmp_path, log, now)
    again.lesson("A")
    assert again.answers() == [(0, "learning")]
    (alert,) = again.alerts()
    assert "version 1 could not be loaded, nobody answers" in alert.text
    assert "found the features rate, seen, expected seen, rate" in alert.text


@pytest.mark.parametrize(
    "model", [linear_model.LogisticRegression(l2=0.1), naive_bayes.GaussianNB(), LogisticRegression()]
)
def test_another_model_is_declared_and_a_restart_takes_it_up(tmp_path, model):
    """Found by reading: the learner of a checkpoint went on, whatever was declared; without one, nothing started."""
    life = Life(school(linear_model.LogisticRegression()), tmp_path)
    for pupil in "ABC":
        life.lesson(pupil)
    log, now = life.ends(saved=True)
    again = Life(school(model), tmp_path, log, now)
    if hasattr(model, "learn_one"):
        learner = again.pipeline.online["absence"]
        assert type(learner._model) is type(model)
        assert learner.learnt == life.pipeline.online["absence"].learnt > 0, "it has learnt all of the log"
    else:
        assert again.pipeline.online == {}
    again.lesson("D")


@pytest.mark.parametrize("saved", [False, True])
def test_an_online_learner_goes_on_after_a_restart(tmp_path, saved):
    life = Life(school(linear_model.LogisticRegression()), tmp_path)
    for pupil in "ABC":
        life.lesson(pupil)
    before = life.pipeline.online["absence"]
    log, now = life.ends(saved=saved)
    after = Life(school(linear_model.LogisticRegression()), tmp_path, log, now).pipeline.online["absence"]
    assert (after.learnt, dict(after._model.weights)) == (before.learnt, dict(before._model.weights))


@pytest.mark.parametrize("saved", [False, True])
def test_an_anchor_that_was_acted_on_is_not_acted_on_after_a_restart(tmp_path, saved):
    def warned():
        app = school(lead=("40m", "20m"))
        app.predictors["absence"].when(above=0.0)(lambda likely: None)
        return app

    life = Life(warned(), tmp_path)
    life.post(version(tmp_path, 1))
    life.lesson("A", wait=HOUR)
    assert len(life.answers()) == 2
    assert len(list(life.log.scan(DECISIONS))) == 1

    bell = (life.clock.now() + HOUR) / 1e6
    life.log.append("expected", [msgspec.json.encode({"student": "B", "mood": "", "bell": bell})])
    life.pipeline.drain()
    life.clock.move_to(life.clock.now() + HOUR // 2)
    life.pipeline.drain()
    log, now = life.ends(saved=saved)
    again = Life(warned(), tmp_path, log, now)
    again.clock.move_to(now + HOUR)
    again.pipeline.drain()
    assert len(again.answers()) == 4
    assert len(list(again.log.scan(DECISIONS))) == 2, "one for each pupil"
