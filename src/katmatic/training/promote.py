"""Champion against challenger, on the newest rows that neither has learnt from."""

from __future__ import annotations

from collections.abc import Mapping

from katmatic.spec.policy import Promote
from katmatic.training.evaluate import LOWER_IS_BETTER


def verdict(
    policy: Promote,
    metric: str,
    challenger: Mapping[str, float],
    champion: Mapping[str, float] | None,
    baselines: Mapping[str, Mapping[str, float]],
) -> tuple[bool, str]:
    """Whether the challenger takes over, and why.

    It has to beat the champion by more than the margin and both baselines; the first model only the base rate.
    """
    mine = challenger.get(metric)
    if mine is None:
        return False, f"{metric} cannot be told from the newest rows"
    rivals = dict(baselines) if champion is not None else {"base rate": baselines["base rate"]}
    for name, figures in rivals.items():
        other = figures.get(metric)
        if other is not None and not _is_better(metric, mine, other, 0.0):
            return False, f"{metric} {mine:.4f} is no better than the {name}'s {other:.4f}"
    if champion is None:
        return True, f"the first model: {metric} {mine:.4f}"
    theirs = champion[metric]
    if not _is_better(metric, mine, theirs, policy.margin):
        return (
            False,
            f"{metric} {mine:.4f} is not better than the champion's {theirs:.4f} by more than {policy.margin:g}",
        )
    return True, f"{metric} {mine:.4f}, the champion's {theirs:.4f}"


def _is_better(metric: str, mine: float, other: float, margin: float) -> bool:
    return mine < other - margin if metric in LOWER_IS_BETTER else mine > other + margin
