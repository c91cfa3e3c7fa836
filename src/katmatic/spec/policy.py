"""What to do by itself: when to train, when to promote, how to rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from katmatic import duration
from katmatic.errors import DeclarationError
from katmatic.spec.past import Past


@dataclass(frozen=True, kw_only=True)
class Retrain:
    """When a predictor is trained again: every so often, after so many final labels, when drift is seen, or on decline.

    `on_decline="7d"`: when over so long its live answers were no better than a simple rule's. Then an earlier version
    answers again, if it does better than both the champion and the new one. Training waits until `rows` labelled rows
    exist; `history` keeps rows older than that out of it (None: all rows).
    """

    every: str | None = None
    labels: int | None = None
    on_drift: bool = False
    on_decline: str | None = None
    rows: int = 100
    history: str | None = None

    def __post_init__(self) -> None:
        for name, text in (("every", self.every), ("history", self.history), ("on_decline", self.on_decline)):
            if text is not None:
                duration.parse(text, where=f"Retrain {name}=", least=duration.SHORTEST)
        for name, number, least in (("rows", self.rows, 2), ("labels", self.labels, 1)):
            if not (number is None and name == "labels") and (type(number) is not int or number < least):
                raise DeclarationError(
                    "Retrain",
                    found=f"{name}={number!r}",
                    expected=f"a whole number of at least {least}",
                    do=f"e.g. {name}=100",
                )


METRICS = ("log_loss", "brier", "roc_auc", "average_precision", "accuracy", "rmse", "mae")


@dataclass(frozen=True, kw_only=True)
class Promote:
    """A challenger becomes champion when `metric` on the newest labelled rows is better by more than `margin`.

    `metric` None: log loss for a yes/no label, root mean squared error for a number, accuracy for a class.
    """

    metric: str | None = None
    margin: float = 0.0

    def __post_init__(self) -> None:
        if self.metric is not None and self.metric not in METRICS:
            raise DeclarationError(
                "Promote",
                found=f"metric={self.metric!r}",
                expected=f"one of {', '.join(METRICS)}",
                do="choose one of these",
            )
        if not _is_number(self.margin):
            raise DeclarationError(
                "Promote", found=f"margin={self.margin!r}", expected="a finite number", do="e.g. margin=0.01"
            )


@dataclass(frozen=True, kw_only=True)
class Rank:
    """Ask the predictor about many candidates at once and sort them.

    `candidates` are `past.top(...)` windows; `explore` is the share of slots drawn at random, with their odds logged;
    `size` is how many are shown.
    """

    candidates: Sequence[Past]
    explore: float = 0.0
    size: int = 10

    def __post_init__(self) -> None:
        windows = self.candidates if isinstance(self.candidates, list | tuple) else ()
        if not windows or [window for window in windows if not isinstance(window, Past) or window.op != "top"]:
            raise DeclarationError(
                "Rank",
                found=f"candidates={self.candidates!r}",
                expected="a list of past.top(...) windows",
                do="name at least one: candidates=[past.top(...)]",
            )
        if not _is_number(self.explore) or not 0 <= self.explore < 1:
            raise DeclarationError(
                "Rank", found=f"explore={self.explore!r}", expected="a share in [0, 1)", do="e.g. explore=0.05"
            )
        if type(self.size) is not int or self.size < 1:
            raise DeclarationError(
                "Rank", found=f"size={self.size!r}", expected="a whole number of at least 1", do="e.g. size=10"
            )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
