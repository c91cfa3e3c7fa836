"""Versions of models in a real MLflow, on SQLite."""

from __future__ import annotations

import logging

import pytest

from katmatic.errors import ModelError, RegistryError
from katmatic.registry.base import Run
from katmatic.registry.mlflow import MlflowRegistry
from tests.program import free_port


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    """A database is made once: that takes MLflow a second."""
    return f"sqlite:///{tmp_path_factory.mktemp('registry of MLflow') / 'registry.db'}"


@pytest.fixture
def registry(uri):
    return MlflowRegistry(uri)


def saved(registry, predictor, folder, n=1):
    return [registry.save(predictor, folder / str(i), run(metrics={"log_loss": 1 / i})) for i in range(1, n + 1)]


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
    saved(registry, "alias", tmp_path / "more")
    assert aliases() == {"champion": 1, "challenger": 2}
    saved(registry, "alias", tmp_path)
    assert aliases() == {"champion": 1, "challenger": 2}, "who answers is no challenger"


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
    with pytest.raises(RegistryError, match=r"MLflow at sqlite:.*found MlflowException: connection refused"):
        registry.versions("absence")


def test_a_server_that_is_down_is_told_in_four_parts(monkeypatch, tmp_path):
    """Found by running: a traceback, after four minutes."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    address = f"http://127.0.0.1:{free_port()}"
    words = (
        rf"MLflow at {address}: found MlflowException: .*refused.*, expected a registry that answers; see that it runs"
    )
    for ask in (lambda r: r.champion("a"), lambda r: r.promote("a", 1), lambda r: r.save("a", str(tmp_path), run())):
        with pytest.raises(RegistryError, match=words):
            ask(MlflowRegistry(address))
    with pytest.raises(RegistryError, match="found UnsupportedModelRegistryStoreURIException"):
        MlflowRegistry("mlflow:5000")


def test_what_broke_off_half_way_is_not_registered_twice(registry, tmp_path, monkeypatch):
    """Found by running: the version was there, its alias was not, and the task that was retried made another."""
    with monkeypatch.context() as broken:
        broken.setattr(registry._client, "set_registered_model_alias", lambda *_: 1 / 0)
        with pytest.raises(RegistryError, match="ZeroDivisionError"):
            saved(registry, "once", tmp_path)
    assert saved(registry, "once", tmp_path) == [1]
    assert [each.version for each in registry.versions("once")] == [1]
    assert int(registry._client.get_registered_model("once").aliases["challenger"]) == 1


def test_versions_of_two_applications_do_not_mix(registry, tmp_path):
    """Found by reading: on a server that two share, each would have promoted the other's models."""
    saved(registry, "mine", tmp_path)
    with pytest.raises(RegistryError, match="found versions of the application 'school', expected those of 'shop'"):
        registry.save("mine", tmp_path / "other", run(application="shop"))
    assert len(registry.versions("mine")) == 1


def test_a_model_of_many_parameters_is_told_of(registry, tmp_path):
    """Found by reading: MLflow takes a hundred a request."""
    params = {f"model.{i}": "x" * 5_000 for i in range(250)}
    registry.save("many", tmp_path, run(params=params))
    told = registry._client.get_run(registry._client.get_model_version("many", "1").run_id).data.params
    assert told == params
