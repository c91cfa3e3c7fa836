"""Keys that can no longer matter are forgotten, bit by bit; their numbers and memory go to new keys.

A key can no longer matter once every event of its cells is older than what any question can still reach, no label that
joins on it is open, and no anchor that names it can be open any more. What would then be answered about it is what is
answered about a key that was never seen; so forgetting changes no answer, whenever it happens, and the log need not
know of it. Keys with a window without an end are never forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from katmatic.state import kernel, loop
from katmatic.state.columns import Store

Ints = NDArray[np.int64]

LOOKED_AT = 4096  # keys that are looked at in one go: about a millisecond
LOOKS_PER_KEY = 8  # at so many keys is looked for each new one, so that about an eighth of all waits to be forgotten


@dataclass(frozen=True)
class Layout:
    """What a key of a space has: handles of its tables, and the places of its lists of open labels among its cells."""

    tables: Ints
    lists: Ints
    for_ever: bool = field(kw_only=True)


class Forgetting:
    """Forgets keys of a store. `anchor_life` after its time an anchor is closed, unless a silent source holds it."""

    def __init__(self, store: Store, plan: Ints, layouts: Sequence[Layout], *, anchor_life: int) -> None:
        self._store, self._plan, self._layouts, self._life = store, plan, layouts, anchor_life
        self._at = self._debt = self._numbered = self._forgotten = 0
        self._held = kernel.NEVER  # the last moment at which labels were held,
        self._holds = False  # and whether they are
        # Of each label's lists of anchors that are held: the first and the last.
        stop = kernel.HELD_AT + 2 * int(plan[kernel.LABELS])
        self._lists = store.words.data[kernel.HELD_AT : stop]
        self.can = not all(layout.for_ever for layout in layouts)  # if not, nobody need note when a key was named

    def restart(self) -> None:
        """After the store was loaded: all may have been named, and labels held, just before."""
        now = int(self._store.words[kernel.NOW])
        self._numbered = self._store.keys.known
        self._held, self._holds = now, self._any_held()

    def work(self, now: int, *, held: bool = False) -> None:
        """Look at some keys, in turn, for each that is new; forget those that can no longer matter at `now`.

        `held`: meanwhile labels were held, though they may have been let go since.
        """
        if not self.can:
            return
        before, self._holds = self._holds, self._any_held()
        if held or before or self._holds:
            self._held = now
        self._store.keys.free(now)
        numbered = self._store.keys.known + self._forgotten
        self._debt += LOOKS_PER_KEY * (numbered - self._numbered)
        self._numbered = numbered
        while self._debt >= LOOKED_AT:
            self._debt -= LOOKED_AT
            if now - self._held > self._life:
                self._look(now)

    def held(self) -> bytes:
        """Which labels are held: it differs once others are."""
        return self._lists.tobytes()

    def _any_held(self) -> bool:
        return any(self._lists[::2])

    def _look(self, now: int) -> None:
        keys = self._store.keys
        first, stop = self._at, min(self._at + LOOKED_AT, len(keys))
        self._at = stop if stop < len(keys) else 0
        idle = self._store.keys.used[first:stop] < now - self._life
        if not idle.any():
            return
        spaces = keys.spaces(first, stop)
        for space, layout in enumerate(self._layouts):
            if layout.for_ever:
                continue
            numbers = first + np.flatnonzero(idle & (spaces == space))
            arena = self._store.words, self._store.reals
            numbers = loop.release(self._plan, *arena, numbers, layout.tables, layout.lists, now)
            keys.forget(space, numbers, now)
            self._forgotten += len(numbers)
