"""The archive of a log, in a folder and in a bucket: it says what the log says, whatever happens to the archiver."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from katmatic.errors import LogError, PlaceError
from katmatic.log import archive
from katmatic.log.archive import Archive
from katmatic.log.kafka import KafkaHistory, KafkaLog
from katmatic.log.sqlite import SqliteLog, open_readonly
from katmatic.places import Place
from katmatic.records import LABELS, MODELS, PREDICTIONS
from tests.components import need_kafka, topics_of
from tests.object_store import CREDENTIALS, object_store
from tests.program import ENVIRONMENT, free_port


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    with object_store(tmp_path_factory.mktemp("store")) as address:
        yield address


@pytest.fixture(params=["folder", "s3"])
def address(request, tmp_path, monkeypatch):
    if request.param == "folder":
        return str(tmp_path / "archive")
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    base, _, options = request.getfixturevalue("bucket").partition("?")
    return f"{base}/{tmp_path.name}?{options}"


@pytest.fixture
def log(tmp_path):
    with closing(SqliteLog(tmp_path / "log.db")) as found:
        yield found


@pytest.fixture
def kafka(tmp_path):
    with closing(KafkaLog(f"kafka://{need_kafka()}/{topics_of(tmp_path)}", "school", ["gate"])) as found:
        yield found


def lives(log, turns, first=0):
    """Batches of two topics, of ticks, and of what is written and fed."""
    for turn in range(first, first + turns):
        if turn % 3:
            log.append("gate", [b"gate %d" % turn, b""])
            log.append("bell", [b"bell %d" % turn])
            log.append("gate", [b"again"])
        written = {LABELS: [b"label %d" % turn] * (turn % 4)} if turn % 5 else {PREDICTIONS: [bytes(range(256))]}
        log.commit(log.read(turn, limit=3), written, {MODELS: [b"model %d" % turn]} if turn % 7 == 0 else {})


def says(history):
    return {
        "batches": [
            (b.sequence, b.now, [(s.topic, s.first, list(s.values)) for s in b.slices]) for b in history.batches()
        ],
        **{topic: list(history.scan(topic)) for topic in ("gate", "bell", LABELS, PREDICTIONS, MODELS, "never")},
        "ends": [history.end(topic) for topic in ("gate", "bell", LABELS, PREDICTIONS, MODELS, "never")],
    }


def test_it_says_what_the_log_says(address, log):
    lives(log, 60)
    found = Archive(address, "school")
    added = found.extend(log)
    assert says(found) == says(log)
    assert added["records"] == sum(len(each) for topic, each in says(log).items() if topic not in ("batches", "ends"))
    assert found.extend(log) == {"records": 0, "files": 0}
    lives(log, 20, first=60)
    assert found.extend(log)["files"] == 3
    again = Archive(address, "school")
    assert says(again) == says(log)
    middle = says(log)["batches"][30][0]
    assert [b.sequence for b in again.batches(middle)] == [b.sequence for b in log.batches(middle)]
    assert list(again.scan(LABELS, 5, 9)) == list(log.scan(LABELS, 5, 9))
    assert list(again.scan("gate", 5, 90)) == list(log.scan("gate", 5, 90))


@pytest.mark.slow
def test_a_log_on_kafka_is_archived_alike(tmp_path, kafka):
    lives(kafka, 30)
    history = KafkaHistory(f"kafka://{need_kafka()}/{topics_of(tmp_path)}", "school")
    found = Archive(str(tmp_path / "archive"), "school")
    found.extend(history)
    lives(kafka, 10, first=30)
    found.extend(history)
    assert says(found) == says(kafka)


def test_of_nothing_there_is_nothing(address, log):
    found = Archive(address, "school")
    assert found.extend(log) == {"records": 0, "files": 0}
    assert says(found)["batches"] == []
    assert found.end(LABELS) == 0


def test_many_files_are_one_log(address, log, monkeypatch):
    monkeypatch.setattr(archive, "FILE_RECORDS", 7)
    lives(log, 60)
    found = Archive(address, "school")
    assert found.extend(log)["files"] > 20
    assert says(found) == says(log)


def test_two_archivers_at_once_lose_and_double_nothing(address, log):
    lives(log, 20)
    one, other = Archive(address, "school"), Archive(address, "school")
    one._look = other._look = lambda: None  # each as it was before the other wrote
    one.extend(log)
    lives(log, 20, first=20)
    other.extend(log)
    lives(log, 20, first=40)
    found = Archive(address, "school")
    assert says(found)["batches"] == says(log)["batches"][: len(says(found)["batches"])]
    found.extend(log)
    assert says(found) == says(log)


def test_others_can_read_the_events(tmp_path, log):
    lives(log, 20)
    Archive(str(tmp_path / "archive"), "school").extend(log)
    (file,) = (tmp_path / "archive" / "school" / "events").iterdir()
    table = pq.read_table(file, filters=[("topic", "=", "bell")])
    assert table.column_names == ["topic", "position", "sequence", "now", "value"]
    assert table["value"].to_pylist() == [value for _, value in log.scan("bell")]
    assert str(table.schema.field("now").type) == "timestamp[us, tz=UTC]"
    assert pq.ParquetFile(file).num_row_groups >= 3, "one topic is read without the others"


def test_a_damaged_or_a_missing_file_is_told(tmp_path, log):
    lives(log, 20)
    Archive(str(tmp_path / "archive"), "school").extend(log)
    (file,) = (tmp_path / "archive" / "school" / "events").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    found = Archive(str(tmp_path / "archive"), "school")
    with pytest.raises(LogError, match=rf"{file.name}: found .*expected a file of the archive"):
        list(found.batches())
    file.unlink()
    with pytest.raises(LogError, match="expected a file of the archive"):
        list(found.scan("gate"))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("ftp://x/y", "an address of another kind"),
        ("s3://", "expected an address as s3://bucket/path"),
    ],
)
def test_an_address_that_means_nothing_is_refused(wrong, words):
    with pytest.raises(PlaceError, match=words):
        Archive(wrong, "school")


def test_google_clouds_addresses_are_known():
    assert type(Place("gs://bucket/logs")._files).__name__ == "GcsFileSystem"
    assert (Place("gcs://bucket/logs") / "school")._path == "bucket/logs/school"


def test_google_cloud_is_not_tried_for_a_quarter_of_an_hour(monkeypatch):
    """Found by running: without credentials nothing was said for so long."""
    monkeypatch.setattr("katmatic.places.GOOGLE_RETRY_SECONDS", 1)
    address = f"gs://anonymous@bucket/logs?scheme=http&endpoint_override=127.0.0.1:{free_port()}"
    with pytest.raises(PlaceError, match="expected a place to read and write"):
        Archive(address, "school")


def test_a_secret_does_not_belong_into_an_address():
    """Found by running: it was told in errors, and kept with each model on the log and in MLflow."""
    with pytest.raises(PlaceError, match="found a secret in the address") as told:
        Archive("s3://key:hidden@bucket/logs?scheme=http", "school")
    assert "hidden" not in str(told.value)


def test_a_bucket_that_is_not_there_is_told(bucket, log, monkeypatch):
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    lives(log, 3)
    with pytest.raises(PlaceError, match="expected a place to read and write"):
        Archive(bucket.replace("s3://school", "s3://nobody"), "school").extend(log)


@pytest.mark.slow
def test_an_archiver_that_is_killed_again_and_again_loses_and_doubles_nothing(tmp_path, log):
    text = "import sys; from katmatic.log import archive; from katmatic.log.sqlite import open_readonly\n"
    text += "archive.FILE_RECORDS = 5\n"
    text += "archive.Archive(sys.argv[2], 'school').extend(open_readonly(sys.argv[1]))\n"
    where = (str(tmp_path / "log.db"), str(tmp_path / "archive"))
    lives(log, 400)
    for wait in (0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6):
        archiver = subprocess.Popen([sys.executable, "-c", text, *where], env=ENVIRONMENT)
        try:
            archiver.wait(wait)
        except subprocess.TimeoutExpired:
            archiver.send_signal(signal.SIGKILL)
        archiver.wait()
        found = says(Archive(where[1], "school"))
        assert found["batches"] == says(log)["batches"][: len(found["batches"])]
    subprocess.run([sys.executable, "-c", text, *where], env=ENVIRONMENT, check=True)
    with closing(open_readonly(Path(where[0]))) as history:
        assert says(Archive(where[1], "school")) == says(history)
