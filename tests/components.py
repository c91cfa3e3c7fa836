"""Real components that a test needs: where one is missing the test skips with a loud line, and in CI it fails."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

import pytest

from tests.airflow import Airflow, AirflowError
from tests.docker_engine import Engine, EngineError
from tests.kafka_broker import BrokerError, address

CHROMIUM = "/usr/bin/chromium"


def need(name: str, found: object, how: str) -> None:
    """Go on if `found` is true; else skip the test, or fail it where `CI=true`, saying `how` to get `name`."""
    if found:
        return
    message = f"needs {name}, which is not here; {how}"
    if os.environ.get("CI") == "true":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def need_chromium() -> str:
    """The path of a Chromium to drive."""
    found = CHROMIUM if Path(CHROMIUM).exists() else shutil.which("chromium") or shutil.which("google-chrome")
    need("Chromium", found, "apt-get install chromium")
    return str(found)


def need_airflow(folder: Path) -> Airflow:
    """An Apache Airflow with its files in `folder`, not started yet."""
    try:
        return Airflow(folder)
    except AirflowError as error:
        need("Apache Airflow", None, str(error))
        raise


@contextmanager
def need_docker() -> Iterator[Engine]:
    """A real Docker Engine of our own."""
    with ExitStack() as undo:
        try:
            engine = undo.enter_context(Engine())
        except EngineError as error:
            need("Docker Engine", None, str(error))
            raise
        yield engine


def topics_of(folder: Path) -> str:
    """What stands before the names of a test's topics: on a broker that outlives it, too, no others begin with it."""
    return f"{folder.name}-{_run()}-"


@cache
def _run() -> str:
    return f"{time.time_ns():x}"


def need_kafka() -> str:
    """host:port of a real Apache Kafka, started once by each process that asks."""
    try:
        return address()
    except BrokerError as error:
        need("Apache Kafka", None, str(error))
        raise
