"""What Docker Compose is given: the repository's own files are those that a user gets, and they run."""

from __future__ import annotations

import json
import re
import shutil
import time
import urllib.request
from importlib.metadata import version

import pytest
import yaml

from katmatic.deploy import docker
from tests.components import need_docker
from tests.program import ROOT, free_port

TOKEN = "a-token-of-the-tests-0123"
PATIENCE_SECONDS = 180.0
BARE = {"KATMATIC_TOKEN": "", "GRAFANA_PASSWORD": ""}


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((ROOT / docker.COMPOSE).read_text("utf-8"))


@pytest.fixture
def run(katmatic, tmp_path):
    """A function that writes the files of an example's copy; gives back their folder."""

    def write(out):
        code, _, said = katmatic("deploy", "docker", tmp_path / "examples" / "attendance.py", "--out", out)
        assert code == 0, said
        return out

    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    return write


def test_a_user_gets_what_the_repository_has(run, tmp_path):
    written = run(tmp_path)
    names = [path.relative_to(written) for path in (written / "deploy").rglob("*") if path.is_file()]
    assert len(names) == 8
    for name in (docker.COMPOSE, docker.ENVIRONMENT, *names):
        assert (written / name).read_bytes() == (ROOT / name).read_bytes(), f"{name}: make setup, then deploy it again"


@pytest.mark.parametrize(("out", "folder"), [("examples", "."), ("examples/ship", ".."), ("elsewhere", "../examples")])
def test_the_application_is_found_from_wherever_the_files_lie(run, tmp_path, out, folder):
    services = yaml.safe_load((run(tmp_path / out) / docker.COMPOSE).read_text("utf-8"))["services"]
    assert f"{folder}:/app:ro" in services["pipeline"]["volumes"]


def test_only_loopback_is_published_and_no_image_is_the_latest(compose):
    for name, service in compose["services"].items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name}: {port}"
        assert re.search(r":v?\d", service["image"]), f"{name}: {service['image']}"
        assert service["mem_limit"], name
        assert "no-new-privileges:true" in service["security_opt"]
        assert service["cap_drop"] == ["ALL"], name
    assert compose["services"]["pipeline"]["image"] == f"katmatic:{version('katmatic')}"


def test_what_waits_for_a_service_waits_until_it_is_healthy(compose):
    services = compose["services"]
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}, name
            assert "healthcheck" in services[other] or services[other]["image"].startswith("katmatic")


def test_every_volume_and_every_file_is_there(compose):
    used = set()
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (ROOT / source).exists(), source
            else:
                used.add(source)
    assert used == set(compose["volumes"])


def test_no_secret_has_a_default():
    text = (ROOT / docker.COMPOSE).read_text("utf-8")
    for name in BARE:
        assert f"{{{name}:?" in text
        assert not re.search(rf"\{{{name}:?-", text)
        assert f"\n{name}=\n" in (ROOT / docker.ENVIRONMENT).read_text("utf-8")


@pytest.mark.slow
def test_compose_runs_the_pipeline_and_airflow():
    """The other services' images are not ours; where they cannot be pulled the pipeline runs on a log of its own."""
    ports = {"PIPELINE_PORT": str(free_port()), "AIRFLOW_PORT": str(free_port())}
    given = {
        "KATMATIC_TOKEN": TOKEN,
        "GRAFANA_PASSWORD": "chosen",
        "KATMATIC_LOG": "",
        "KATMATIC_REGISTRY": "",
        **ports,
    }
    project = ("--project-name", "katmatictest", "--profile", "airflow")
    with need_docker() as engine:
        engine.build(f"katmatic:{version('katmatic')}")
        engine.build(f"katmatic-airflow:{version('katmatic')}", "--target", "airflow")
        shown = yaml.safe_load(engine.compose(*project, "config", **given))
        assert set(shown["services"]) >= {
            "pipeline",
            "kafka",
            "mlflow",
            "airflow",
            "prometheus",
            "alertmanager",
            "grafana",
        }
        with pytest.raises(AssertionError, match=r"see \.env\.example"):
            engine.compose(*project, "config", **{**given, "KATMATIC_TOKEN": ""})
        try:
            engine.compose(*project, "up", "--detach", "--no-deps", "pipeline", "airflow", **given)
            for service in ("pipeline", "airflow"):
                _until_healthy(engine, f"katmatictest_{service}_1")
            url = f"http://127.0.0.1:{ports['PIPELINE_PORT']}/v1/events/attendance-topic"
            event = json.dumps({"student_id": "A123", "timestamp": "2025-04-21 08:02:00", "status": "present"})
            asked = urllib.request.Request(url, event.encode(), {"authorization": f"Bearer {TOKEN}"})
            with urllib.request.urlopen(asked, timeout=10) as answer:
                assert json.load(answer)["accepted"] == 1
            dags = engine.run(
                "exec", "katmatictest_airflow_1", "/opt/airflow/bin/airflow", "dags", "list", "-o", "json"
            )
            assert [one["dag_id"] for one in json.loads(dags[dags.index("[{") :])] == ["attendance_absence"]
            stage = engine.run("exec", "katmatictest_airflow_1", "katmatic", "step", "--help")
            assert "validate" in stage, "its tasks call the command that is in its image"
        finally:
            engine.compose(*project, "down", "--volumes", "--timeout", "30", **given)


def _until_healthy(engine, name):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (state := engine.inspect(name)["State"])["Health"]["Status"] != "healthy":
        assert state["Running"], engine.run("logs", name)
        assert time.monotonic() < deadline, engine.run("logs", name)[-4000:]
        time.sleep(0.5)
