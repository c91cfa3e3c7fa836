"""A real store that speaks S3's protocol, on loopback: moto's server, as a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.program import PATIENCE_SECONDS, free_port

BUCKET = "school"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_DEFAULT_REGION": "us-east-1"}


@contextmanager
def object_store(folder: Path) -> Iterator[str]:
    """The address of a bucket in it."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (folder / "moto.log").open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, cwd=folder)
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        request = urllib.request.Request(f"http://127.0.0.1:{port}/{BUCKET}", method="PUT")
        while True:
            assert process.poll() is None, (folder / "moto.log").read_text("utf-8", "replace")
            assert time.monotonic() < deadline, "it does not answer"
            try:
                with urllib.request.urlopen(request, timeout=10):
                    break
            except OSError:
                time.sleep(0.1)
        yield f"s3://{BUCKET}/logs?endpoint_override=127.0.0.1:{port}&scheme=http"
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)
