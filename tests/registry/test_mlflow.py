"""Versions of models in a real MLflow, on SQLite."""

from __future__ import annotations

import logging

import pytest

from katmatic.errors import ModelError
from katmatic.registry.base import Run
from katmatic.registry.mlflow import MlflowRegistry


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    """A database is made once: that takes MLflow a second."""
    return f"sqlite:///{tmp_path_factory.mktemp('registry of MLflow') / 'registry.db'}"


@pytest.fixture
def registry(uri):
    return MlflowRegistry(uri)


def saved(registry, predictor, folder, n=1):
    return [registry.save(predictor, folder, run(metrics={"log_loss": 1 / i})) for i in range(1, n + 1)]


def run(**told):
    return Run(**({"application": "school", "metrics": {"log_loss": 0.5}, "tags": {"kind": "trees"}} | told))


def test_a_predictor_that_was_never_trained_has_no_version(registry):
    assert registry.versions("never") == []
    assert registry.champion("never") is None


def test_versions_count_from_one_for_each_predictor(registry, tmp_path):
    assert saved(registry, "counted", tmp_path, 3) == [1, 2, 3]
    assert saved(registry, "counted-too", tmp_path) == [1]
    assert [each.version for each in registry.versions("counted")] == [1, 2, 3]


def test_a_version_is_remembered_with_all_that_was_said_of_it(registry, tmp_path):
    folder = tmp_path / "models of a term" / "1"
    folder.mkdir(parents=True)
    registry.save("absence", folder, run(metrics={"log_loss": 0.1 + 0.2, "brier": 1e-9}))
    (found,) = registry.versions("absence")
    assert (found.predictor, found.version, found.folder, found.is_champion) == ("absence", 1, str(folder), False)
    assert found.metrics == {"log_loss": 0.1 + 0.2, "brier": 1e-9}, "to the last bit"
    assert found.tags == {"kind": "trees"}


def test_one_version_is_champion_and_one_can_go_back(registry, tmp_path):
    saved(registry, "rolled", tmp_path, 3)
    for version in (2, 3, 1):
        registry.promote("rolled", version)
        assert registry.champion("rolled").version == version
        assert [each.version for each in registry.versions("rolled") if each.is_champion] == [version]


def test_the_newest_is_challenger_until_it_is_champion(registry, tmp_path):
    def aliases():
        return {name: int(version) for name, version in registry._client.get_registered_model("alias").aliases.items()}

    saved(registry, "alias", tmp_path)
    assert aliases() == {"challenger": 1}
    registry.promote("alias", 1)
    assert aliases() == {"champion": 1}
    saved(registry, "alias", tmp_path)
    assert aliases() == {"champion": 1, "challenger": 2}


def test_a_version_that_is_not_there_is_no_champion(registry, tmp_path):
    saved(registry, "refused", tmp_path, 2)
    registry.promote("refused", 1)
    with pytest.raises(ModelError, match=r"refused: found version 9, expected one of \[1, 2\]; choose one of these"):
        registry.promote("refused", 9)
    assert registry.champion("refused").version == 1
    with pytest.raises(ModelError, match=r"expected one of \[\]"):
        registry.promote("never", 1)


def test_a_second_look_at_the_same_file_finds_the_same(registry, uri, tmp_path):
    saved(registry, "kept", tmp_path, 2)
    registry.promote("kept", 1)
    assert MlflowRegistry(uri).versions("kept") == registry.versions("kept")


def test_an_empty_file_becomes_a_registry_without_a_word(tmp_path, capfd):
    MlflowRegistry(f"sqlite:///{tmp_path / 'new.db'}").versions("absence")
    assert capfd.readouterr() == ("", "")
    assert not logging.getLogger("mlflow.store.db.utils").isEnabledFor(logging.INFO)


def test_a_registry_that_cannot_be_reached_is_not_an_empty_one(registry, monkeypatch):
    """Found by reading: an outage looked like a predictor without versions."""
    from mlflow.exceptions import MlflowException

    def down(name):
        raise MlflowException("connection refused")

    monkeypatch.setattr(registry._client, "get_registered_model", down)
    with pytest.raises(MlflowException):
        registry.versions("absence")
