"""A ranking: what one who asks may be shown, each as an anchor of its own, and the answers about them in order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from katmatic.records import Prediction, PredictionBlock
from katmatic.spec.app import Predictor
from katmatic.spec.event import schema

KNOWN_LIMIT = 200_000  # candidates whose other keys are remembered: those that were asked about last
NOBODY = "\0"  # no key is called so: windows by it are empty


def ranked_key(predictor: Predictor) -> str:
    """The key of the anchor that is ranked: candidates are values of it."""
    assert predictor.rank is not None
    return str(predictor.rank.candidates[0].field)


def asked_keys(predictor: Predictor) -> tuple[str, ...]:
    """The keys that whoever asks for a ranking has to name: whom it is about, and whatever finds the candidates."""
    assert predictor.rank is not None
    keys, ranked = schema(predictor.anchor).keys, ranked_key(predictor)
    finding = {key.name for window in predictor.rank.candidates for key in window.by}
    return tuple(name for name in keys if name != ranked and (name == keys[0] or name in finding))


class Ranking:
    """One predictor's candidates as anchors. A key that was not given is that of the candidate's newest anchor."""

    def __init__(self, predictor: Predictor) -> None:
        assert predictor.rank is not None
        self.key, self.size = ranked_key(predictor), predictor.rank.size
        self._keys = schema(predictor.anchor).keys
        self._known: dict[str, tuple[str, ...]] = {}

    def know(self, block: PredictionBlock) -> None:
        """Take in anchors that were asked about."""
        place = self._keys.index(self.key)
        for key in block.key:
            self._known.pop(key[place], None)
            self._known[key[place]] = key
        while len(self._known) > KNOWN_LIMIT:
            del self._known[next(iter(self._known))]

    def anchor(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Who asks, as an anchor about nothing: to find candidates by."""
        return {**dict.fromkeys(self._keys, NOBODY), **asked}

    def anchors(self, asked: Mapping[str, Any], candidates: Iterable[str]) -> list[dict[str, Any]]:
        """An anchor for each candidate; one is left out if a key of it is not known yet."""
        missing = [name for name in self._keys if name != self.key and name not in asked]
        found = []
        for candidate in candidates:
            known = self._known.get(candidate)
            if known is not None or not missing:
                others = {name: known[self._keys.index(name)] for name in missing} if known else {}
                found.append({**asked, self.key: candidate, **others})
        return found


def ranked(found: Sequence[Prediction]) -> list[Prediction]:
    """The highest answer first, equal ones in the order in which they came; those without an answer last."""
    return sorted(found, key=lambda each: math.inf if each.score is None else -each.score)
