"""How a benchmark shows what it measured: lines for people, or with `--json` one JSON object as the last line."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Mapping
from typing import Any


def report(measure: Callable[[], Mapping[str, Any]]) -> None:
    """Measure, and print the figures and the machine."""
    result = dict(measure())
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    if "--json" in sys.argv:
        print(json.dumps({**result, "machine": machine}))
        return
    for name, value in result.items():
        print(f"{name:24} {value}")
    print(f"{'machine':24} {machine}")
