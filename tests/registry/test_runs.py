"""A training in a real MLflow, on a file and on a server: what is told of it, and a model that anyone can load."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from katmatic.log.memory import MemoryLog
from katmatic.predictions.artifact import load
from katmatic.records import ModelVersion
from katmatic.registry.base import Run
from katmatic.registry.mlflow import MlflowRegistry
from katmatic.training.job import train
from tests.learning import a_term, after, school, write
from tests.mlflow_server import mlflow_server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of an MLflow tracking server, on loopback."""
    with mlflow_server(tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture(params=["file", "server"])
def trained(request, tmp_path):
    """The address of a registry, its client, the record of two trainings, and the log they learnt from."""
    uri = request.getfixturevalue("server") if request.param == "server" else f"sqlite:///{tmp_path / 'registry.db'}"
    registry, log = MlflowRegistry(uri), MemoryLog()
    predictions, labels = a_term(40)
    write(log, predictions=predictions, labels=labels)
    records = []
    for days in (30, 40):
        records.append(train(school(), "absence", log, registry, tmp_path / "models", now=after(days)))
        write(log, models=records[-1:])
    assert isinstance(records[0], ModelVersion)
    assert records[0].action == "promoted", records[0].reason
    return uri, registry, records, tmp_path


def test_a_training_is_a_run_with_all_that_is_told_of_it(trained):
    _, registry, records, _ = trained
    client = registry._client
    version = client.get_model_version("absence", str(records[0].version))
    run = client.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert client.get_experiment(run.info.experiment_id).name == "katmatic/school"
    assert run.data.params["model"] == "LogisticRegression"
    assert run.data.params["features"] == "rate, seen"
    assert run.data.params["model.C"] == "1.0"
    assert run.data.tags["verdict"] == "passed"
    assert int(run.data.params["rows"]) == records[0].rows
    assert int(run.data.params["log.first"]) < int(run.data.params["log.last"])
    assert len(run.data.tags["declaration"]) == 64
    assert run.data.metrics["log_loss"] == pytest.approx(records[0].metrics["log_loss"])
    days = client.get_metric_history(version.run_id, "by_day/squared_error")
    assert len(days) > 3
    assert [day.step for day in days] == sorted(day.step for day in days)
    assert [day.timestamp for day in days] == sorted(day.timestamp for day in days)
    for rival in ("base_rate", "own_past_rate"):
        assert len(client.get_metric_history(version.run_id, f"by_day/squared_error/{rival}")) == len(days)
    plots = {each.path for each in client.list_artifacts(version.run_id, "plots")}
    assert plots == {"plots/by_day.png", "plots/reliability.png"}


def test_aliases_say_who_answers(trained):
    _, registry, records, _ = trained
    champion = registry.champion("absence")
    promoted = [record for record in records if record.action == "promoted"]
    assert (champion.version, str(champion.folder)) == (promoted[-1].version, promoted[-1].artifact)


def test_a_training_prints_nothing(trained, capfd):
    """Found by running: with a server, two lines of addresses stood before the JSON."""
    _, registry, records, _ = trained
    registry.save("quiet", records[0].artifact, Run(application="school", metrics={}, tags={}))
    assert capfd.readouterr().out == ""


def test_plain_mlflow_loads_the_model_and_it_gives_the_same_answers(trained):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own making
        import mlflow.pyfunc
        import pandas as pd

    uri, registry, _, _ = trained
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    model = mlflow.pyfunc.load_model("models:/absence@champion")
    assert [each.name for each in model.metadata.signature.inputs] == ["rate", "seen"]
    values = np.random.default_rng(1).normal(size=(50, 2))
    told = model.predict(pd.DataFrame(values[:, ::-1], columns=["seen", "rate"]))
    assert told == pytest.approx(load(registry.champion("absence").folder).predict(values, {}))
