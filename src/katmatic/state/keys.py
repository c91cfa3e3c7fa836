"""Keys <-> small integers, over all key spaces, as bytes: a text is made of one only where somebody looks at it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from katmatic.records import Keys
from katmatic.state import kernel, loop, scan

Ints = NDArray[np.int64]

FORGOTTEN_FOR = 60_000_000  # microseconds for which the key of a number that was forgotten can be read
_NOTHING = np.zeros(1, np.int64)[:0]  # which has an address
_INDEX_FIRST, _WORDS_FIRST = 1 << 10, 1 << 12
_decode = msgspec.msgpack.Decoder(list[tuple[str]]).decode


class Destination(NamedTuple):
    """Where numbers of keys go, by addresses: an array, how far apart, in which rows; and whether it is noted when."""

    found: int
    stride: int
    places: int
    notes: bool = False  # in `KeyNumbers.used`:
    moment: int = 0  # of these rows the own time,
    now: int = 0  # and when they came


class KeyNumbers:
    """Keys -> 0, 1, 2, ... in the order in which they first come, over all spaces; and back.

    A key is a text for each field of its space. What has been given a number keeps it until it is forgotten; it can be
    read until, `FORGOTTEN_FOR` later, the number goes to a new key of its space. So what was made of numbers may be
    read later, by another thread too.
    """

    def __init__(self) -> None:
        self._facts = np.zeros(scan.KEY_FACTS, np.int64)
        self._facts[:3] = 0, 1, _INDEX_FIRST - 1
        self._count = self._facts.data  # an item of it costs a third
        self._one_by_one = np.arange(0)  # places of records that come in their order
        self._free: dict[int, tuple[Ints, int]] = {}  # by space: numbers for new keys, and their address,
        self._free_words = np.zeros(2 * kernel.SPACES_MOST, np.int64)  # the same as loops take it,
        self._about = np.zeros(scan.KEYS_WORDS, np.int64)  # and where all lies
        self.about_at: int = self._about.ctypes.data
        self._gone: deque[tuple[int, int, Ints]] = deque()  # and those that will be: since when, space, numbers
        self._forgotten = 0  # of both kinds
        self._index = np.zeros(2 * _INDEX_FIRST, np.int64)
        self._starts = np.zeros(_INDEX_FIRST, np.int64)
        self.used = np.full(_INDEX_FIRST, kernel.NEVER)  # per number: the last moment of a row that names it
        self._keys = np.zeros(_WORDS_FIRST, np.int64)
        self._room, self._scratch = np.empty(_WORDS_FIRST, np.int64), np.empty(_WORDS_FIRST, np.int64)
        self._names: dict[int, str] = {}  # of keys of one field that somebody has asked for
        self._look()

    def __len__(self) -> int:
        return self._count[scan.K_COUNT]

    def number(
        self,
        space: int,
        text: bytes,
        columns: tuple[int, int, int, int],
        *,
        count: int,
        size: int,
        adds: bool = True,
        rows: Destination | None = None,
    ) -> Ints:
        """The number of each record's key; a new key gets the next one, or (not `adds`) -1.

        `columns` are addresses: where the fields begin in `text`, their lengths, which of them are the key; and how
        many these are. All these texts together have at most `size` bytes. With `rows` the numbers go there, and
        nothing is given back.
        """
        words = count * (2 + (scan.KEY_HEAD * columns[3] + 7) // 8) + (size + 7) // 8 + 1
        if len(self._room) < words or len(self._scratch) < 2 * count:
            self._room, self._scratch = _larger(self._room, words), _larger(self._scratch, 2 * count)
            self._look()
        free, free_at = self._free.get(space) or (_NOTHING, 0)
        if adds:
            self._facts[scan.K_FREE] = len(free)
        found = _NOTHING
        if rows is None:
            if len(self._one_by_one) < count:
                self._one_by_one = np.arange(2 * count)
            found = np.empty(count, np.int64)
            rows = Destination(found.ctypes.data, 1, self._one_by_one.ctypes.data)
        give = partial(loop.number, text, columns, space, count=count, adds=adds, free=free_at, rows=rows)
        if give(self._at):
            self._grow(count, words)
            give(self._at)
        if adds and len(free):
            self._use(space, free, int(self._facts[scan.K_FREE]))
        return found

    def taken(self, spaces: Iterable[int]) -> None:
        """Note that `scan.intake` may have given numbers of these spaces that were free."""
        for space in spaces if self._free else ():
            if space in self._free:
                self._use(space, self._free[space][0], int(self._free_words[2 * space + 1]))

    def numbers(self, space: int, keys: Iterable[Any], *, adds: bool = True) -> list[int]:
        """The number of each key: a text, or a tuple of them for several fields."""
        rows = [(key,) if isinstance(key, str) else key for key in keys]
        width = len(rows[0]) if rows else 0
        parts = [part.encode() for row in rows for part in row]
        lengths = np.array([*map(len, parts)], np.int64)
        places = (np.cumsum(lengths) - lengths).reshape(len(rows), width).T
        text = b"".join([*parts, bytes(scan.PADDING)])
        table = np.ascontiguousarray([places, lengths.reshape(len(rows), width).T], np.int64)
        fields = np.arange(width)
        at = table.ctypes.data, table.ctypes.data + table.nbytes // 2, fields.ctypes.data, width
        found: list[int] = self.number(space, text, at, count=len(rows), size=len(text), adds=adds).tolist()
        return found

    def find(self, space: int, key: Any) -> int:
        """The number of a key, -1 if it was never seen."""
        return self.numbers(space, [key], adds=False)[0]

    def rows(self, numbers: Ints) -> Keys:
        """Keys of several fields, by the number of each of these in a space of its own: (n, fields)."""
        return _Rows(self, numbers)

    def texts(self, numbers: Ints) -> list[str]:
        """The texts of keys of one field."""
        wanted = numbers.tolist()
        try:
            return self._known(wanted)
        except KeyError:
            new = np.array([number for number in dict.fromkeys(wanted) if number not in self._names])
            decoded = _decode(self.packed(new[:, None]))
            self._names.update(zip(new.tolist(), (text for (text,) in decoded), strict=True))
            return self._known(wanted)

    def packed(self, numbers: Ints) -> memoryview:
        """The keys whose fields have these numbers, as MessagePack has a list of lists."""
        *_held, starts, keys = self._texts_at  # which belong together: another thread may be having them replaced
        return loop.pack(np.ascontiguousarray(numbers), starts, keys)

    @property
    def known(self) -> int:
        """How many keys have a number."""
        return len(self) - self._forgotten

    def spaces(self, first: int, stop: int) -> Ints:
        """The space of each number from `first` up to `stop`; -1 of a forgotten one."""
        heads = self._keys[self._starts[first:stop]]
        return np.where(heads & scan.FORGOTTEN, -1, (heads >> 32) & 0xFF)

    def forget(self, space: int, numbers: Ints, now: int) -> None:
        """Take back the numbers of some keys of a space; new ones get them from `FORGOTTEN_FOR` after `now` on."""
        if len(numbers):
            loop.forget(np.ascontiguousarray(numbers), self._at[:4])
            self._gone.append((now, space, numbers))
            self._forgotten += len(numbers)

    def free(self, now: int) -> None:
        """Let new keys have numbers that were forgotten long enough ago."""
        while self._gone and self._gone[0][0] <= now - FORGOTTEN_FOR:
            _, space, numbers = self._gone.popleft()
            before, _ = self._free.get(space, (_NOTHING, 0))
            self._let(space, np.concatenate([before, numbers]))

    def dump(self) -> tuple[int, bytes]:
        """What `load` takes."""
        self._tidy()
        return len(self), self._keys[1 : self._facts[scan.K_USED]].tobytes()

    def load(self, count: int, dumped: bytes | memoryview, used: Ints = _NOTHING) -> None:
        """Go on with the numbers that were dumped, and when each was named last."""
        words = np.frombuffer(dumped, np.int64)
        self._facts[:2] = count, 1 + len(words)
        self._keys = _larger(np.concatenate([[0], words]), 1 + len(words))
        self._starts = np.zeros(0, np.int64)
        self.used = used
        self._grow(1 + count // 8, 1, anew=True)
        heads = self._keys[self._starts[:count]]
        gone = np.flatnonzero(heads & scan.FORGOTTEN)
        self._forgotten = len(gone)
        of = (heads[gone] >> 32) & 0xFF
        for space in np.unique(of).tolist():
            self._let(space, gone[of == space])

    def _let(self, space: int, free: Ints) -> None:
        """From now on new keys of a space get these numbers."""
        at = free.ctypes.data
        self._free[space] = free, at
        self._free_words[2 * space : 2 * space + 2] = at, len(free)

    def _use(self, space: int, free: Ints, left: int) -> None:
        """New keys were given numbers that were free; so many are left."""
        if left < len(free):
            for number in free[left:].tolist():
                self._names.pop(number, None)
            self._let(space, free[:left])
            self._forgotten -= len(free) - left

    def _tidy(self) -> None:
        """Give up the room of keys whose number another one has."""
        if not self._facts[scan.K_GARBAGE]:
            return
        keys, starts = np.zeros_like(self._keys), np.zeros_like(self._starts)  # others may be reading the old ones
        facts, _, begins, words, *_ = self._at
        used = loop.tidy((facts, begins, words, keys.ctypes.data, starts.ctypes.data))
        self._keys, self._starts = keys, starts
        self._facts[scan.K_USED], self._facts[scan.K_GARBAGE] = used, 0
        self._arrange()

    def _known(self, wanted: list[int]) -> list[str]:
        if len(wanted) < 2:  # of one, itemgetter gives no tuple
            return [self._names[number] for number in wanted]
        return list(itemgetter(*wanted)(self._names))

    def _grow(self, more: int, words: int, *, anew: bool = False) -> None:
        """Have room for so many more keys of so many words; the index is made, if it is not there, or is too small."""
        count, used = len(self), int(self._facts[scan.K_USED])
        places = int(self._facts[scan.K_MASK]) + 1
        if used + words <= len(self._keys) and count + more <= len(self._starts) and 2 * (count + more) <= places:
            return
        if used + words > len(self._keys) and 2 * self._facts[scan.K_GARBAGE] > used:
            self._tidy()
            used = int(self._facts[scan.K_USED])
        if used + words > len(self._keys):
            self._keys = _larger(self._keys, used + words)
        if count + more > len(self._starts):
            self._starts = _larger(self._starts, count + more)
            self.used = np.concatenate([self.used, np.full(len(self._starts) - len(self.used), kernel.NEVER)])
        self._look()
        if anew or 2 * (count + more) > places:
            while 2 * (count + more) > places:
                places *= 2
            self._facts[scan.K_MASK] = places - 1
            self._arrange()

    def _arrange(self) -> None:
        self._index = np.zeros(2 * (int(self._facts[scan.K_MASK]) + 1), np.int64)
        self._look()
        loop.arrange(self._at[:4])

    def _look(self) -> None:
        """Note where everything lies: to ask an array for its address takes longer than to look up some keys."""
        arrays = self._facts, self._index, self._starts, self._keys, self._room, self._scratch, self.used
        self._texts_at = self._starts, self._keys, self._starts.ctypes.data, self._keys.ctypes.data
        self._at = tuple(array.ctypes.data for array in arrays)
        self._about[:] = *self._at, self._free_words.ctypes.data
        self._facts[scan.K_ROOM], self._facts[scan.K_STARTS] = len(self._keys), len(self._starts)


class _Rows(Keys):
    """The keys of rows by their numbers; texts once they are looked at."""

    def __init__(self, keys: KeyNumbers, numbers: Ints) -> None:
        self._keys, self._numbers = keys, numbers
        self._texts: list[tuple[str, ...]] | None = None

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, i: Any) -> Any:
        return self._read()[i]

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        return iter(self._read())

    def take(self, rows: Ints) -> Keys:
        """Some of the rows, by their index."""
        return _Rows(self._keys, self._numbers[rows])

    def followed_by(self, others: Sequence[Any]) -> Keys:
        """These, then others of their kind."""
        return _Rows(self._keys, np.concatenate([each._numbers for each in (self, *others)]))

    def packed(self) -> memoryview:
        """As MessagePack has them."""
        return self._keys.packed(self._numbers)

    def _read(self) -> list[tuple[str, ...]]:
        if self._texts is None:
            columns = [self._keys.texts(column) for column in self._numbers.T]
            self._texts = list(zip(*columns, strict=True)) if columns else [()] * len(self)
        return self._texts


def _larger(words: Ints, size: int) -> Ints:
    found = np.zeros(max(2 * len(words), size + size // 2), np.int64)
    found[: len(words)] = words
    return found
