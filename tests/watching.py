"""A real Prometheus and a real Alertmanager on loopback, with the files that `katmatic deploy prometheus` writes."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from katmatic.deploy.prometheus import ALERTS, CONFIG, files
from katmatic.spec.app import App
from tests.program import PATIENCE_SECONDS, free_port

NAMES = ("prometheus", "prometheus-alertmanager", "alertmanager")


def found() -> bool:
    """Whether both are here."""
    return shutil.which(NAMES[0]) is not None and any(shutil.which(name) for name in NAMES[1:])


class Watching:
    """Both of them, watching the pipeline of `app` at `address`, with their files in `folder`."""

    def __init__(self, app: App, address: str, folder: Path) -> None:
        self._folder = folder
        self._ports = free_port(), free_port()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._said = folder / "watching.log"
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files(app, address, alertmanager=f"127.0.0.1:{self._ports[1]}").items():
            (folder / name).write_text(text, "utf-8")

    def start(self) -> Watching:
        """Start both, and wait until they are ready."""
        prometheus, alertmanager = (f"127.0.0.1:{port}" for port in self._ports)
        manager = next(name for name in NAMES[1:] if shutil.which(name))
        self._run(
            manager,
            f"--config.file={ALERTS}",
            f"--storage.path={self._folder / 'alertmanager'}",
            f"--web.listen-address={alertmanager}",
            "--cluster.listen-address=",
        )
        self._run(
            NAMES[0],
            f"--config.file={CONFIG}",
            f"--storage.tsdb.path={self._folder / 'prometheus'}",
            f"--web.listen-address={prometheus}",
        )
        for address in (alertmanager, prometheus):
            self._until_ready(address)
        return self

    def stop(self) -> None:
        """End both."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(PATIENCE_SECONDS)
        self._processes.clear()

    def value(self, expression: str) -> float | None:
        """What an expression of PromQL gives now: the first value, or None of nothing."""
        found = self._ask(f"/api/v1/query?{urllib.parse.urlencode({'query': expression})}")["result"]
        return float(found[0]["value"][1]) if found else None

    def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        return {alert["labels"]["alertname"] for alert in self._ask("/api/v1/alerts")["alerts"] if _fires(alert)}

    def said(self) -> str:
        """What both have printed."""
        return self._said.read_text("utf-8", "replace")

    def _ask(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._ports[0]}{path}", timeout=10) as answer:
            return json.load(answer)["data"]

    def _run(self, *command: str) -> None:
        with self._said.open("ab") as said:
            self._processes.append(subprocess.Popen(command, cwd=self._folder, stdout=said, stderr=said))

    def _until_ready(self, address: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            assert all(process.poll() is None for process in self._processes), self.said()
            try:
                with urllib.request.urlopen(f"http://{address}/-/ready", timeout=5):
                    return
            except OSError as error:
                if hasattr(error, "close"):
                    error.close()
                time.sleep(0.05)
        raise AssertionError(f"{address} was not ready in time: {self.said()}")


def _fires(alert: dict[str, Any]) -> bool:
    return bool(alert["state"] == "firing")
