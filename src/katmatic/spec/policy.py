"""What to do by itself: when to train, when to promote, how to rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from katmatic import duration
from katmatic.errors import DeclarationError
from katmatic.spec.past import Past


@dataclass(frozen=True, kw_only=True)
class Retrain:
    """When a predictor is trained again: every so often, after so many new final labels, or when drift is seen.

    Training waits until `rows` labelled rows exist; `history` keeps rows older than that out of it (None: all rows).
    """

    every: str | None = None
    labels: int | None = None
    on_drift: bool = False
    rows: int = 100
    history: str | None = None

    def __post_init__(self) -> None:
        for text in (self.every, self.history):
            if text is not None:
                duration.parse(text, where="Retrain")
        if self.rows < 2 or (self.labels is not None and self.labels < 1):
            raise DeclarationError(
                "Retrain",
                found=f"rows={self.rows}, labels={self.labels}",
                expected="rows >= 2, labels >= 1",
                do="raise it",
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


@dataclass(frozen=True, kw_only=True)
class Rank:
    """Ask the predictor about many candidates at once and sort them.

    `candidates` are `past.top(...)` windows; `explore` is the share of slots drawn at random, with their odds logged;
    `size` is how many are shown.
    """

    candidates: Sequence[Past] = field(default_factory=tuple)
    explore: float = 0.0
    size: int = 10

    def __post_init__(self) -> None:
        if not self.candidates or [c for c in self.candidates if not isinstance(c, Past) or c.op != "top"]:
            raise DeclarationError(
                "Rank",
                found=f"candidates={self.candidates!r}",
                expected="past.top(...) windows",
                do="name at least one",
            )
        if not 0 <= self.explore < 1 or self.size < 1:
            raise DeclarationError(
                "Rank",
                found=f"explore={self.explore}, size={self.size}",
                expected="explore in [0, 1) and size of at least 1",
                do="correct them",
            )
