"""Maps in parts are maps, and no call takes long."""

from __future__ import annotations

import random
from collections import OrderedDict

from katmatic.parts import PARTS, Fifo, Parts


def test_parts_are_a_map():
    rng, found, naive = random.Random(1), Parts(), {}
    for _ in range(20_000):
        key = rng.randrange(2_000), rng.randrange(2)
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
        key = rng.randrange(5_000)
        found[key] = naive[key] = rng.choice([None, 1, 2])
        while len(naive) > 1_000:
            assert found.pop_oldest() == naive.popitem(last=False)
        assert len(found) == len(naive)
    assert [(key, found[key]) for key in found] == list(naive.items())


def test_positions_spread_over_the_parts_also_where_every_so_manyth_is_one_of_ours():
    for step in (1, 2, 10, 64, 1_000):
        found = Parts()
        for position in range(0, 50_000 * step, step):
            found[position] = None
        assert max(map(len, found._parts)) <= 50_000 // PARTS + 1
