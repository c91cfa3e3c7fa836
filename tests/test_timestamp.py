"""Times as producers write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from katmatic.errors import InputError
from katmatic.moment import to_datetime, to_micros
from katmatic.timestamp import FIRST, LAST, TOGETHER_FROM, parse_many, parse_micros

KATHMANDU, BERLIN, NEW_YORK = ZoneInfo("Asia/Kathmandu"), ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")
ZONES = [KATHMANDU, BERLIN, NEW_YORK, ZoneInfo("UTC"), ZoneInfo("Australia/Lord_Howe"), ZoneInfo("Africa/Monrovia")]
FILLER = ["2025-01-01 00:00:00"] * TOGETHER_FROM


def utc(*parts: int) -> int:
    return to_micros(datetime(*parts, tzinfo=UTC))


def test_a_reader_in_kathmandu_writes_its_wall_clock():
    assert parse_micros("2025-04-21 08:02:00", KATHMANDU) == utc(2025, 4, 21, 2, 17)


@pytest.mark.parametrize(
    "text",
    [
        "2025-04-21T02:17:00Z", "2025-04-21t02:17:00z", "2025-04-21 02:17:00Z", "2025-04-21 02:17:00 UTC",
        "2025-04-21T08:02:00+05:45", "2025-04-21T08:02:00+0545", "2025-04-21 08:02:00 +05:45", "2025-04-21 08:02",
        "2025-04-20T21:17:00-05", "20250421T021700Z", "2025-W17-1T02:17:00Z", " 2025-04-21T02:17:00Z\n",
        "2025-04-21T02:17:00.000Z", "2025-04-21T08:02:00,0",
    ],
)  # fmt: skip
def test_one_moment_is_written_in_many_ways(text):
    assert parse_micros(text, KATHMANDU) == utc(2025, 4, 21, 2, 17)


def test_a_date_is_its_midnight_in_the_zone_of_the_app():
    assert parse_micros("2025-04-21", KATHMANDU) == utc(2025, 4, 20, 18, 15)


@pytest.mark.parametrize(
    ("fraction", "micros"),
    [(".5", 500_000), (".000001", 1), (".123456", 123_456), (".1234567", 123_456), (".999999999", 999_999)],
)
def test_what_is_finer_than_a_microsecond_is_cut(fraction, micros):
    for text in (f"1969-12-31T23:59:59{fraction}Z", f"1970-01-01 00:59:59{fraction}+01:00"):
        assert parse_micros(text, BERLIN) % 1_000_000 == micros
        assert parse_many([text] * TOGETHER_FROM, BERLIN)[0].tolist() == [parse_micros(text, BERLIN)] * TOGETHER_FROM


def test_the_hour_that_happens_twice_is_the_first_of_the_two():
    assert parse_micros("2025-10-26 02:30:00", BERLIN) == utc(2025, 10, 26, 0, 30)
    assert parse_micros("2025-11-02 01:30:00", NEW_YORK) == utc(2025, 11, 2, 5, 30)


def test_the_hour_that_is_skipped_is_read_with_the_offset_before_the_change():
    assert parse_micros("2025-03-30 02:30:00", BERLIN) == utc(2025, 3, 30, 1, 30)
    assert parse_micros("2025-03-09 02:30:00", NEW_YORK) == utc(2025, 3, 9, 7, 30)


def test_the_unit_of_a_number_follows_from_its_size():
    moment = utc(2025, 4, 21, 8, 2)
    for number in (moment // 10**6, moment // 1000, moment, moment * 1000):
        for written in (number, float(number), str(number)):
            assert parse_micros(written, KATHMANDU) == moment
    assert parse_micros(10**11 - 1, BERLIN) == (10**11 - 1) * 10**6
    assert parse_micros(10**11, BERLIN) == 10**14
    assert parse_micros(10**14, BERLIN) == 10**14
    assert parse_micros(10**17, BERLIN) == 10**14
    assert parse_micros(-1, BERLIN) == -(10**6)


@given(st.integers(0, 4 * 10**15))
def test_seconds_with_six_decimals_are_exact(micros):
    text = f"{micros // 10**6}.{micros % 10**6:06}"
    assert parse_micros(float(text), KATHMANDU) == micros
    assert parse_micros(text, KATHMANDU) == micros
    assert parse_many([float(text)] * TOGETHER_FROM, KATHMANDU)[0][0] == micros


@pytest.mark.parametrize(
    "value",
    [
        float("nan"), float("inf"), float("-inf"), True, False, None, b"2025-04-21", [], {}, 1j, "", " ", "soon", "NaN",
        "inf", "08:02", "2025-04-21 24:00:00", "2025-04-21 08:60:00", "2025-04-21 08:02:60", "2025-02-29", "2025-13-01",
        "2025-00-10", "2025-04-31 08:00:00", "0000-01-01", "10000-01-01", "2025-4-1", "21.04.2025", "04/21/2025",
        "2025-04-21_08:02:00", "2025-04-21T08.5", "2025-04-21T08:02.5", "2025-04-21T08:02:00.",
        "2025-04-21T08:02:00+24:00",
        "2025-04-21T08:02:00+05:60", "2025-04-21T08:02:00 Europe/Berlin", "2025-04-21T08:02:00.0000000001",
        "２０２５-04-21 08:02:00", "2025-04-21 08:02:0\ud800", "20250421", "20250421080200", "1e999", "0x10", "1_000",
        "--1", "3/4", "9" * 21, 10**21, -(10**21), 1e300, 10**400, "0001-01-01T00:00:00+05:45",
        "9999-12-31T23:59:59-00:01",
        -99_999_999_999, "2025-04-21 08:02:00\x00",
    ],
    ids=lambda value: ascii(value)[:30],
)  # fmt: skip
def test_nonsense_is_refused_in_four_parts(value):
    with pytest.raises(InputError) as caught:
        parse_micros(value, KATHMANDU)
    assert all(caught.value.as_dict().values())
    assert len(caught.value.found) <= 80
    moments, bad = parse_many([*FILLER, value, *FILLER], KATHMANDU)
    assert [(i, str(error)) for i, error in bad] == [(len(FILLER), str(caught.value))]
    assert moments[len(FILLER)] == 0
    assert set(moments.tolist()) == {0, parse_micros(FILLER[0], KATHMANDU)}


def test_a_number_too_long_to_be_written_is_refused():
    with pytest.raises(InputError, match="of 33220 bits"):
        parse_micros(10**10_000, KATHMANDU)


def test_bare_digits_that_could_be_a_date_are_not_guessed():
    with pytest.raises(InputError, match="write the date as"):
        parse_micros("20250421", KATHMANDU)
    assert parse_micros(20250421, KATHMANDU) == 20250421 * 10**6


def test_the_ends_of_the_calendar():
    assert parse_micros("0001-01-01T00:00:00Z", BERLIN) == FIRST
    assert parse_micros("9999-12-31T23:59:59.999999Z", BERLIN) == LAST
    assert [to_datetime(moment).year for moment in (FIRST, LAST)] == [1, 9999]


def test_nothing_is_no_moment():
    moments, bad = parse_many([], KATHMANDU)
    assert (moments.tolist(), bad) == ([], [])


def local(*parts):
    return datetime(*parts)  # noqa: DTZ001  # a wall clock


def dates():
    return st.datetimes(local(1, 1, 1), local(9999, 12, 31)) | st.datetimes(local(1970, 1, 1), local(2040, 1, 1))


def near_changes():
    changes = [local(2025, 3, 30, 2), local(2025, 10, 26, 3), local(2025, 3, 9, 2), local(2025, 11, 2, 2),
               local(2025, 10, 5, 2), local(1986, 1, 1), local(1972, 1, 7), local(1919, 3, 1)]  # fmt: skip
    hours = st.integers(-2 * 3600 * 10**6, 2 * 3600 * 10**6)
    return st.builds(lambda change, off: change + timedelta(microseconds=off), st.sampled_from(changes), hours)


def read(value, zone):
    """The moment, or the text of the error."""
    try:
        return parse_micros(value, zone)
    except InputError as error:
        return str(error)


@st.composite
def texts(draw):
    moment = draw(dates() | near_changes())
    text = moment.strftime("%Y").zfill(4) + moment.strftime(f"-%m-%d{draw(st.sampled_from(' Tt'))}%H:%M:%S")
    text += draw(st.sampled_from(["", "", ".5", ".123", ".123456", ",000001", ".123456789", ".", ".1234567891"]))
    text += draw(st.sampled_from(["", "", "Z", "z", "+05:45", "-11:30", "+00:00", "+0100", "+23:59", "+24:00", " UTC"]))
    if draw(st.integers(0, 5)) == 0:  # a digit goes wrong
        place = draw(st.integers(0, len(text) - 1))
        text = text[:place] + draw(st.sampled_from("0369/:;é -+Z")) + text[place + 1 :]
    return text


def numbers():
    return (
        st.floats()
        | st.integers(-(10**21), 10**21)
        | st.integers(0, 20).map(lambda n: 10**n)
        | st.floats(0, 4e9)
        | st.floats(1e11, 4e12)
        | st.booleans()
        | st.integers(0, 4 * 10**9).map(str)
    )


@pytest.mark.slow
@settings(max_examples=300)
@given(st.lists(texts() | numbers(), min_size=TOGETHER_FROM, max_size=60) | st.lists(texts()), st.sampled_from(ZONES))
@example([*FILLER, "2025-03-30 02:30:00", "2025-10-26 02:30:00"], BERLIN)
@example([2**63 - 1, -(2**63), *range(40)], BERLIN)
def test_many_at_once_are_read_as_one_by_one(values, zone):
    moments, bad = parse_many(values, zone)
    errors = {i: str(error) for i, error in bad}
    assert [errors.get(i, moment) for i, moment in enumerate(moments.tolist())] == [read(v, zone) for v in values]
    assert not moments[list(errors)].any()
    assert list(errors) == sorted(errors)


@given(dates() | near_changes(), st.sampled_from(ZONES))
def test_local_times_are_those_of_the_standard_library(moment, zone):
    expected = to_micros(moment.replace(tzinfo=zone))
    text = moment.isoformat(sep=" ")
    if FIRST <= expected <= LAST:
        assert parse_micros(text, zone) == expected
        assert parse_many([text] * TOGETHER_FROM, zone)[0].tolist() == [expected] * TOGETHER_FROM


@given(st.floats(-6e10, 9.9e10))
def test_a_float_is_read_to_the_nearest_microsecond(seconds):
    assert abs(Fraction(parse_micros(seconds, BERLIN)) - Fraction(seconds) * 10**6) <= Fraction(1, 2) + Fraction(
        1, 10**9
    )
