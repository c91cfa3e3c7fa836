"""Settings: a file, the environment, the command line; each over the one before."""

from __future__ import annotations

import pytest

from katmatic.errors import SettingsError
from katmatic.settings import Settings, read


def test_without_anything_they_are_those_of_a_laptop():
    assert read({}) == Settings()
    assert read({}).host == "127.0.0.1"


def test_each_goes_over_the_one_before(tmp_path):
    file = tmp_path / "katmatic.toml"
    file.write_text('port = 1\nbatch = 2\ntick = 3\ndata = "file"\n', "utf-8")
    found = read({"KATMATIC_PORT": "10", "KATMATIC_BATCH": "20", "PATH": "/bin"}, file, port=100, data=None)
    assert (found.port, found.batch, found.tick, found.data) == (100, 20, 3.0, "file")


def test_a_file_that_is_not_there_is_none(tmp_path):
    assert read({}, tmp_path / "katmatic.toml") == Settings()


@pytest.mark.parametrize(
    ("text", "expected"), [("true", True), ("1", True), ("TRUE", True), ("false", False), ("0", False)]
)
def test_yes_and_no(text, expected):
    assert read({"KATMATIC_TRAINING": text}).training is expected


@pytest.mark.parametrize(
    ("environment", "toml", "words"),
    [
        ({"KATMATIC_PORT": "eighty"}, "", "setting port: found 'eighty', expected a value of type int"),
        ({"KATMATIC_TRAINING": "perhaps"}, "", "setting training: found 'perhaps', expected a value of type bool"),
        ({"KATMATIC_TICK": ""}, "", "setting tick: found '', expected a value of type float"),
        ({"KATMATIC_PROT": "80"}, "", "setting prot: found no such setting"),
        ({}, "prot = 80", "expected one of batch, data, host, log, models, port"),
        ({}, "data = 7", "setting data: found 7, expected a value of type str"),
        ({}, "port = [1]", "setting port: found [1], expected a value of type int"),
        ({}, "port = = 1", "katmatic.toml: found"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, environment, toml, words):
    file = tmp_path / "katmatic.toml"
    file.write_text(toml, "utf-8")
    with pytest.raises(SettingsError) as refused:
        read(environment, file)
    assert words in str(refused.value)


def test_a_file_in_another_encoding_is_refused(tmp_path):
    file = tmp_path / "katmatic.toml"
    file.write_bytes('data = "Schüler"'.encode("latin-1"))
    with pytest.raises(SettingsError, match=r"katmatic\.toml"):
        read({}, file)


def test_what_only_the_tests_read_is_no_setting():
    assert read({"KATMATIC_KAFKA": "localhost:9092", "KATMATIC_MAVEN": "x"}) == Settings()


def test_where_models_are_put_is_the_same_from_every_folder(tmp_path, monkeypatch):
    """Found by running: `--models here` stood on the log as it was, and a pipeline elsewhere did not find them."""
    monkeypatch.chdir(tmp_path)
    assert Settings(models="here").artifacts == str(tmp_path / "here")
    assert Settings(data="data").artifacts == str(tmp_path / "data" / "models")
    assert Settings(models="s3://bucket/models?scheme=http").artifacts == "s3://bucket/models?scheme=http"
