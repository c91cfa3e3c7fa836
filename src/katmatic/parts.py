"""Maps in parts: a dict is moved as a whole whenever it is full, which takes 10 ms from 100,000 keys on."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from typing import Any, Generic, TypeVar

BITS = 10  # of a position within its part: 1,024 are moved in 20 µs, and those that come together lie together

SHARES = 8  # of a map by any key; of 20,000 keys each has 2,500

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


class Lru(Generic[K, V]):
    """Values by any key, in parts too, in the order in which they were set last; only the oldest can be taken out.

    >>> found = Lru(); found["a"] = 1; found["b"] = 2; found["a"] = 3; found.pop_oldest(), found.get("a"), len(found)
    (('b', 2), 3, 1)
    """

    def __init__(self) -> None:
        self._parts: tuple[dict[K, _Link[K, V]], ...] = tuple({} for _ in range(SHARES))
        self._end: Any = _Link(None, None)  # between the newest and the oldest
        self._number = 0

    def __len__(self) -> int:
        return self._number

    def __iter__(self) -> Iterator[K]:
        for part in self._parts:
            yield from part

    def __setitem__(self, key: K, value: V) -> None:
        part = self._parts[hash(key) % SHARES]
        link = part.get(key)
        if link is None:
            link = part[key] = _Link(key, value)
            self._number += 1
        else:
            link.value = value
            link.older.newer, link.newer.older = link.newer, link.older
        end = self._end
        link.older, link.newer = end.older, end
        end.older.newer = end.older = link

    def get(self, key: K) -> V | None:
        """The value of a key; None if it is not there."""
        link = self._parts[hash(key) % SHARES].get(key)
        return None if link is None else link.value

    def pop_oldest(self) -> tuple[K, V]:
        """Take out the key that was set longest ago, with its value."""
        link: _Link[K, V] = self._end.newer
        del self._parts[hash(link.key) % SHARES][link.key]
        self._number -= 1
        self._end.newer, link.newer.older = link.newer, self._end
        return link.key, link.value


class _Link(Generic[K, V]):
    """A key and its value, between the two that were set before and after it."""

    __slots__ = ("key", "newer", "older", "value")

    def __init__(self, key: K, value: V) -> None:
        self.key, self.value = key, value
        self.older: Any = self
        self.newer: Any = self
