"""The registry: versions of each predictor's model, and which of them is the champion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Version:
    """One version of a model."""

    predictor: str
    version: int
    folder: Path
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    is_champion: bool


class Registry(Protocol):
    """Keeps versions: 1, 2, 3, ... per predictor. At most one is the champion."""

    def save(self, predictor: str, folder: Path, *, metrics: Mapping[str, float], tags: Mapping[str, str]) -> int:
        """Register the exported model in `folder`; gives back its version."""
        ...

    def promote(self, predictor: str, version: int) -> None:
        """Make `version` the champion. Raises ModelError if there is no such version."""
        ...

    def champion(self, predictor: str) -> Version | None:
        """The version that is to answer, if there is one."""
        ...

    def versions(self, predictor: str) -> list[Version]:
        """Every version, oldest first."""
        ...
