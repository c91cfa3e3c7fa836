"""The real program as a process of its own: started, asked over HTTP, ended or killed, started again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

ROOT = Path(__file__).parents[1]
PATIENCE_SECONDS = 90.0
ASKED_SECONDS = 0.02  # between two looks
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]), "PYTHONFAULTHANDLER": "1"}


def free_port() -> int:
    """A port that nobody listens to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Program:
    """`katmatic COMMAND FILE ...`, which answers on loopback. What it says is in `said`."""

    def __init__(
        self, command: str, file: Path, *arguments: str, said: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [sys.executable, "-m", "katmatic", command, str(file), "--port", str(self.port), *arguments]
        self._said, self._environment = said, {**ENVIRONMENT, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process that was started last."""
        assert self._process is not None, "it was not started"
        return self._process

    def start(self) -> Program:
        """Start it; it is not asked yet."""
        with self._said.open("ab") as said:
            self._process = subprocess.Popen(
                self._command, env=self._environment, cwd=self._said.parent, stdout=said, stderr=said
            )
        return self

    def end(self, number: int = signal.SIGTERM) -> None:
        """End it, if it lives; asked in a friendly way, it must end well."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(number)
        process.wait(PATIENCE_SECONDS)
        assert number == signal.SIGKILL or process.returncode == 0, self.said()

    def said(self) -> str:
        """What it has printed, over all its lives."""
        return self._said.read_text("utf-8", "replace")

    def ask(self, path: str, body: Any = None, *, seconds: float = 10) -> Any:
        """The answer to GET, or with a body to POST."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            return json.load(answer)

    def until(self, is_so: Callable[[Any], Any], path: str = "/v1/status", *, seconds: float = PATIENCE_SECONDS) -> Any:
        """The first answer that `is_so`; AssertionError if it does not come to that."""
        deadline = time.monotonic() + seconds
        found: Any = None
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.said()
            try:
                found = self.ask(path)
            except HTTPError as error:
                with error:
                    found = error.read()
            except (OSError, HTTPException) as error:
                found = error
            else:
                if is_so(found):
                    return found
            time.sleep(ASKED_SECONDS)
        raise AssertionError(
            f"{path}: it never came to that; the last answer: {found!r}; it said: {self.said()[-2000:]}"
        )
