"""Keys and their numbers: those that a dictionary would give, whatever the keys look like, and the way back."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from katmatic.state.keys import FORGOTTEN_FOR, KeyNumbers

LONG = ["x" * 31, "x" * 32, "ü" * 127 + "x", "ü" * 128, "x" * 65_535, "x" * 65_536, "", "a\0", "a", "a\0\0"]
TEXTS = st.one_of(st.text(max_size=9), st.sampled_from(LONG))
FIELDS = {0: 1, 1: 2, 2: 0, 7: 1}  # by space


def decoded(keys):
    return msgspec.msgpack.decode(keys.packed(), type=list[tuple[str, ...]])


@st.composite
def batches(draw):
    """Some keys of one space, again and again."""
    found = []
    for _ in range(draw(st.integers(1, 5))):
        space = draw(st.sampled_from(list(FIELDS)))
        keys = st.tuples(*[TEXTS] * FIELDS[space])
        found.append((space, draw(st.lists(keys, min_size=1, max_size=8))))
    return found


@settings(max_examples=200, deadline=None)
@given(batches())
def test_numbers_are_those_of_a_dictionary(told):
    keys, expected = KeyNumbers(), {}
    for space, batch in told:
        assert keys.numbers(space, batch, adds=False) == [expected.get((space, key), -1) for key in batch]
        assert keys.numbers(space, batch) == [expected.setdefault((space, key), len(expected)) for key in batch]
    assert len(keys) == len(expected)
    again = KeyNumbers()
    again.load(*keys.dump())
    for some in (keys, again):
        for (space, key), number in expected.items():
            assert some.find(space, key) == number
        singles = {number: key for (space, key), number in expected.items() if FIELDS[space] == 1}
        rows = some.rows(np.array([*singles], np.int64)[:, None])
        assert rows == list(singles.values())
        assert decoded(rows) == list(singles.values())


def test_keys_are_known_far_past_the_first_tables_and_after_a_restart():
    names = [f"C{i:06}" for i in range(200_000)]
    keys = KeyNumbers()
    for start in range(0, len(names), 7_001):
        keys.numbers(0, names[start : start + 7_001])
    assert keys.numbers(0, names) == list(range(len(names)))
    assert keys.find(1, names[0]) == -1, "in another space it is another key"
    again = KeyNumbers()
    again.load(*keys.dump())
    assert again.numbers(0, [*names[::-1], "new"]) == [*range(len(names))[::-1], len(names)]


def test_where_one_text_ends_and_the_next_begins_belongs_to_a_key():
    keys = KeyNumbers()
    assert keys.numbers(0, [("a", "bc"), ("ab", "c"), ("abc", ""), ("", "abc"), ("a", "bc")]) == [0, 1, 2, 3, 0]


def test_the_keys_of_rows_are_a_list_of_tuples_to_whoever_looks():
    keys = KeyNumbers()
    cards, categories = keys.numbers(0, ["C1", "C2", "C1"]), keys.numbers(1, ["K1", "K1", "K2"])
    rows = keys.rows(np.column_stack([cards, categories]))
    expected = [("C1", "K1"), ("C2", "K1"), ("C1", "K2")]
    assert decoded(rows) == expected
    keys.numbers(0, ["later"])
    assert rows == expected
    assert expected == rows
    assert rows != expected[:2]
    assert [*rows] == expected
    assert (len(rows), rows[1], rows[-2:], repr(rows)) == (3, expected[1], expected[-2:], repr(expected))
    assert rows.take(np.array([2, 0])) == [expected[2], expected[0]]
    assert decoded(rows.take(np.array([1]))) == [expected[1]]


@pytest.mark.parametrize("n", [0, 1, 15, 16, 65_536])
def test_a_list_of_any_length_is_written(n):
    keys = KeyNumbers()
    (number,) = keys.numbers(0, ["key"])
    assert decoded(keys.rows(np.full((n, 1), number))) == [("key",)] * n
    assert decoded(keys.rows(np.empty((n, 0), np.int64))) == [()] * n
    assert decoded(keys.rows(np.full((2, 20), number))) == [("key",) * 20] * 2


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0, 7]), st.integers(0, 40), st.booleans(), st.integers(0, 3)), max_size=60))
def test_forgotten_keys_give_their_numbers_to_new_ones_of_their_space(story):
    keys, known, now = KeyNumbers(), {}, 0
    spaces, gone = {}, []  # of every number that ever was; when it was forgotten, and which
    for space, text, forgets, repeats in story:
        now += FORGOTTEN_FOR // 3
        keys.free(now)
        key = (space, f"k{text}" * (1 + 9 * repeats))
        if forgets and key in known:
            number = known.pop(key)
            keys.forget(space, np.array([number]), now)
            gone.append((now, number))
            assert keys.texts(np.array([number])) == [key[1]], "whoever has its number may read it yet"
        else:
            number = keys.numbers(space, [key[1]])[0]
            assert number == known.get(key, number)
            taken = [at for at, old in gone if old == number]
            assert all(at <= now - FORGOTTEN_FOR for at in taken)
            gone = [each for each in gone if each[1] != number]
            known[key] = number
            assert spaces.setdefault(number, space) == space
        again = KeyNumbers()
        again.load(*keys.dump())
        for some in (keys, again):
            assert some.known == len(known) == len(set(known.values()))
            assert all(some.find(*key) == number for key, number in known.items())
            assert some.find(space, "never") == -1
            assert [some.texts(np.array([number])) for number in known.values()] == [[key[1]] for key in known]
            assert some.spaces(0, len(some)).tolist() == [
                spaces[i] if i in known.values() else -1 for i in range(len(some))
            ]


def test_numbers_that_come_and_go_take_no_more_room():
    keys, now = KeyNumbers(), 0
    rooms = []
    for turn in range(40):
        now += 2 * FORGOTTEN_FOR
        keys.free(now)
        numbers = keys.numbers(3, [f"turn {turn}, key {i:05}" for i in range(5_000)])
        keys.forget(3, np.array(numbers), now)
        rooms.append(len(keys._keys))
    assert len(keys) == 5_000
    assert keys.known == 0
    assert rooms[-1] == rooms[5]
