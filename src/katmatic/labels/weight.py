"""How much a row weighs in training and in figures, given what was done about it."""

from __future__ import annotations

from collections.abc import Iterable

from katmatic.records import Decision


def weight(taken: Iterable[Decision]) -> float:
    """1 / propensity: a row let through by chance stands for those that were not; a censored row weighs nothing.

    Of several actions each has to let the row through. Inverse-propensity weighting: D. G. Horvitz, D. J. Thompson, "A
    Generalization of Sampling Without Replacement From a Finite Universe", JASA 47 (1952).
    """
    odds = 1.0
    for decision in taken:
        if decision.censored:
            return 0.0
        odds *= decision.propensity
    return 1.0 / odds
