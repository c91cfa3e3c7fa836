"""Thresholds and actions: which predictions are acted on, and which of these are let through to see the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import xxhash

from katmatic.records import Decision, PredictionBlock
from katmatic.spec.app import Action, Predictor
from katmatic.spec.event import Event


@dataclass(frozen=True)
class Acted:
    """What an action is called with: a prediction, and the event that it is about."""

    predictor: str
    key: tuple[str, ...]
    event: Event
    score: float
    now: int

    @property
    def probability(self) -> float:
        """The chance that the label comes true."""
        return self.score

    @property
    def value(self) -> float:
        """The predicted value, where the label is a number."""
        return self.score


class Actions:
    """The actions of one predictor. Chance comes from `seed`, the action and the anchor: a replay decides the same."""

    def __init__(self, predictor: Predictor, seed: int = 0) -> None:
        self._predictor, self._seed = predictor, seed

    def decide(self, block: PredictionBlock) -> list[Decision]:
        """What is to be done about these predictions; those without a score are left alone."""
        if block.score is None:
            return []
        found = []
        for action in self._predictor.actions:
            hit = ~np.isnan(block.score)
            if action.above is not None:
                hit &= block.score >= action.above
            if action.below is not None:
                hit &= block.score < action.below
            for i in np.flatnonzero(hit).tolist():
                decision = self._decision(action, block, i)
                if decision is not None:
                    found.append(decision)
        return found

    def _decision(self, action: Action, block: PredictionBlock, i: int) -> Decision:
        assert block.score is not None
        anchor = int(block.anchor[i])
        is_held_out = self._chance(action, anchor) < action.holdout
        return Decision(
            predictor=self._predictor.name,
            anchor=anchor,
            key=block.key[i],
            action=action.function.__name__,
            score=float(block.score[i]),
            now=int(block.now[i]),
            censored=action.censors and not is_held_out,
            propensity=action.holdout if is_held_out else 1.0,
        )

    def _chance(self, action: Action, anchor: int) -> float:
        """A number in [0, 1) that only depends on the seed, the action and the anchor."""
        text = f"{self._seed}/{self._predictor.name}/{action.function.__name__}/{anchor}"
        return float(xxhash.xxh3_64_intdigest(text.encode()) / 2**64)

    def run(self, decisions: Sequence[Decision], events: Sequence[Event]) -> list[Decision]:
        """Carry out the decisions, but for those that are held out; each comes back with the error that it raised."""
        done = []
        functions = {action.function.__name__: action.function for action in self._predictor.actions}
        for decision, event in zip(decisions, events, strict=True):
            error = None
            if decision.propensity == 1.0:
                error = _call(functions[decision.action], decision, event)
            done.append(msgspec.structs.replace(decision, error=error))
        return done


def _call(function: Any, decision: Decision, event: Event) -> str | None:
    try:
        function(Acted(decision.predictor, decision.key, event, decision.score, decision.now))
    except Exception as error:  # the user's function may raise anything
        return repr(error)
    return None
