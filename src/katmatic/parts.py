"""Maps in parts: a dict is moved as a whole each time it is full, which takes 10 ms and more from 100,000 keys on."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

PARTS = 251  # a prime, so that positions with a common step spread; of 200,000 keys each has 800, moved in 20 µs

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Parts(Generic[K, V]):
    """Values by key, as in a dict; no call takes long, however many there are.

    >>> found = Parts(); found["a"] = 1; found["b"] = 2; found.pop("a"), found.get("a"), len(found)
    (1, None, 1)
    """

    def __init__(self) -> None:
        self._parts: tuple[dict[K, V], ...] = tuple({} for _ in range(PARTS))

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __iter__(self) -> Iterator[K]:
        for part in self._parts:
            yield from part

    def __contains__(self, key: object) -> bool:
        return key in self._parts[hash(key) % PARTS]

    def __getitem__(self, key: K) -> V:
        return self._parts[hash(key) % PARTS][key]

    def __setitem__(self, key: K, value: V) -> None:
        self._parts[hash(key) % PARTS][key] = value

    def get(self, key: K) -> V | None:
        """The value of a key; None if it is not there."""
        return self._parts[hash(key) % PARTS].get(key)

    def pop(self, key: K) -> V | None:
        """Take a key out: its value; None if it was not there."""
        return self._parts[hash(key) % PARTS].pop(key, None)


class Fifo(Generic[K, V]):
    """Values by key, in parts too, in the order in which the keys came; only the oldest can be taken out.

    >>> found = Fifo(); found["a"] = 1; found["b"] = 2; found["a"] = 3; list(found), found.pop_oldest(), len(found)
    (['a', 'b'], ('a', 3), 1)
    """

    def __init__(self) -> None:
        self._values: Parts[K, V] = Parts()
        self._order: deque[K] = deque()
        self.get = self._values.get  # called for every row

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[K]:
        return iter(self._order)

    def __getitem__(self, key: K) -> V:
        return self._values[key]

    def __setitem__(self, key: K, value: V) -> None:
        if key not in self._values:
            self._order.append(key)
        self._values[key] = value

    def pop_oldest(self) -> tuple[K, V]:
        """Take out the key that came first, with its value."""
        key = self._order.popleft()
        value = self._values[key]
        self._values.pop(key)
        return key, value
