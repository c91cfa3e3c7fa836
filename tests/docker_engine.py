"""A real Docker Engine for tests, started by hand: its data in the user's cache, its socket in a folder of its own.

Where no image can be pulled, the base of our Dockerfile is made from Debian's packages (mmdebstrap), under the name
that the Dockerfile asks for. `python -m tests.docker_engine` builds the image, and says how large it is.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.program import ROOT

CLIENT = "/usr/bin/docker"  # Debian's, which has BuildKit
BASE = "python:3.11-slim-bookworm"
IMAGE = "katmatic:test"
START_SECONDS = 60.0
BUILD_SECONDS = 1500.0
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")  # of this machine, which may stand behind a proxy
_BASE = """FROM debian-minbase
RUN ln -s /usr/bin/python3 /usr/local/bin/python && ln -s /usr/bin/pip3 /usr/local/bin/pip \\
    && rm -f /usr/lib/python3*/EXTERNALLY-MANAGED
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt PIP_CERT=/etc/ssl/certs/ca-certificates.crt
"""


class EngineError(Exception):
    """No Docker Engine can be had here; the text says why."""


class Engine:
    """A Docker Engine of our own, or the one that DOCKER_HOST names; use it in a `with`."""

    def __init__(self) -> None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "katmatic"
        self._cache, self._data = cache, cache / "docker"
        self._undo = ExitStack()
        self._environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Engine:
        try:
            self._start()
            self._have_base()
        except BaseException:
            self._undo.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def run(self, *arguments: str, check: bool = True, seconds: float = 120.0) -> str:
        """What a command of Docker's prints on standard output."""
        done = subprocess.run(
            [CLIENT, *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
        assert done.returncode == 0 or not check, f"docker {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def compose(self, *arguments: str, seconds: float = 300.0, **environment: str) -> str:
        """What a command of docker-compose's prints, on either channel; the environment fills in the file."""
        done = subprocess.run(
            ["docker-compose", *arguments],
            cwd=ROOT,
            env={**self._environment, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def build(self, name: str = IMAGE, *arguments: str) -> str:
        """Build an image from the Dockerfile; its name."""
        self.run("build", "--tag", name, *arguments, str(ROOT), seconds=BUILD_SECONDS)
        return name

    def inspect(self, name: str) -> dict[str, Any]:
        """All that is known of a container or an image."""
        found: dict[str, Any] = json.loads(self.run("inspect", name))[0]
        return found

    def _start(self) -> None:
        if os.environ.get("DOCKER_HOST"):
            return
        if os.geteuid():
            raise EngineError("a Docker Engine is started by root only; DOCKER_HOST names one that runs")
        missing = [name for name in (CLIENT, "dockerd", "iptables", "mmdebstrap") if not shutil.which(name)]
        if missing:
            raise EngineError(f"no {', '.join(missing)}: apt-get install docker.io docker-compose iptables mmdebstrap")
        self._data.mkdir(parents=True, exist_ok=True)
        lock = (self._cache / "docker.lock").open("w")
        self._undo.callback(lock.close)
        fcntl.flock(lock, fcntl.LOCK_EX)  # its data have one owner
        folder = Path(self._undo.enter_context(tempfile.TemporaryDirectory(prefix="dk", ignore_cleanup_errors=True)))
        self._folder = folder
        socket = f"unix://{folder / 's'}"
        self._environment["DOCKER_HOST"] = socket
        said = (folder / "said").open("wb")
        self._undo.callback(said.close)
        places = ("--data-root", str(self._data), "--exec-root", str(folder / "exec"), "--pidfile", str(folder / "pid"))
        self._process = subprocess.Popen(
            ["dockerd", "--host", socket, *places],
            stdout=said,
            stderr=said,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._undo.callback(self._stop)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            done = subprocess.run([CLIENT, "info"], env=self._environment, capture_output=True, check=False)
            if done.returncode == 0:
                return
            time.sleep(0.2)
        raise EngineError(f"dockerd does not start: {(folder / 'said').read_text('utf-8', 'replace')[-2000:]}")

    def _stop(self) -> None:
        assert self._process is not None
        for container in self.run("ps", "--quiet", check=False).split():
            self.run("kill", container, check=False)
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for left in self._folder.glob("exec/netns/*"):  # a mount, which it leaves behind
            subprocess.run(["umount", str(left)], capture_output=True, check=False)

    def _have_base(self) -> None:
        """The image that ours is built on; made from Debian's packages if there is none."""
        if self.run("images", "--quiet", BASE):
            return
        tar = self._cache / "debian-minbase.tar"
        if not tar.exists():
            partial = tar.with_suffix(".partial.tar")
            packages = "python3,python3-pip,python3-venv,ca-certificates,tzdata"
            command = ["mmdebstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(partial)]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
            if done.returncode:
                raise EngineError(f"mmdebstrap failed: {done.stderr[-2000:]}")
            partial.rename(tar)
        self.run("import", str(tar), "debian-minbase", seconds=300)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "Dockerfile").write_text(_BASE, "utf-8")
            shutil.copy(CERTIFICATES, Path(folder) / "ca-certificates.crt")
            self.run("build", "--tag", BASE, folder, seconds=300)


if __name__ == "__main__":
    with Engine() as engine:
        name = engine.build()
        print(f"{name}: {engine.inspect(name)['Size'] / 1e6:,.0f} MB")
        if len(sys.argv) > 1:
            print(engine.run(*sys.argv[1:], check=False, seconds=600))
