"""The store around the kernel: its memory, the numbering of keys and values, and its bytes for a checkpoint."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np

from katmatic.errors import LogError
from katmatic.state import kernel

# Address space, not memory: pages come into being when they are first written.
STATE_WORDS_LIMIT = 1 << 31
CELLS_LIMIT = 1 << 30
WAITING_LIMIT = 1 << 26
CODES_LIMIT = 1 << 24
OUTPUTS_LIMIT = 1 << 22
_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)


def reserve(shape: tuple[int, ...], dtype: Any) -> Any:
    """An array of zeros that takes memory only where it is written."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE)
    return np.frombuffer(memory, dtype=dtype, count=int(np.prod(shape))).reshape(shape)


class Numbering(dict[Any, int]):
    """Values -> 0, 1, 2, ... in the order in which they are first asked for."""

    def __missing__(self, value: Any) -> int:
        self[value] = number = len(self)
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
    """All that the engine remembers between events. `kernel` is what the compiled loop works on."""

    def __init__(self, *, spaces: int, cells: int, streams: int, labels: int, codes: Sequence[Any]) -> None:
        words = reserve((STATE_WORDS_LIMIT,), np.int64)
        self.cells_per_key = cells
        self.kernel = kernel.Store(
            words=words,
            reals=words.view(np.float64),
            cells=reserve((CELLS_LIMIT,), np.int64),
            heap=reserve((WAITING_LIMIT, 3), np.int64),
            scalars=np.zeros(kernel.SCALARS, np.int64),
            free=np.zeros(kernel.STRIDES_MOST * kernel.SIZES, np.int64),
            heard=np.full(max(streams, 1), kernel.NEVER, np.int64),
            latest=np.full(max(streams, 1), kernel.NEVER, np.int64),
            held=np.zeros(max(2 * labels, 1), np.int64),
            alerted=np.zeros(max(streams, 1), np.int64),
            stamps=reserve((CODES_LIMIT,), np.int64),
            tallies=reserve((2 * CODES_LIMIT,), np.int64),
            scratch=np.zeros(128),
        )
        self.kernel.scalars[kernel.USED] = kernel.WORDS_FIRST
        self.keys = KeyNumbers(spaces)
        self.codes: dict[Any, Numbering] = {column: Numbering() for column in codes}
        self.pending: dict[int, tuple[int, bytes]] = {}  # anchors that will be asked again: position -> stream, payload
        self.position = 0
        self.sequence = 0
        self.counts: dict[str, int] = {}

    @property
    def bytes_used(self) -> int:
        """Memory of windows, labels and waiting things, in bytes."""
        scalars = self.kernel.scalars
        used = int(scalars[kernel.USED]) + len(self.keys) * self.cells_per_key + 3 * int(scalars[kernel.HEAP_LEN])
        return 8 * used

    def dump(self) -> bytes:
        """The store as bytes."""
        k = self.kernel
        used, waiting = int(k.scalars[kernel.USED]), int(k.scalars[kernel.HEAP_LEN])
        arrays = [
            k.words[:used],
            k.cells[: len(self.keys) * self.cells_per_key],
            k.heap[:waiting].reshape(-1),
            k.scalars,
            k.free,
            k.heard,
            k.latest,
            k.held,
            k.alerted,
        ]
        return msgspec.msgpack.encode(
            {
                "arrays": [array.tobytes() for array in arrays],
                "keys": [list(space.items()) for space in self.keys.dump()],
                "codes": [list(numbers) for numbers in self.codes.values()],
                "pending": list(self.pending.items()),
                "position": self.position,
                "sequence": self.sequence,
                "counts": self.counts,
            }
        )

    def load(self, data: bytes) -> None:
        """Become the store that was dumped."""
        found = msgspec.msgpack.decode(data)
        k = self.kernel
        targets = [k.words, k.cells, k.heap.reshape(-1), k.scalars, k.free, k.heard, k.latest, k.held, k.alerted]
        for target, raw in zip(targets, found["arrays"], strict=True):
            values = np.frombuffer(raw, np.int64)
            if len(values) > len(target):
                raise LogError(
                    "checkpoint",
                    found=f"{len(values)} words",
                    expected=f"at most {len(target)}",
                    do="declare the application as it was, or delete the checkpoints to replay the log",
                )
            target[: len(values)] = values
        self.keys.load([{_key(key): number for key, number in space} for space in found["keys"]])
        for numbers, values in zip(self.codes.values(), found["codes"], strict=True):
            numbers.clear()
            numbers.update({value: i for i, value in enumerate(values)})
        self.pending = {position: (stream, payload) for position, (stream, payload) in found["pending"]}
        self.position, self.sequence, self.counts = found["position"], found["sequence"], found["counts"]


def _key(key: Any) -> Any:
    return tuple(key) if isinstance(key, list) else key


class Outputs:
    """Room for what one step gives; its pages are used again by the next."""

    def __init__(self, *, spaces: int, answers: int) -> None:
        n = OUTPUTS_LIMIT
        self._fate = reserve((n,), np.uint8)
        self.kernel = kernel.Outcome(
            fate=self._fate,
            scalars=np.zeros(kernel.SCALARS, np.int64),
            asked=reserve((n, 8), np.int64),
            asked_keys=reserve((n, max(spaces, 1)), np.int64),
            features=reserve((n, answers), np.float64),
            labels=reserve((n, 8), np.int64),
            label_keys=reserve((n, max(spaces, 1)), np.int64),
            label_values=reserve((n,), np.float64),
            holds=np.zeros(4096, np.int64),
            done=reserve((n,), np.int64),
        )

    def clear(self) -> None:
        """Make room for the next step."""
        self.kernel.scalars[:] = 0
