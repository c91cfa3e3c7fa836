"""A real Docker Engine for tests, started by hand beside whatever else runs, with a base image made from Debian.

It keeps its images outside of the repository, so what has been built once is there the next time. Nothing is pulled:
the image that the Dockerfile begins with is made here by mmdebstrap, from the same Debian and with the same Python. It
gets this machine's certificates, so that what is installed in it comes the way it comes to this machine.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO, Any

BASE = "python:3.11-slim-bookworm"
PACKAGES = "python3,python3-pip,python3-venv,ca-certificates,tzdata"
DOCKER = "/usr/bin/docker"  # Debian's: it builds with BuildKit, and fetches nothing for that
START_SECONDS = 60.0
STOP_SECONDS = 30.0
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


class EngineError(Exception):
    """A Docker Engine cannot be had here; the text says why, and what would help."""


def cache() -> Path:
    """The folder of its images."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "katmatic" / "docker"


class Engine:
    """A Docker Engine with its socket in `folder`, from `start()` to `stop()`. One at a time: others wait for it."""

    def __init__(self, folder: Path) -> None:
        missing = [name for name in ("dockerd", "iptables", "mmdebstrap") if not shutil.which(name)]
        missing += [] if Path(DOCKER).exists() else [DOCKER]
        if missing:
            how = "apt-get install docker.io docker-compose iptables mmdebstrap"
            raise EngineError(f"no {', '.join(missing)} on this machine: {how}")
        if os.geteuid() != 0:
            raise EngineError("a Docker Engine is started by root")
        self._folder, self._said = folder, folder / "said.txt"
        self.host = f"unix://{folder / 'docker.sock'}"
        self._engine: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None

    def start(self) -> None:
        """Start it, and make its base image if it has none."""
        cache().mkdir(parents=True, exist_ok=True)
        self._lock = (cache() / "lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        command = ["dockerd", "--data-root", str(cache() / "data"), "--exec-root", str(self._folder / "exec")]
        command += ["--host", self.host, "--pidfile", str(self._folder / "pid"), "--storage-driver", "overlay2"]
        with self._said.open("ab") as said:
            self._engine = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
            )
        deadline = time.monotonic() + START_SECONDS
        while self.run("version", check=False).returncode:
            if self._engine.poll() is not None or time.monotonic() > deadline:
                text = self._said.read_text("utf-8", "replace")[-2000:]
                self.stop()
                raise EngineError(f"the Docker Engine did not start: {text}")
            time.sleep(0.1)
        if self.run("image", "inspect", BASE, check=False).returncode:
            self._make_base()

    def stop(self) -> None:
        """End it with all that runs in it; its images stay."""
        if self._engine is not None and self._engine.poll() is None:
            if left := self.run("ps", "--all", "--quiet", check=False).stdout.split():
                self.run("rm", "--force", "--volumes", *left, check=False)
            self._engine.terminate()
            try:
                self._engine.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._engine.kill()
                self._engine.wait()
        self._engine = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def run(self, *arguments: str, check: bool = True, **given: Any) -> subprocess.CompletedProcess[str]:
        """What `docker ARGUMENTS` did; if it failed and `check`, the failure shows what it said."""
        return self.call([DOCKER, *arguments], check=check, **given)

    def call(self, command: list[str], *, check: bool = True, **given: Any) -> subprocess.CompletedProcess[str]:
        """What a command did that talks to this engine."""
        environment = {**os.environ, "DOCKER_HOST": self.host, "DOCKER_BUILDKIT": "1", **given.pop("env", {})}
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, env=environment, **given
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}: {done.returncode}\n{(done.stdout + done.stderr)[-4000:]}")
        return done

    def _make_base(self) -> None:
        with tempfile.TemporaryDirectory(dir=cache()) as making:
            root, archive = Path(making) / "root", Path(making) / "base.tar"
            done = subprocess.run(
                ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(root)],
                capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
            )  # fmt: skip
            if done.returncode:
                raise EngineError(f"mmdebstrap could not make a base image: {done.stderr[-2000:]}")
            for name in ("python3", "python"):
                (root / "usr/local/bin" / name).symlink_to("/usr/bin/python3.11")
            (root / "usr/local/bin/pip").symlink_to("/usr/bin/pip3")
            (root / "usr/lib/python3.11/EXTERNALLY-MANAGED").unlink(missing_ok=True)
            if Path(CERTIFICATES).exists():
                shutil.copyfile(CERTIFICATES, root / CERTIFICATES.removeprefix("/"))
            subprocess.run(["tar", "-C", str(root), "-cf", str(archive), "."], check=True)
            change = f"ENV PIP_CERT={CERTIFICATES} SSL_CERT_FILE={CERTIFICATES}"
            self.run("import", "--change", change, str(archive), BASE)
