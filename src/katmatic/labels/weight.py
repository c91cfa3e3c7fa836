"""How much a row weighs in training and in figures, given what was done about it."""

from __future__ import annotations

from katmatic.records import Decision


def weight(decision: Decision | None) -> float:
    """1 / propensity: a row let through by chance stands for those that were not; a censored row weighs nothing.

    Inverse-propensity weighting: D. G. Horvitz, D. J. Thompson, "A Generalization of Sampling Without Replacement
    From a Finite Universe", JASA 47 (1952).
    """
    if decision is None:
        return 1.0
    return 0.0 if decision.censored else 1.0 / decision.propensity
