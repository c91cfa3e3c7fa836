"""A real Apache Airflow on loopback, in an environment of its own: scheduler, DAG processor and API, on SQLite.

`python -m tests.airflow` makes the environment. It is kept in the user's cache, under a name that says what is in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.program import ROOT, free_port

PINNED = ROOT / "requirements-airflow.txt"
START_SECONDS = 240.0  # it takes 15 to 40
STOP_SECONDS = 20.0
ANSWER_SECONDS = 60.0  # that it may have no time for a request
ENDED = ("success", "failed", "skipped", "upstream_failed", "removed")


class AirflowError(Exception):
    """Airflow cannot be had here; the text says why."""


def environment() -> Path:
    """The folder of Airflow's programs, made once a machine. AirflowError if it cannot be made."""
    digest = hashlib.sha256(PINNED.read_bytes() + sys.version.encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "katmatic"
    folder = cache / f"airflow-{digest}"
    if not (folder / "made").exists():
        cache.mkdir(parents=True, exist_ok=True)
        uv = [sys.executable, "-m", "uv"]
        install = [*uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(folder / "bin" / "python")]
        for command in ([sys.executable, "-m", "venv", str(folder)], [*install, "-r", str(PINNED)]):
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
            if done.returncode:
                raise AirflowError(f"Airflow could not be installed: {(done.stdout + done.stderr)[-2000:]}")
        (folder / "made").touch()
    return folder / "bin"


class Airflow:
    """One Airflow with its files in `folder`, and DAGs in `folder / "dags"`."""

    def __init__(self, folder: Path) -> None:
        self.dags, self._said = folder / "dags", folder / "airflow.log"
        self.dags.mkdir(parents=True, exist_ok=True)
        self._port, self._bin = free_port(), environment()
        worker = free_port(), free_port()
        self._url = f"http://127.0.0.1:{self._port}"
        self._token = ""
        self._process: subprocess.Popen[bytes] | None = None
        settings = {
            "CORE__DAGS_FOLDER": self.dags,
            "CORE__LOAD_EXAMPLES": False,
            "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": True,
            "CORE__DAGS_ARE_PAUSED_AT_CREATION": False,
            "CORE__PARALLELISM": 4,
            "CORE__EXECUTION_API_SERVER_URL": f"{self._url}/execution/",
            "API__HOST": "127.0.0.1",
            "API__PORT": self._port,
            "API__WORKERS": 1,
            "DAG_PROCESSOR__REFRESH_INTERVAL": 5,
            "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": 5,
            "LOGGING__WORKER_LOG_SERVER_PORT": worker[0],
            "LOGGING__TRIGGER_LOG_SERVER_PORT": worker[1],
            "SCHEDULER__ENABLE_HEALTH_CHECK": False,
            "USAGE_DATA_COLLECTION__ENABLED": False,
        }
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON"))}
        self._environment = {
            **clean,
            "AIRFLOW_HOME": str(folder),
            "PATH": f"{self._bin}{os.pathsep}{os.environ['PATH']}",
            **{f"AIRFLOW__{name}": str(value) for name, value in settings.items()},
        }

    def start(self) -> Airflow:
        """Start it; `wait_until_ready` says when it can be asked."""
        with self._said.open("ab") as said:
            self._process = subprocess.Popen(
                [str(self._bin / "airflow"), "standalone"],
                env=self._environment,
                stdout=said,
                stderr=said,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # it has children, who end with it
            )
        return self

    def wait_until_ready(self) -> Airflow:
        """Wait until its API answers and its scheduler lives."""

        def is_ready() -> bool:
            with suppress(OSError, ValueError, KeyError):
                self._token = self._ask("/auth/token")["access_token"]
                health = self._ask("/api/v2/monitor/health")
                return all(health[part]["status"] == "healthy" for part in ("scheduler", "dag_processor"))
            return False

        self.until(is_ready, START_SECONDS)
        return self

    def stop(self) -> None:
        """End it and its children."""
        if self._process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        self._process = None

    def run(self, *arguments: str) -> str:
        """What a command of Airflow's prints."""
        done = subprocess.run(
            [str(self._bin / "airflow"), *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=START_SECONDS,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def trigger(self, dag: str) -> str:
        """Begin a run now; its name."""
        return str(self._ask(f"/api/v2/dags/{dag}/dagRuns", {"logical_date": None})["dag_run_id"])

    def pause(self, dag: str, *, is_paused: bool) -> None:
        """Let a DAG rest, or go on by its schedule."""
        self._ask(f"/api/v2/dags/{dag}", {"is_paused": is_paused}, method="PATCH")

    def backfill(self, dag: str, begin: str, end: str) -> int:
        """Run it for past intervals; the number of the backfill."""
        asked = {"dag_id": dag, "from_date": begin, "to_date": end, "max_active_runs": 1, "reprocess_behavior": "none"}
        return int(self._ask("/api/v2/backfills", asked)["id"])

    def dag_runs(self, dag: str) -> list[dict[str, Any]]:
        """Its runs, oldest first; none of a DAG that is not known yet."""
        try:
            found = self._ask(f"/api/v2/dags/{dag}/dagRuns?order_by=run_after")["dag_runs"]
        except urllib.error.HTTPError as error:
            with error:
                if error.code != 404:
                    raise
            return []
        return list(found)

    def tasks(self, dag: str, run: str) -> dict[str, dict[str, Any]]:
        """The tasks of a run by name."""
        found = self._ask(f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances")["task_instances"]
        return {task["task_id"]: task for task in found}

    def errors(self) -> list[str]:
        """Why DAGs could not be read."""
        return [error["stack_trace"] for error in self._ask("/api/v2/importErrors")["import_errors"]]

    def ended(self, dag: str, run: str, seconds: float = START_SECONDS) -> dict[str, str]:
        """The state of every task, once the run has ended."""

        def state() -> str:
            return str(self._ask(f"/api/v2/dags/{dag}/dagRuns/{run}")["state"])

        self.until(lambda: state() in ("success", "failed"), seconds)
        return {name: task["state"] for name, task in self.tasks(dag, run).items()}

    def said(self, dag: str, run: str, task: str, number: int = 1) -> str:
        """What a task has printed."""
        found = self._ask(f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances/{task}/logs/{number}")
        return json.dumps(found)

    def until(self, check: Callable[[], Any], seconds: float) -> Any:
        """What `check` gives, once it gives something."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self._process is not None, "it was not started"
            assert self._process.poll() is None, self._tail()
            with suppress(TimeoutError):  # on a loaded machine one answer may not come: it is asked again
                if found := check():
                    return found
            time.sleep(0.3)
        raise AssertionError(f"not within {seconds:g} s; Airflow said: {self._tail()}")

    def _tail(self) -> str:
        return self._said.read_text("utf-8", "replace")[-4000:]

    def _ask(self, path: str, body: Any = None, *, method: str | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json", "authorization": f"Bearer {self._token}"}
        request = urllib.request.Request(self._url + path, data, headers, method=method)
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code != 503 or time.monotonic() > deadline:  # its database is busy: nothing was done
                    raise
                error.close()
            time.sleep(0.5)


if __name__ == "__main__":
    print(environment())
