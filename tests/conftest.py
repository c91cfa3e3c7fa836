"""What tests of the commands share: a folder in which commands run, and recorded events."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from katmatic import cli
from tests.apps import visits
from tests.test_replay import lines
from tests.test_runtime import DOOR

# Files that take minutes, which begin first: the last one to begin is waited for.
LONG = (
    "engine/test_oracle.py", "simulation/test_seeds.py", "deploy/test_airflow.py", "bench/test_story.py",
    "bench/test_figures.py", "examples/test_running.py", "examples/test_demo.py", "training/test_tensorflow.py",
    "bench/test_real_data.py", "deploy/test_compose.py", "log/test_kafka.py",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    """The order in which files begin, if several run at once."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path, len(LONG)))


@pytest.fixture
def katmatic(tmp_path, monkeypatch, capsys):
    """A function that runs a command in an empty folder: exit code, what it printed, what it said."""
    monkeypatch.chdir(tmp_path)
    root = Path(__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(root), str(root / "src")]))  # for the processes that train
    (tmp_path / "app.py").write_text(DOOR, "utf-8")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["katmatic", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code or 0
        printed = capsys.readouterr()
        return code, printed.out, " ".join(printed.err.split())

    return run


@pytest.fixture
def recorded(tmp_path):
    """A file of rings and one of openings, as arguments of a command."""
    history = [each for each in visits(400) if each[2] != b"{nothing"]
    return [
        f"{topic}={lines(tmp_path / f'{topic}.jsonl', [value for _, name, value in history if name == topic])}"
        for topic in ("ring", "opened")
    ]
