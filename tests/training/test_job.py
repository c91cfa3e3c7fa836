"""One training, from the rows of a log to the record of what came of it."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.tree import DecisionTreeClassifier

from katmatic import Promote, Retrain
from katmatic.errors import ModelError
from katmatic.log.memory import MemoryLog
from katmatic.predictions.artifact import load
from katmatic.registry.base import Version
from katmatic.training.job import train
from tests.learning import MINUTE, a_term, after, asked, known, school, write


class Registry:
    """A registry in memory."""

    def __init__(self):
        self.saved, self.runs, self.promoted = [], [], None

    def save(self, predictor, folder, run):
        self.runs.append(run)
        self.saved.append((predictor, folder, run.metrics, run.tags))
        return len(self.saved)

    def promote(self, predictor, version):
        if not 1 <= version <= len(self.saved):
            raise ModelError(predictor, found=str(version), expected="a version", do="choose one")
        self.promoted = version

    def champion(self, predictor):
        return next((each for each in self.versions(predictor) if each.is_champion), None)

    def versions(self, predictor):
        return [
            Version(predictor, n, folder, metrics, tags, n == self.promoted)
            for n, (_, folder, metrics, tags) in enumerate(self.saved, 1)
        ]


class World:
    """A log, a registry and a folder, in which trainings follow each other."""

    def __init__(self, folder):
        self.log, self.registry, self.folder = MemoryLog(), Registry(), folder

    def lived(self, days, *, seed=1, learnable=True, first=0):
        """So many days are in the log; the last of them ended at the moment that comes back."""
        predictions, labels = a_term(days, seed=seed, learnable=learnable, start=after(first))
        predictions = [asked(b.anchor + 1000 * first, b.time, values=b.values) for b in predictions]
        labels = [known(b.anchor + 1000 * first, b.time, b.value.tolist()) for b in labels]
        write(self.log, predictions=predictions, labels=labels)
        return after(first + days)

    def train(self, app, now, **more):
        """The record of a training, which the log then holds, as it does when the pipeline has read it."""
        record = train(app, "absence", self.log, self.registry, self.folder, now=now, **more)
        write(self.log, models=[record])
        return record


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "models")


def test_the_first_model_is_promoted(world):
    found = world.train(school(), now=world.lived(40))
    assert (found.action, found.version, found.rows) == ("promoted", 1, 280)
    assert found.reason == f"the first model: log_loss {found.metrics['log_loss']:.4f}"
    assert found.metrics["log_loss"] < found.baselines["base rate"]
    assert world.registry.promoted == 1
    told = load(Path(found.artifact)).predict(np.array([[3.0, 0.0], [-3.0, 0.0]]), {})
    assert told[0] > 0.9
    assert told[1] < 0.1


def test_the_version_says_what_it_was_made_from(world):
    found = world.train(school(), now=world.lived(40))
    _, folder, metrics, tags = world.registry.saved[0]
    assert (str(folder), metrics) == (found.artifact, found.metrics)
    assert (tags["kind"], tags["rows"], tags["now"]) == ("linear", "280", str(after(40)))
    facts = json.loads((Path(found.artifact) / "model.json").read_text())
    assert (facts["trained_at"], facts["rows_sha256"]) == (after(40), tags["rows_sha256"])


def test_the_same_log_gives_the_same_training_set_and_the_same_figures(tmp_path):
    worlds = [World(tmp_path / name) for name in ("one", "other")]
    records = [world.train(school(), now=world.lived(40)) for world in worlds]
    assert records[0].metrics == records[1].metrics
    digests = [world.registry.saved[0][3]["rows_sha256"] for world in worlds]
    assert digests[0] == digests[1]


def test_a_first_model_that_is_worse_than_the_base_rate_is_refused(world):
    found = world.train(school(GaussianNB(priors=[0.99, 0.01])), now=world.lived(40, learnable=False))
    assert found.action == "refused"
    assert "no better than the base rate's" in found.reason
    assert (len(world.registry.saved), world.registry.promoted) == (1, None)


def test_a_challenger_that_is_no_better_is_refused_and_the_champion_stays(world):
    world.train(school(), now=world.lived(40))
    found = world.train(school(DummyClassifier()), now=world.lived(40, seed=2, first=40))
    assert (found.action, found.version) == ("refused", 2)
    assert world.registry.promoted == 1
    assert world.registry.saved[1][3]["verdict"] == "refused"


def test_a_better_challenger_is_promoted(world):
    world.train(school(LogisticRegression(C=1e-3)), now=world.lived(20))
    found = world.train(school(), now=world.lived(60, seed=2, first=20))
    assert (found.action, world.registry.promoted) == ("promoted", 2)
    assert "the champion's" in found.reason


def test_a_review_lets_an_earlier_version_answer_if_it_does_better_than_the_new_and_the_one_that_answers(world):
    first = world.train(school(), now=world.lived(40))
    worse = msgspec.structs.replace(world.train(school(DummyClassifier()), now=after(40)), action="promoted")
    write(world.log, models=[worse])
    world.registry.promote("absence", worse.version)
    now = world.lived(40, seed=2, first=40)
    found = world.train(school(DummyClassifier()), now=now, may_go_back=True)
    assert (found.action, found.version, found.artifact, found.now) == ("rolled-back", 1, first.artifact, now)
    assert found.reason.startswith("log_loss 0.")
    assert "; the new version 3 was refused: log_loss" in found.reason
    assert world.registry.promoted == 1
    again = world.train(school(DummyClassifier()), now=now, may_go_back=True)
    assert again.action == "refused", "the first answers again, and none before it does better"


def test_only_a_review_goes_back(world):
    world.train(school(), now=world.lived(40))
    worse = msgspec.structs.replace(world.train(school(DummyClassifier()), now=after(40)), action="promoted")
    write(world.log, models=[worse])
    assert world.train(school(DummyClassifier()), now=world.lived(40, seed=2, first=40)).action == "refused"


def test_a_review_promotes_a_new_version_that_does_better(world):
    world.train(school(LogisticRegression(C=1e-3)), now=world.lived(20))
    found = world.train(school(), now=world.lived(60, seed=2, first=20), may_go_back=True)
    assert (found.action, world.registry.promoted) == ("promoted", 2)


def test_a_margin_is_to_be_beaten(world):
    app = school(promote=Promote(metric="roc_auc", margin=0.2))
    world.train(app, now=world.lived(40))
    found = world.train(app, now=world.lived(40, seed=2, first=40))
    assert found.action == "refused"
    assert "by more than 0.2" in found.reason


def test_the_champion_is_judged_on_rows_that_it_has_not_seen(world):
    by_rank = Promote(metric="roc_auc")
    learnt_by_heart = world.train(school(DecisionTreeClassifier(), promote=by_rank), now=world.lived(40))
    assert learnt_by_heart.action == "promoted"
    found = world.train(school(promote=by_rank), now=world.lived(10, seed=2, first=40))
    assert found.action == "promoted", "on rows that it knew by heart the champion would have been perfect"


def test_with_no_rows_it_fails_and_says_so(world):
    found = world.train(school(), now=after(1))
    assert (found.action, found.version, found.reason) == ("failed", 0, "0 labelled rows of 40")


def test_with_too_few_rows_it_fails_and_is_tried_again_when_there_are_more(world):
    found = world.train(school(), now=world.lived(5))
    assert (found.action, found.reason, found.rows) == ("failed", "35 labelled rows of 40", 35)
    assert world.train(school(), now=world.lived(40, first=5)).action == "promoted"


def test_with_one_class_only_it_fails_and_says_so(world):
    for day in range(10):
        anchors = list(range(day * 7, day * 7 + 7))
        write(world.log, predictions=[asked(anchors, after(day))], labels=[known(anchors, after(day), 0.0)])
    found = world.train(school(), now=after(11))
    assert found.action == "failed"
    assert "found only false labels, expected both; wait for the other" in found.reason
    assert world.registry.saved == []


def test_with_rows_of_one_moment_there_is_nothing_to_judge_by(world):
    anchors = list(range(60))
    truths = [float(anchor % 2) for anchor in anchors]
    write(world.log, predictions=[asked(anchors, after(1))], labels=[known(anchors, after(1), truths)])
    found = world.train(school(), now=after(2))
    assert (found.action, found.rows) == ("failed", 60)
    assert "no rows from before those that it would be judged on" in found.reason
    assert found.not_before == after(1) + 25 * MINUTE + 25 * MINUTE * 5 // 4, "known fifteen and ten minutes later"


def test_what_is_unripe_is_not_learnt_from(world):
    now = world.lived(40)
    early = list(range(90_000, 90_100))
    write(world.log, predictions=[asked(early, now)], labels=[known(early, now, 0.0, now=now - 1)])
    assert world.train(school(), now=now + 1).rows == 280


def test_a_history_keeps_old_rows_out(world):
    app = school(retrain=Retrain(rows=40, history="10d"))
    assert world.train(app, now=world.lived(40)).rows == 70


class Raising(LogisticRegression):
    """It raises, here or there."""

    def __init__(self, where="fit"):
        super().__init__()
        self.where = where

    def fit(self, x, y, sample_weight=None):
        if self.where == "fit":
            raise ArithmeticError("does not converge")
        return super().fit(x, y)

    def predict_proba(self, x):
        if self.where == "predict":
            raise ArithmeticError("has no answer")
        return super().predict_proba(x)


@pytest.mark.parametrize(("where", "text"), [("fit", "does not converge"), ("predict", "has no answer")])
def test_a_model_that_raises_fails_and_says_so(world, where, text):
    found = world.train(school(Raising(where)), now=world.lived(40))
    assert found.action == "failed"
    assert text in found.reason


def test_a_registry_that_is_down_fails_the_training_and_says_so(world, monkeypatch):
    """Found by reading: the process ended with a traceback, and nobody was told why."""

    def down(*args, **more):
        raise ConnectionError("registry.example refused")

    monkeypatch.setattr(world.registry, "save", down)
    found = world.train(school(), now=world.lived(40))
    assert (found.action, found.reason) == ("failed", "ConnectionError: registry.example refused")


def test_a_champion_of_other_features_is_no_rival(world):
    """Found by reading: the old model was asked with the new columns, in their order."""
    world.train(school(), now=world.lived(40))
    fewer = {name: feature for name, feature in school().predictors["absence"].features.items() if name == "rate"}
    found = world.train(school(features=fewer), now=world.lived(10, first=40, seed=2))
    assert (found.action, found.reason[:15]) == ("promoted", "the first model")
    assert load(Path(found.artifact)).columns == ("rate",)


def test_a_champion_whose_folder_is_damaged_is_no_rival(world):
    first = world.train(school(), now=world.lived(40))
    (Path(first.artifact) / "arrays.npz").write_bytes(b"")
    assert world.train(school(), now=world.lived(10, first=40, seed=2)).reason.startswith("the first model")


def test_a_champion_that_cannot_be_reached_is_a_rival_all_the_same(world):
    """Found by running: while its bucket was down, the next model was taken for the first, and had to beat nobody."""
    first = world.train(school(), now=world.lived(40))
    away = "s3://nobody/models?endpoint_override=127.0.0.1:9&scheme=nothing"
    write(world.log, models=[msgspec.structs.replace(first, artifact=away)])
    found = world.train(school(), now=world.lived(10, first=40, seed=2))
    assert (found.action, len(world.registry.saved)) == ("failed", 1)
    assert "expected the files of an exported model" in found.reason


def test_who_may_not_promote_leaves_the_registry_its_champion(world):
    world.train(school(LogisticRegression(C=1e-3)), now=world.lived(20))
    found = world.train(school(), now=world.lived(60, seed=2, first=20), may_promote=False)
    assert (found.action, found.version, world.registry.promoted) == ("promoted", 2, 1)
    assert [tags["verdict"] for *_, tags in world.registry.saved] == ["passed", "passed"]


def test_a_version_is_never_written_over(world):
    now = world.lived(40)
    first, second = world.train(school(), now=now), world.train(school(), now=now)
    assert first.artifact != second.artifact
    load(Path(first.artifact))


def test_after_a_rollback_the_one_that_answers_is_to_be_beaten(world):
    first = world.train(school(LogisticRegression(C=1e-3)), now=world.lived(20))
    second = world.train(school(), now=world.lived(60, seed=2, first=20))
    assert second.action == "promoted"
    write(world.log, models=[msgspec.structs.replace(first, action="rolled-back", now=after(80))])
    third = world.train(school(), now=world.lived(20, seed=3, first=80))
    assert third.action == "promoted", "it is as good as the second, and better than the first"
