"""Maps in parts: a dict is moved as a whole whenever it is full, which takes 10 ms from 100,000 keys on."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from typing import Generic, TypeVar

BITS = 10  # of a position within its part: 1,024 are moved in 20 µs, and those that come together lie together
FREED_LEAST = 2  # values that are let go at once

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Parts(Generic[V]):
    """Values by position in the log, as in a dict; no call takes long, however many there are.

    >>> found = Parts(); found[7] = "a"; found[8] = "b"; found.pop(7), found.get(7), len(found)
    ('a', None, 1)
    """

    def __init__(self) -> None:
        self._parts: dict[int, dict[int, V]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._parts.values()))

    def __iter__(self) -> Iterator[int]:
        for part in self._parts.values():
            yield from part

    def __contains__(self, position: int) -> bool:
        return position in self._parts.get(position >> BITS, ())

    def __getitem__(self, position: int) -> V:
        return self._parts[position >> BITS][position]

    def __setitem__(self, position: int, value: V) -> None:
        part = self._parts.get(position >> BITS)
        if part is None:
            part = self._parts[position >> BITS] = {}
        part[position] = value

    def get(self, position: int) -> V | None:
        """The value at a position; None if there is none."""
        part = self._parts.get(position >> BITS)
        return None if part is None else part.get(position)

    def has_any(self, positions: Iterable[int]) -> bool:
        """Whether there is a value at one of these positions."""
        part = self._parts.get
        return any(position in part(position >> BITS, ()) for position in positions)

    def pop(self, position: int) -> V | None:
        """Take out the value at a position; None if there is none."""
        part = self._parts.get(position >> BITS, {})
        value = part.pop(position, None)
        if not part:
            self._parts.pop(position >> BITS, None)
        return value


class Fifo(Generic[V]):
    """Values by position, in parts too, in the order in which they came; only the oldest can be taken out.

    >>> found = Fifo(); found.add(8, "a"); found.add(7, "b"); found[8] = "c"; list(found), found.pop_oldest()
    ([8, 7], (8, 'c'))
    """

    def __init__(self) -> None:
        self._values: Parts[V] = Parts()
        self._order: deque[int] = deque()
        self.get = self._values.get  # called for every row

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[int]:
        return iter(self._order)

    def __contains__(self, position: int) -> bool:
        return position in self._values

    def __getitem__(self, position: int) -> V:
        return self._values[position]

    def __setitem__(self, position: int, value: V) -> None:
        if position not in self._values:
            raise KeyError(position)
        self._values[position] = value

    def add(self, position: int, value: V) -> None:
        """Put in a position that is not there."""
        self._order.append(position)
        self._values[position] = value

    def pop_oldest(self) -> tuple[int, V]:
        """Take out the position that came first, with its value."""
        position = self._order.popleft()
        value = self._values[position]
        self._values.pop(position)
        return position, value


class Latest(Generic[K, V]):
    """Values by any key: of the `limit` keys that were set last at least, and of some twice as many at most.

    What is given up is freed bit by bit: all at once would take some milliseconds.

    >>> found = Latest(2)
    >>> for pairs in [("a", 1), ("b", 2)], [("a", 3), ("c", 4)], [("d", 5)]: found.update(pairs)
    >>> sorted(found), found.get("a"), found.get("b")
    (['a', 'c', 'd'], 3, None)
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._new: dict[K, V] = {}
        self._old: dict[K, V] = {}  # what was set before these
        self._gone: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self._new.keys() | self._old.keys())

    def __iter__(self) -> Iterator[K]:
        return iter(self._new.keys() | self._old.keys())

    def update(self, found: Iterable[tuple[K, V]]) -> None:
        """Set the values of some keys."""
        if len(self._new) >= self._limit:
            self._new, self._old, self._gone = {}, self._new, self._old
        before = len(self._new)
        self._new.update(found)
        for _ in range(min(len(self._gone), FREED_LEAST + 2 * (len(self._new) - before))):
            self._gone.popitem()

    def get(self, key: K) -> V | None:
        """The value of a key; None if it is not there."""
        found = self._new.get(key)
        return self._old.get(key) if found is None else found
