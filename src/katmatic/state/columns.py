"""The store around the kernel: its memory, the numbering of values, and its bytes for a checkpoint."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np

from katmatic.state import kernel
from katmatic.state.keys import KeyNumbers

FORM = 2  # of what `dump` gives
_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)


def _reserve(words: int) -> mmap.mmap:
    """Zeros that take memory only where they are written: address space costs nothing."""
    memory = mmap.mmap(-1, 8 * words, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE)
    _advise(memory, "MADV_HUGEPAGE")  # 512 times fewer page faults
    return memory


def _advise(memory: mmap.mmap, advice: str) -> None:
    """Say something about the memory of what grows, where the system listens."""
    if hasattr(mmap, advice):
        memory.madvise(getattr(mmap, advice), 0, min(8 * kernel.HEAP_AT, len(memory)))


class Numbering(dict[Any, int]):
    """Values -> 0, 1, 2, ... in the order in which they are first asked for; `names` leads back."""

    def __init__(self, names: Iterable[Any] = ()) -> None:
        self.names = list(names)
        super().__init__((name, i) for i, name in enumerate(self.names))

    def __missing__(self, value: Any) -> int:
        self[value] = number = len(self.names)
        self.names.append(value)
        return number


class Store:
    """All that the engine remembers between events: `words` is the kernel's arena, `reals` the same as floats."""

    def __init__(self, *, cells: int, codes: Sequence[Any]) -> None:
        self._memory = _reserve(kernel.ARENA_WORDS)
        self.words = np.frombuffer(self._memory, dtype=np.int64)
        self.reals = self.words.view(np.float64)
        self.cells_per_key = cells
        self.words[kernel.USED] = kernel.WORDS_FIRST
        self.words[kernel.HEARD_AT : kernel.ALERTED_AT] = kernel.NEVER
        self.words[kernel.NEXT_DUE] = kernel.LATEST
        since = kernel.IDENTITIES_AT + kernel.DUP_SINCE
        self.words[since : since + kernel.DUP_WORDS * kernel.STREAMS_MOST : kernel.DUP_WORDS] = kernel.NEVER
        self.keys = KeyNumbers()
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

    def kept(self) -> dict[str, Any]:
        """What `load` takes: a view of the store's memory, to be encoded before anything changes."""
        return {
            "arena": [(start, self.words[start:stop].view(np.uint8).data) for start, stop in self._parts()],
            "keys": self.keys.dump(),
            "used": self.keys.used[: len(self.keys)].tobytes(),
            "codes": [numbers.names for numbers in self.codes.values()],
            "pending": list(self.pending.items()),
            "position": self.position,
            "sequence": self.sequence,
            "counts": self.counts,
        }

    def dump(self) -> bytes:
        """The store as bytes."""
        return msgspec.msgpack.encode(self.kept())

    def load(self, data: bytes | msgspec.Raw) -> None:
        """Become the store that was dumped. Raises ValueError if this one is not new."""
        if len(self.keys) or self.words[kernel.USED] != kernel.WORDS_FIRST:
            raise ValueError("a checkpoint is loaded into a new state only")
        found = msgspec.msgpack.decode(data, type=_Kept)
        # While all is written in one go, finding huge pages costs a second for each gigabyte more than small ones do
        # (bench/recovery.py); these become huge in the background.
        _advise(self._memory, "MADV_NOHUGEPAGE")
        with ThreadPoolExecutor(1) as beside:  # copying does not need Python, and keys do nothing else
            copied = beside.submit(self._copy, found.arena)
            self.keys.load(*found.keys, np.frombuffer(found.used, np.int64))
            copied.result()
        _advise(self._memory, "MADV_HUGEPAGE")
        self.codes = {column: Numbering(names) for column, names in zip(self.codes, found.codes, strict=True)}
        self.pending = dict(found.pending)
        self.position, self.sequence, self.counts = found.position, found.sequence, found.counts

    def _copy(self, arena: list[tuple[int, memoryview]]) -> None:
        for start, raw in arena:
            values = np.frombuffer(raw, np.int64)
            self.words[start : start + len(values)] = values


class _Kept(msgspec.Struct):
    """What `Store.kept` gives, as it is read: arena and numbers stay where they lie."""

    arena: list[tuple[int, memoryview]]
    keys: tuple[int, memoryview]
    used: memoryview
    codes: list[list[Any]]
    pending: list[tuple[int, tuple[int, bytes, int]]]
    position: int
    sequence: int
    counts: dict[str, int]
