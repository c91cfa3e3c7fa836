"""Maps in parts are maps, and no call takes long."""

from __future__ import annotations

import itertools
import random
from collections import OrderedDict

import pytest

from katmatic.parts import BITS, Fifo, Latest, Parts


def test_parts_are_a_map():
    rng, found, naive = random.Random(1), Parts(), {}
    for _ in range(20_000):
        key = rng.randrange(4_000)
        if rng.random() < 0.4:
            assert found.pop(key) == naive.pop(key, None)
        else:
            found[key] = naive[key] = rng.random()
        assert (key in found, found.get(key)) == (key in naive, naive.get(key))
    assert len(found) == len(naive) > 500
    assert {key: found[key] for key in found} == naive


def test_what_came_first_goes_first():
    rng, found, naive = random.Random(2), Fifo(), OrderedDict()
    for _ in range(20_000):
        key, value = rng.randrange(5_000), rng.choice([None, 1, 2])
        assert (key in found) == (key in naive)
        if key in naive:
            found[key] = value
        else:
            found.add(key, value)
        naive[key] = value
        while len(naive) > 1_000:
            assert found.pop_oldest() == naive.popitem(last=False)
        assert len(found) == len(naive)
    assert [(key, found[key]) for key in found] == list(naive.items())


def test_no_part_is_large_and_none_is_kept_empty():
    found = Fifo()
    for position in range(0, 50_000, 3):
        found.add(position, None)
        if len(found) > 10_000:
            found.pop_oldest()
    parts = found._values._parts
    assert max(map(len, parts.values())) <= 2**BITS
    assert len(parts) <= 30_000 / 2**BITS + 2


def test_only_what_is_there_can_be_changed():
    found = Fifo()
    with pytest.raises(KeyError):
        found[7] = 1
    assert len(found) == 0


def test_what_was_set_last_is_kept():
    rng, found, naive = random.Random(3), Latest(500), OrderedDict()
    held = []
    for _ in range(2_000):
        keys = [(f"key {rng.randrange(2_000)}", rng.randrange(2)) for _ in range(rng.randrange(12))]
        pairs = [(key, rng.random()) for key in keys]
        found.update(iter(pairs))
        for key, value in pairs:
            naive[key] = value
            naive.move_to_end(key)
        newest = itertools.islice(reversed(naive.items()), 500)
        assert all(found.get(key) == value for key, value in newest)
        assert len(found) == len(set(found)) <= 1_012
        held.append(len(found._new) + len(found._old) + len(found._gone))
    assert {key: found.get(key) for key in found}.items() <= naive.items()
    assert found.get(("nobody", 0)) is None
    assert max(held) <= 1_524, "what was given up is freed, bit by bit"
    assert all(before - now <= 26 for before, now in itertools.pairwise(held))
