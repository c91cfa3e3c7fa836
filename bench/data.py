"""Where the shared data lies, and a line that says so where it does not."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(os.environ.get("SHARED_DATA", Path(__file__).parents[1].parent / "shared" / "data"))


def data(name: str) -> Path:
    """A file or folder of the shared data; ends the program if it is missing."""
    path = ROOT / name
    if not path.exists():
        sys.exit(f"needs {path}: say where the data lies with SHARED_DATA")
    return path
