"""The registry: versions of each predictor's model, and which of them is the champion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Version:
    """One version of a model."""

    predictor: str
    version: int
    folder: str  # where its exported model is: a folder, or a part of a bucket
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    is_champion: bool


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a training tells of itself, beside the model."""

    application: str
    metrics: Mapping[str, float]  # on the rows that it was judged by
    tags: Mapping[str, str]
    params: Mapping[str, str] = field(default_factory=dict)
    series: Mapping[str, Sequence[tuple[int, float]]] = field(
        default_factory=dict
    )  # metric -> moment, figure; in order
    pictures: Mapping[str, bytes] = field(default_factory=dict)  # file name -> PNG
    columns: Mapping[str, str] = field(default_factory=dict)  # feature -> "double" or "string"


class Registry(Protocol):
    """Keeps versions: 1, 2, 3, ... per predictor. At most one is the champion."""

    def save(self, predictor: str, folder: str, run: Run) -> int:
        """Register the exported model in `folder`, or a part of a bucket, and what is told of it; gives the version."""
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
