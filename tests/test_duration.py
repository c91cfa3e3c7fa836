"""Durations: what people write is what is meant, and every length has a text."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from katmatic.duration import LIMIT_MICROS, NO_TIME, SHORTEST, UNITS_MICROS, micros, parse, spell
from katmatic.errors import DeclarationError
from tests.refusals import refused

LENGTHS = st.integers(-LIMIT_MICROS, LIMIT_MICROS).map(lambda size: timedelta(microseconds=size))
PARTS = st.lists(st.tuples(st.integers(0, 10_000), st.sampled_from(list(UNITS_MICROS))), min_size=1, max_size=4)
SIGNS = st.sampled_from(["", "+", "-"])


@given(LENGTHS)
def test_every_length_has_a_text_that_means_it(length):
    assert parse(spell(length)) == length


@given(SIGNS, PARTS)
def test_a_text_means_the_sum_of_its_parts(sign, parts):
    size = sum(number * UNITS_MICROS[unit] for number, unit in parts)
    text = sign + "".join(f"{number}{unit}" for number, unit in parts)
    if size > LIMIT_MICROS:
        with refused("duration", found=repr(text), expected="at most 1000y", do="for ever is None"):
            parse(text)
    else:
        assert micros(parse(text)) == (-size if sign == "-" else size)


@given(SIGNS, PARTS)
def test_a_length_is_spelt_with_each_unit_once_and_the_largest_first(sign, parts):
    size = sum(number * UNITS_MICROS[unit] for number, unit in parts) % LIMIT_MICROS
    said = spell(timedelta(microseconds=size if sign != "-" else -size))
    units = re.findall("[a-z]+", said)
    assert units == [unit for unit in ("d", "h", "m", "s", "ms", "us") if unit in units]
    assert said.startswith("-") == (sign == "-" and size > 0)


@given(st.text(max_size=12))
def test_any_text_is_either_a_length_or_refused(text):
    try:
        length = parse(text)
    except DeclarationError:
        return
    assert parse(spell(length)) == length


@pytest.mark.parametrize(
    "text",
    ["", " ", "d", "5", "5 d", "1.5d", "1d ", "1D", "5 days", "--1d", "1d-2h", "1d\n", "٣d", None, 5, b"1d"],
    ids=repr,
)
def test_what_is_no_duration(text):
    with refused(
        "App.source(CheckIn) lateness=",
        found=repr(text),
        expected='a duration such as "30d", "2h", "-10m" or "50ms"',
        do="write a whole number and a unit: y w d h m s ms us",
    ):
        parse(text, where="App.source(CheckIn) lateness=")


@given(LENGTHS)
def test_less_than_the_least_is_refused(length):
    text = spell(length)
    for least, wanted in ((NO_TIME, "no negative time"), (SHORTEST, "more than no time")):
        if length < least:
            with refused("lead", found=repr(text), expected=wanted, do='write e.g. "1d"'):
                parse(text, where="lead", least=least)
        else:
            assert parse(text, least=least) == length


def test_ends_are_within_reach():
    assert micros(parse("1000y")) == LIMIT_MICROS
    assert micros(parse("-1000y")) == -LIMIT_MICROS
    assert spell(timedelta(0)) == "0s"
    assert parse("0d") == timedelta(0)
