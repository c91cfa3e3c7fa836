"""A misspelt field is an error in the editor: mypy and pyright both find every wrong line, and no other."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "typing"
SOURCE = Path(__file__).parents[2] / "src"


def marked(name: str) -> set[int]:
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    return {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}


def run(*command: str, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def found_by_mypy(name: str, folder: Path) -> dict[int, str]:
    said = run(
        *(sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-color-output"),
        *("--cache-dir", str(folder / "cache"), str(FOLDER / name)),
        folder=folder,
        MYPYPATH=str(SOURCE),
    )
    return {int(n): text for n, text in re.findall(rf"{re.escape(name)}:(\d+): error: (.*)", said)}


def found_by_pyright(name: str, folder: Path) -> dict[int, str]:
    shutil.copy(FOLDER / name, folder / name)  # it looks only at what lies beside its configuration
    options = {"include": [name], "extraPaths": [str(SOURCE)], "typeCheckingMode": "standard"}
    (folder / "pyrightconfig.json").write_text(json.dumps(options), encoding="utf-8")
    said = run(
        *(sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable),
        *("--project", str(folder)),
        folder=folder,
    )
    found = json.loads(said)
    assert found["summary"]["filesAnalyzed"] == 1
    errors = [one for one in found["generalDiagnostics"] if one["severity"] == "error"]
    return {one["range"]["start"]["line"] + 1: one["message"] for one in errors}


@pytest.mark.parametrize("found_by", [found_by_mypy, found_by_pyright])
def test_every_wrong_line_is_found_and_no_other(found_by, tmp_path):
    assert found_by("good.py", tmp_path) == {}
    found = found_by("bad.py", tmp_path)
    assert set(found) == marked("bad.py"), found
    assert "amuont" in found[min(line for line, text in found.items() if "amuont" in text)]
