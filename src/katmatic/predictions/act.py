"""Thresholds and actions: which predictions are acted on, and which of these are let through to see the truth."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import xxhash

from katmatic.records import Decision, PredictionBlock
from katmatic.spec.app import Action, Predictor
from katmatic.spec.event import Event

DECIDED_LIMIT = 200_000  # anchors that are remembered, of those that are asked about again


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
        self._actions = _named(predictor.actions)
        self._asks_again = len(predictor.lead) > 1
        self._decided: dict[tuple[str, int], None] = {}  # action and anchor, where anchors are asked about again

    def decide(self, block: PredictionBlock) -> list[Decision]:
        """What is to be done about these predictions, once per anchor; those without a score are left alone."""
        if block.score is None:
            return []
        found = []
        for name, action in self._actions.items():
            hit = ~np.isnan(block.score)
            if action.above is not None:
                hit &= block.score >= action.above
            if action.below is not None:
                hit &= block.score < action.below
            for i in np.flatnonzero(hit).tolist():
                if (name, int(block.anchor[i])) not in self._decided:
                    found.append(self._decision(name, action, block, i))
                    self.know(found[-1])
        return found

    def know(self, decision: Decision) -> None:
        """It was decided, now or in an earlier life: it is not decided again for this anchor."""
        if self._asks_again:
            self._decided[decision.action, decision.anchor] = None
            if len(self._decided) > DECIDED_LIMIT:
                del self._decided[next(iter(self._decided))]

    def _decision(self, name: str, action: Action, block: PredictionBlock, i: int) -> Decision:
        assert block.score is not None
        anchor = int(block.anchor[i])
        is_held_out = self._chance(name, anchor) < action.holdout
        return Decision(
            predictor=self._predictor.name,
            anchor=anchor,
            key=block.key[i],
            action=name,
            score=float(block.score[i]),
            now=int(block.now[i]),
            censored=action.censors and not is_held_out,
            propensity=action.holdout if is_held_out else 1.0,
        )

    def _chance(self, name: str, anchor: int) -> float:
        """A number in [0, 1) that only depends on the seed, the action and the anchor."""
        text = f"{self._seed}/{self._predictor.name}/{name}/{anchor}"
        return float(xxhash.xxh3_64_intdigest(text.encode()) / 2**64)

    def run(self, decisions: Sequence[Decision], events: Sequence[Event]) -> list[Decision]:
        """Carry out the decisions, but for those that are held out; each comes back with the error that it raised."""
        done = []
        for decision, event in zip(decisions, events, strict=True):
            error = None
            if decision.propensity == 1.0:
                error = _call(self._actions[decision.action].function, decision, event)
            done.append(msgspec.structs.replace(decision, error=error))
        return done

    def dump(self) -> list[tuple[str, int]]:
        """What was decided, for a checkpoint."""
        return list(self._decided)

    def load(self, decided: Iterable[tuple[str, int]]) -> None:
        """Go on from what was dumped."""
        self._decided = dict.fromkeys(decided)


def _named(actions: Iterable[Action]) -> dict[str, Action]:
    """The actions by the names of their functions; of equal names the second is called `name #2`."""
    found: dict[str, Action] = {}
    for action in actions:
        name = getattr(action.function, "__name__", type(action.function).__name__)
        numbered = (name if n == 1 else f"{name} #{n}" for n in itertools.count(1))
        found[next(free for free in numbered if free not in found)] = action
    return found


def _call(function: Any, decision: Decision, event: Event) -> str | None:
    try:
        function(Acted(decision.predictor, decision.key, event, decision.score, decision.now))
    except (Exception, SystemExit) as error:  # the user's function may raise anything
        return repr(error)
    return None
