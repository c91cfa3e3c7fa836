"""The store around the kernel: its memory, the numbering of keys and values, and its bytes for a checkpoint."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from katmatic.state import kernel

_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)


def reserve(words: int) -> NDArray[np.int64]:
    """An array of zeros that takes memory only where it is written: address space costs nothing."""
    memory = mmap.mmap(-1, 8 * words, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE, 0, 8 * kernel.HEAP_AT)  # what grows: 512 times fewer page faults
    return np.frombuffer(memory, dtype=np.int64)


class Numbering(dict[Any, int]):
    """Values -> 0, 1, 2, ... in the order in which they are first asked for; `names` leads back."""

    def __init__(self, names: Iterable[Any] = ()) -> None:
        self.names = list(names)
        super().__init__((name, i) for i, name in enumerate(self.names))

    def __missing__(self, value: Any) -> int:
        self[value] = number = len(self.names)
        self.names.append(value)
        return number


class KeyNumbers:
    """Keys -> small integers, over all key spaces; and back. A key is a text, or a tuple of them for several fields."""

    def __init__(self, spaces: int) -> None:
        self.names: list[Any] = []
        self._spaces: list[_Space] = [_Space(self.names) for _ in range(spaces)]

    def numbers(self, space: int, keys: Iterable[Any]) -> list[int]:
        """The number of each key; new keys get the next ones."""
        return list(map(self._spaces[space].__getitem__, keys))

    def find(self, space: int, key: Any) -> int:
        """The number of a key, -1 if it was never seen."""
        return self._spaces[space].get(key, -1)

    def __len__(self) -> int:
        return len(self.names)

    def dump(self) -> list[dict[Any, int]]:
        """What `load` takes: the numbers per space."""
        return [dict(space) for space in self._spaces]

    def load(self, dumped: Sequence[dict[Any, int]]) -> None:
        """Go on with the numbers that were dumped."""
        count = sum(len(space) for space in dumped)
        self.names[:] = [None] * count
        for space, numbers in zip(self._spaces, dumped, strict=True):
            for key, number in numbers.items():
                key = tuple(key) if isinstance(key, list) else key
                space[key] = number
                self.names[number] = key


class _Space(dict[Any, int]):
    def __init__(self, names: list[Any]) -> None:
        super().__init__()
        self._names = names

    def __missing__(self, key: Any) -> int:
        self[key] = number = len(self._names)
        self._names.append(key)
        return number


class Store:
    """All that the engine remembers between events: `words` is the kernel's arena, `reals` the same as floats."""

    def __init__(self, *, spaces: int, cells: int, codes: Sequence[Any]) -> None:
        self.words = reserve(kernel.ARENA_WORDS)
        self.reals = self.words.view(np.float64)
        self.cells_per_key = cells
        self.words[kernel.USED] = kernel.WORDS_FIRST
        self.words[kernel.HEARD_AT : kernel.ALERTED_AT] = kernel.NEVER
        self.words[kernel.NEXT_DUE] = kernel.LATEST
        since = kernel.IDENTITIES_AT + kernel.DUP_SINCE
        self.words[since : since + kernel.DUP_WORDS * kernel.STREAMS_MOST : kernel.DUP_WORDS] = kernel.NEVER
        self.keys = KeyNumbers(spaces)
        self.codes: dict[Any, Numbering] = {column: Numbering() for column in codes}
        # Anchors that will be asked again: position -> stream, payload, labels that have leads to come.
        self.pending: dict[int, tuple[int, bytes, int]] = {}
        self.position = 0
        self.sequence = 0
        self.counts: dict[str, int] = {}

    @property
    def bytes_used(self) -> int:
        """Memory of windows, labels and waiting things, in bytes."""
        return 8 * sum(stop - start for start, stop in self._parts())

    def check(self) -> None:
        """Raise MemoryError when there are more keys than there are addresses for; ask it before a run."""
        if len(self.keys) * self.cells_per_key > kernel.HEAP_AT - kernel.CELLS_AT:
            raise MemoryError(f"the state has reached its limit of keys, at {len(self.keys)}")

    def _parts(self) -> list[tuple[int, int]]:
        """Where in the arena there is something to keep."""
        return [
            (0, int(self.words[kernel.USED])),
            (kernel.CELLS_AT, kernel.CELLS_AT + len(self.keys) * self.cells_per_key),
            (kernel.HEAP_AT, kernel.HEAP_AT + 3 * int(self.words[kernel.HEAP_LEN])),
        ]

    def dump(self) -> bytes:
        """The store as bytes."""
        return msgspec.msgpack.encode(
            {
                "arena": [(start, self.words[start:stop].tobytes()) for start, stop in self._parts()],
                "keys": [list(space.items()) for space in self.keys.dump()],
                "codes": [numbers.names for numbers in self.codes.values()],
                "pending": list(self.pending.items()),
                "position": self.position,
                "sequence": self.sequence,
                "counts": self.counts,
            }
        )

    def load(self, data: bytes) -> None:
        """Become the store that was dumped. Raises ValueError if this one is not new."""
        if len(self.keys) or self.words[kernel.USED] != kernel.WORDS_FIRST:
            raise ValueError("a checkpoint is loaded into a new state only")
        found = msgspec.msgpack.decode(data)
        for start, raw in found["arena"]:
            values = np.frombuffer(raw, np.int64)
            self.words[start : start + len(values)] = values
        self.keys.load([{_key(key): number for key, number in space} for space in found["keys"]])
        self.codes = {column: Numbering(names) for column, names in zip(self.codes, found["codes"], strict=True)}
        self.pending = {position: tuple(waiting) for position, waiting in found["pending"]}
        self.position, self.sequence, self.counts = found["position"], found["sequence"], found["counts"]


def _key(key: Any) -> Any:
    return tuple(key) if isinstance(key, list) else key
