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
ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def marked(name: str) -> set[int]:
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    return {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}


def run(*command: str, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def found_by_mypy(folder: Path, *files: Path, strict: bool) -> dict[tuple[str, int], str]:
    said = run(
        *(sys.executable, "-m", "mypy", "--config-file=", "--no-color-output", "--ignore-missing-imports"),
        *(["--strict"] if strict else []),
        *("--cache-dir", str(folder / "cache"), *map(str, files)),
        folder=folder,
        MYPYPATH=str(SOURCE),
    )
    return {(Path(name).name, int(n)): text for name, n, text in re.findall(r"(\S+):(\d+): error: (.*)", said)}


def found_by_pyright(folder: Path, *files: Path, strict: bool) -> dict[tuple[str, int], str]:
    for file in files:
        shutil.copy(file, folder / file.name)  # it looks only at what lies beside its configuration
    options = {
        "include": [file.name for file in files],
        "extraPaths": [str(SOURCE)],
        "typeCheckingMode": "standard" if strict else "basic",
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(options), encoding="utf-8")
    said = run(
        *(sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable),
        *("--project", str(folder)),
        folder=folder,
    )
    found = json.loads(said)
    assert found["summary"]["filesAnalyzed"] == len(files)
    errors = [one for one in found["generalDiagnostics"] if one["severity"] == "error"]
    return {(Path(one["file"]).name, one["range"]["start"]["line"] + 1): one["message"] for one in errors}


@pytest.mark.parametrize("found_by", [found_by_mypy, found_by_pyright])
def test_every_wrong_line_is_found_and_no_other(found_by, tmp_path):
    found = found_by(tmp_path, FOLDER / "good.py", FOLDER / "bad.py", strict=True)
    assert set(found) == {("bad.py", line) for line in marked("bad.py")}, found
    assert any("amuont" in text for text in found.values())


@pytest.mark.slow  # they follow the imports into scikit-learn and River
@pytest.mark.parametrize("found_by", [found_by_mypy, found_by_pyright])
def test_the_examples_are_accepted(found_by, tmp_path):
    assert found_by(tmp_path, *EXAMPLES, strict=False) == {}
