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

from katmatic.state import kernel
from katmatic.state.columns import Store

Ints = NDArray[np.int64]

LOOKED_AT = 4096  # keys that are looked at in one go: about a millisecond
LOOKS_PER_KEY = 8  # at so many keys is looked for each new one, so that about an eighth of all waits to be forgotten


@dataclass(frozen=True)
class Cell:
    """What of one cell matters here: see engine.plan.Kept."""

    local: int
    words: int
    stride: int
    keep: int
    trees: int


@dataclass(frozen=True)
class Layout:
    """What a key of a space has: its cells, the places of its lists of open labels."""

    cells: Sequence[Cell]
    lists: Sequence[int]
    for_ever: bool = field(kw_only=True)


class Forgetting:
    """Forgets keys of a store. `anchor_life` after its time an anchor is closed, unless a silent source holds it."""

    def __init__(self, store: Store, layouts: Sequence[Layout], *, anchor_life: int) -> None:
        self._store, self._layouts, self._life = store, layouts, anchor_life
        self._at = self._debt = self._numbered = self._forgotten = 0
        self._held = kernel.NEVER  # the last moment at which labels were held,
        self._holds = False  # and whether they are
        self._can = not all(layout.for_ever for layout in layouts)

    def restart(self) -> None:
        """After the store was loaded: all may have been named, and labels held, just before."""
        now = int(self._store.words[kernel.NOW])
        self._numbered = self._store.keys.known
        self._held, self._holds = now, self._any_held()

    def used(self, numbers: Sequence[int], moments: Ints) -> None:
        """Events name these keys; `moments` are their times, or when they came if that is later."""
        if not self._can:
            return
        count = len(self._store.keys)
        if count > len(self._store.used):
            more = np.full(max(count, 2 * len(self._store.used), 1024), kernel.NEVER, np.int64)
            more[: len(self._store.used)] = self._store.used
            self._store.used = more
        np.maximum.at(self._store.used, numbers, moments)

    def work(self, now: int, *, held: bool = False) -> None:
        """Look at some keys, in turn, for each that is new; forget those that can no longer matter at `now`.

        `held`: meanwhile labels were held, though they may have been let go since.
        """
        if not self._can:
            return
        before, self._holds = self._holds, self._any_held()
        if held or before or self._holds:
            self._held = now
        numbered = self._store.keys.known + self._forgotten
        self._debt += LOOKS_PER_KEY * (numbered - self._numbered)
        self._numbered = numbered
        while self._debt >= LOOKED_AT:
            self._debt -= LOOKED_AT
            if now - self._held > self._life:
                self._look(now)

    def _any_held(self) -> bool:
        first = self._store.words[kernel.HELD_AT : kernel.HELD_AT + 2 * kernel.LABELS_MOST : 2]
        return bool(first.any())

    def _look(self, now: int) -> None:
        keys = self._store.keys
        first, stop = self._at, min(self._at + LOOKED_AT, len(keys))
        self._at = stop if stop < len(keys) else 0
        idle = self._store.used[first:stop] < now - self._life
        if not idle.any():
            return
        spaces = np.array(keys.spaces[first:stop])
        has_name = np.array([name is not None for name in keys.names[first:stop]])
        for space, layout in enumerate(self._layouts):
            if layout.for_ever:
                continue
            numbers = first + np.flatnonzero(idle & has_name & (spaces == space))
            for local in layout.lists:
                numbers = numbers[self._of(numbers, local) == 0]
            for cell in layout.cells:
                numbers = numbers[self._is_over(self._of(numbers, cell.local), cell, now)]
            for cell in layout.cells:
                self._empty(self._of(numbers, cell.local), cell)
            keys.forget(space, numbers.tolist())
            self._forgotten += len(numbers)

    def _of(self, numbers: Ints, local: int) -> Ints:
        """What stands in one place of the keys: the addresses of their cells, or of their first open label."""
        return self._store.words[kernel.CELLS_AT + numbers * self._store.cells_per_key + local]

    def _is_over(self, cells: Ints, cell: Cell, now: int) -> NDArray[np.bool_]:
        """Which cells hold no event that a question can reach."""
        words = self._store.words
        last = (words[cells + kernel.START] + words[cells + kernel.LEN] - 1) & (words[cells + kernel.CAP] - 1)
        newest = words[words[cells + kernel.RING] + last * cell.stride]
        is_over: NDArray[np.bool_] = (cells == 0) | (words[cells + kernel.LEN] == 0) | (newest < now - cell.keep)
        return is_over

    def _empty(self, cells: Ints, cell: Cell) -> None:
        """Make cells as new ones are, with a ring of the first size."""
        words = self._store.words
        cells = cells[cells != 0]
        for at in cells[words[cells + kernel.CAP] > kernel.RING_CAPACITY_FIRST].tolist():
            self._exchange(at, cell)
        kept = {word: words[cells + word] for word in (kernel.RING, kernel.CAP)}
        words[cells[:, None] + np.arange(cell.words)] = 0
        for word, values in kept.items():
            words[cells + word] = values
        words[cells + kernel.ASOF] = words[cells + kernel.BASE_TIME] = kernel.NEVER
        words[cells + kernel.OLDEST] = kernel.LATEST

    def _exchange(self, at: int, cell: Cell) -> None:
        """Give a long ring and its trees back, and take a short one."""
        words = self._store.words
        cap = int(words[at + kernel.CAP])
        if words[at + kernel.TREE] != 0:
            size = (cell.trees * (cap >> 3) - 1).bit_length()
            self._give_back(kernel.TREES * kernel.SIZES + size, int(words[at + kernel.TREE]))
        self._give_back(cell.stride * kernel.SIZES + cap.bit_length() - 1, int(words[at + kernel.RING]))
        words[at + kernel.RING] = self._take(cell.stride)
        words[at + kernel.CAP] = kernel.RING_CAPACITY_FIRST

    def _give_back(self, size: int, at: int) -> None:
        words = self._store.words
        words[at] = words[kernel.FREE_AT + size]
        words[kernel.FREE_AT + size] = at

    def _take(self, stride: int) -> int:
        """A ring of the first size: one that was given back, or a new one."""
        words = self._store.words
        size = kernel.FREE_AT + stride * kernel.SIZES + kernel.RING_CAPACITY_FIRST.bit_length() - 1
        if at := int(words[size]):
            words[size] = words[at]
            return at
        at = int(words[kernel.USED])
        words[kernel.USED] = at + stride * kernel.RING_CAPACITY_FIRST
        return at
