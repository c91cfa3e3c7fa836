"""Times as producers write them -> microseconds since 1970 UTC: exactly, and many at once.

Read are ISO 8601 texts (a time without an offset is in the app's zone; what is finer than a microsecond is cut) and
numbers since 1970, whose unit follows from their size: each unit begins at March 1973 and ends in the year 5138.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from katmatic.errors import InputError
from katmatic.moment import EPOCH, to_micros

Moments = NDArray[np.int64]
Bad = list[tuple[int, InputError]]

# A number below the first bound is in seconds, then milliseconds, microseconds, nanoseconds.
MILLISECONDS_FROM, MICROSECONDS_FROM, NANOSECONDS_FROM = 10**11, 10**14, 10**17
NUMBERS_BELOW = 10**21
FIRST, LAST = -62_135_596_800_000_000, 253_402_300_799_999_999  # the years 1 to 9999, in UTC
TOGETHER_FROM = 32  # fewer values are read one by one: setting up the columns takes 50 us, one value takes 2 us
ZONE_BLOCKS_LIMIT = 65_536  # stretches of local time whose offset is remembered

_SECOND, _MINUTE, _HOUR, _DAY = 10**6, 60 * 10**6, 3600 * 10**6, 86_400 * 10**6
_TEXT = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d|\d{8}(?=[Tt])|\d{4}-?W\d\d-?\d)"
    r"(?:[Tt ](?P<clock>(?:[01]\d|2[0-3])(?::[0-5]\d(?::[0-5]\d)?|[0-5]\d(?:[0-5]\d)?)?)"
    r"(?:[.,](?P<fraction>\d{1,9}))?)?"
    r"(?: ?(?P<offset>[Zz]|UTC|[+-](?:[01]\d|2[0-3])(?::?[0-5]\d)?))?",
    re.ASCII,
)
_NUMBER = re.compile(r"[+-]?(?:\d{1,20}(?:\.\d{0,20})?|\.\d{1,20})(?:[eE][+-]?\d{1,2})?", re.ASCII)
_DIGITS_OF_A_DATE = re.compile(r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:\d{6})?", re.ASCII)


def parse_micros(value: str | float, zone: ZoneInfo) -> int:
    """The moment that `value` names, in microseconds since 1970 UTC; InputError if it names none.

    A local time that happens twice (clocks go back) is the first of the two; one that is skipped (clocks go forward)
    is read with the offset before the change, as `datetime` does.

    >>> kathmandu = ZoneInfo("Asia/Kathmandu")
    >>> parse_micros("2025-04-21 08:02:00", kathmandu) == parse_micros("2025-04-21T02:17:00Z", kathmandu)
    True
    >>> parse_micros(1745222520.123456, kathmandu), parse_micros("1745222520123", kathmandu)
    (1745222520123456, 1745222520123000)
    """
    if isinstance(value, str):
        moment = _of_text(value.strip(), zone)
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise _refusal(value, 'a text such as "2025-04-21 08:02:00" or a number of seconds since 1970', "send a time")
    else:
        moment = _of_number(value)
    if not FIRST <= moment <= LAST:
        raise _refusal(value, "a time in the years 1 to 9999", "correct the time")
    return moment


def parse_many(values: Sequence[str | float], zone: ZoneInfo) -> tuple[Moments, Bad]:
    """The moments of `values`, each as `parse_micros` reads it, and (index, error) of those that cannot be read.

    What cannot be read has the moment 0. Texts "YYYY-MM-DD HH:MM:SS[.f][Z|+hh:mm]" and plain numbers are read together,
    the others one by one.

    >>> moments, bad = parse_many(["1970-01-01T00:00:01Z", 2, "soon"], ZoneInfo("UTC"))
    >>> moments.tolist(), [(i, error.found) for i, error in bad]
    ([1000000, 2000000, 0], [(2, "'soon'")])
    """
    moments = np.zeros(len(values), np.int64)
    if len(values) < TOGETHER_FROM:
        return _one_by_one(values, np.arange(len(values)), moments, zone)
    kinds = set(map(type, values))
    rest: list[NDArray[np.int64]] = []
    for kind in kinds:
        if len(kinds) == 1:
            places, chosen = np.arange(len(values)), values
        else:
            places = np.array([i for i, value in enumerate(values) if type(value) is kind], np.int64)
            chosen = [values[i] for i in places.tolist()]
        if kind is str:
            found, known = _of_texts(chosen, zone)  # type: ignore[arg-type]
        elif kind is int or kind is float:
            found, known = _of_numbers(chosen)  # type: ignore[arg-type]
        else:
            rest.append(places)
            continue
        moments[places] = found
        rest.append(places[~known])
    return _one_by_one(values, np.sort(np.concatenate(rest)) if rest else np.arange(0), moments, zone)


def _one_by_one(
    values: Sequence[Any], places: NDArray[np.int64], moments: Moments, zone: ZoneInfo
) -> tuple[Moments, Bad]:
    bad: Bad = []
    for i in places.tolist():
        try:
            moments[i] = parse_micros(values[i], zone)
        except InputError as error:
            moments[i] = 0
            bad.append((i, error))
    return moments, bad


def _refusal(value: object, expected: str, do: str) -> InputError:
    shown = repr(value)
    return InputError("time", found=shown if len(shown) <= 80 else shown[:77] + "...", expected=expected, do=do)


def _of_text(text: str, zone: ZoneInfo) -> int:
    if found := _TEXT.fullmatch(text):
        date, clock, fraction, offset = found.groups()
        if fraction and len(clock) not in (6, 8):
            raise _refusal(text, "a fraction of a second", "write the seconds before it")
        try:
            moment = datetime.fromisoformat(f"{date}T{clock}" if clock else date)
        except ValueError as error:
            raise _refusal(text, "a date of the calendar, in the years 1 to 9999", "correct the date") from error
        moment = moment.replace(tzinfo=_fixed(offset) if offset else zone)
        return to_micros(moment) + (int(f"{fraction:0<6.6}") if fraction else 0)
    if _DIGITS_OF_A_DATE.fullmatch(text):
        raise _refusal(
            text, "no bare digits that could be a date or a number", 'write the date as "2025-04-21T08:02:00"'
        )
    if _NUMBER.fullmatch(text):
        return _of_number(int(text) if text.lstrip("+-").isdigit() else float(text))
    raise _refusal(text, 'ISO 8601 such as "2025-04-21 08:02:00", or a number since 1970', "send one of these")


@lru_cache(maxsize=4096)
def _fixed(offset: str) -> timezone:
    if not offset[1:3].isdigit():
        return UTC
    length = timedelta(hours=int(offset[1:3]), minutes=int(offset[3:].lstrip(":") or 0))
    return timezone(-length if offset[0] == "-" else length)


def _of_number(value: float) -> int:
    size = abs(value)
    if not size < NUMBERS_BELOW:  # also NaN
        shown = value if isinstance(value, float) else f"a whole number of {value.bit_length()} bits"
        raise _refusal(shown, "a time in the years 1 to 9999", "correct the time")
    if size < MILLISECONDS_FROM:
        unit = _SECOND
    elif size < MICROSECONDS_FROM:
        unit = 1000
    else:
        whole = math.floor(value)
        return whole if size < NANOSECONDS_FROM else whole // 1000
    whole = math.floor(value)
    return whole * unit + (round((value - whole) * unit) if isinstance(value, float) else 0)


def _of_numbers(values: Sequence[float]) -> tuple[Moments, NDArray[np.bool_]]:
    """Moments of ints, or of floats; and which of them are sure."""
    try:
        numbers = np.array(values, np.int64 if type(values[0]) is int else np.float64)
    except OverflowError:
        return np.zeros(len(values), np.int64), np.zeros(len(values), np.bool_)
    moments = np.zeros(len(values), np.int64)
    known = np.zeros(len(values), np.bool_)
    bounds = (0, MILLISECONDS_FROM, MICROSECONDS_FROM, NANOSECONDS_FROM, 2**63 - 1024)
    for (least, bound), unit in zip(pairwise(bounds), (_SECOND, 1000, 1, 0), strict=True):
        inside = (numbers > -bound) & (numbers < bound)  # false for NaN
        if least:
            inside &= (numbers <= -least) | (numbers >= least)
        if not inside.any():
            continue
        every = bool(inside.all())
        own = numbers if every else numbers[inside]
        whole = np.floor(own).astype(np.int64)
        if unit > 1:
            found = whole * unit
            if own.dtype == np.float64:
                found += np.rint((own - whole) * unit).astype(np.int64)
        else:
            found = whole if unit else whole // 1000
        moments[inside], known[inside] = found, (found >= FIRST) & (found <= LAST)
        if every:
            break
    return moments, known


# Where the digits of "YYYY-MM-DD HH:MM:SS" stand.
_HEAD_DIGITS = (0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18)
_HEAD, _LONGEST = 19, 19 + 10 + 6  # with nine digits of a fraction and an offset


def _of_texts(values: Sequence[str], zone: ZoneInfo) -> tuple[Moments, NDArray[np.bool_]]:
    """Moments of texts in the usual form; and which of them are in it."""
    moments = np.zeros(len(values), np.int64)
    known = np.zeros(len(values), np.bool_)
    letters = np.frombuffer("".join(values).encode("ascii", "replace"), np.uint8)
    lengths = np.fromiter(map(len, values), np.int64, len(values))
    least, most = int(lengths.min()), int(lengths.max())
    if least == most:
        if _HEAD <= least <= _LONGEST:
            _of_letters(np.ascontiguousarray(letters.reshape(-1, least).T), slice(None), moments, known, zone)
        return moments, known
    starts = np.cumsum(lengths) - lengths
    for length in range(max(least, _HEAD), min(most, _LONGEST) + 1):
        places = np.flatnonzero(lengths == length)
        if len(places):
            _of_letters(letters[starts[places] + np.arange(length)[:, None]], places, moments, known, zone)
    return moments, known


def _of_letters(
    letters: NDArray[np.uint8],
    places: slice | NDArray[np.int64],
    moments: Moments,
    known: NDArray[np.bool_],
    zone: ZoneInfo,
) -> None:
    """Read texts of one length, letter by letter; a length may hold three forms: local, with Z, with an offset."""
    length = len(letters)
    zulu = letters[-1] == ord("Z")
    sign = letters[length - 6] if length >= _HEAD + 6 else None
    shifted = np.zeros(letters.shape[1], np.bool_) if sign is None else (sign == ord("+")) | (sign == ord("-"))
    for form, tail in ((~(zulu | shifted), 0), (zulu, 1), (shifted, 6)):
        digits_of_fraction = length - _HEAD - tail - 1  # -1: there is none
        if not form.any() or digits_of_fraction == 0 or not -1 <= digits_of_fraction <= 9:
            continue
        every = bool(form.all())
        own = letters if every else letters[:, form]
        found, good = _of_form(own, digits_of_fraction)
        if tail == 0:
            found[good] -= offsets(found[good], zone)
        elif tail == 6:
            good &= _subtract_offset(own[-6:], found)
        good &= (found >= FIRST) & (found <= LAST)
        if every:
            moments[places], known[places] = found, good
        else:
            chosen = np.flatnonzero(form) if isinstance(places, slice) else places[form]
            moments[chosen], known[chosen] = found, good


def _of_form(letters: NDArray[np.uint8], digits_of_fraction: int) -> tuple[Moments, NDArray[np.bool_]]:
    """Local time in microseconds; and which of the texts have the form and are in the calendar."""
    digits = letters - np.uint8(48)
    last = _HEAD + 1 + digits_of_fraction
    numeric = [*_HEAD_DIGITS, *range(_HEAD + 1, last)]
    good = np.maximum.reduce([digits[i] for i in numeric]) <= 9
    between = letters[10]
    good &= (letters[4] == ord("-")) & (letters[7] == ord("-")) & (letters[13] == ord(":")) & (letters[16] == ord(":"))
    good &= (between == ord(" ")) | (between == ord("T")) | (between == ord("t"))
    if digits_of_fraction > 0:
        good &= (letters[_HEAD] == ord(".")) | (letters[_HEAD] == ord(","))
    month, day = digits[5] * np.uint8(10) + digits[6], digits[8] * np.uint8(10) + digits[9]
    hour, minute = digits[11] * np.uint8(10) + digits[12], digits[14] * np.uint8(10) + digits[15]
    second = digits[17] * np.uint8(10) + digits[18]
    year = _number(digits, 0, 4)
    good &= (year >= 1) & (month >= 1) & (month <= 12) & (day >= 1) & (hour < 24) & (minute < 60) & (second < 60)
    months = np.where(good, (year - 1970) * 12 + month - 1, 0)
    first = months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    after = (months + 1).astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    good &= day <= after - first
    seconds = (hour.astype(np.int64) * 60 + minute) * 60 + second
    moments = (first + day - 1) * _DAY + seconds * _SECOND
    if digits_of_fraction > 0:
        kept = min(digits_of_fraction, 6)
        moments += _number(digits, _HEAD + 1, kept) * 10 ** (6 - kept)
    return moments, good


def _number(digits: NDArray[np.uint8], start: int, count: int) -> NDArray[np.int64]:
    found: NDArray[np.int64] = digits[start].astype(np.int64)
    for i in range(start + 1, start + count):
        found = found * 10 + digits[i]
    return found


def _subtract_offset(letters: NDArray[np.uint8], moments: Moments) -> NDArray[np.bool_]:
    """Take "+hh:mm" off the local `moments`; which of them are in that form."""
    digits = letters - np.uint8(48)
    hours, minutes = _number(digits, 1, 2), _number(digits, 4, 2)
    good: NDArray[np.bool_] = np.maximum.reduce([digits[1], digits[2], digits[4], digits[5]]) <= 9
    good &= (letters[3] == ord(":")) & (hours < 24) & (minutes < 60)
    moments -= np.where(letters[0] == ord("-"), -1, 1) * (hours * _HOUR + minutes * _MINUTE)
    return good


def offsets(local: Moments, zone: ZoneInfo, sizes: tuple[int, ...] = (_DAY, _HOUR, _MINUTE)) -> Moments:
    """How far each local time is ahead of UTC: one look-up per day; where it changes per hour, then per minute."""
    if not sizes or not len(local):
        return np.array([_offset(moment, zone) for moment in local.tolist()], np.int64)
    used, inverse = _distinct(local // sizes[0])
    constant = [_constant_offset(block, sizes[0], zone) for block in used.tolist()]
    found: Moments = np.array([0 if offset is None else offset for offset in constant], np.int64)[inverse]
    if None in constant:
        apart = np.array([offset is None for offset in constant])[inverse]
        found[apart] = offsets(local[apart], zone, sizes[1:])
    return found


def _distinct(numbers: Moments) -> tuple[Moments, Moments]:
    """The different numbers, and which of them each one is; without sorting where they lie close together."""
    first, span = int(numbers.min()), int(numbers.max() - numbers.min()) + 1
    if span > 8 * len(numbers):
        used, inverse = np.unique(numbers, return_inverse=True)
        return used, inverse
    is_used = np.zeros(span, np.bool_)
    is_used[numbers - first] = True
    rank = np.cumsum(is_used) - 1
    return np.flatnonzero(is_used) + first, rank[numbers - first]


@lru_cache(maxsize=ZONE_BLOCKS_LIMIT)
def _constant_offset(block: int, size: int, zone: ZoneInfo) -> int | None:
    """The offset in all of a stretch of local time, or None if it changes within. No zone changes twice in a day."""
    first = _offset(block * size, zone)
    return first if first == _offset(block * size + size - 1, zone) else None


def _offset(local: int, zone: ZoneInfo) -> int:
    naive = (EPOCH + timedelta(microseconds=local)).replace(tzinfo=zone)
    return local - to_micros(naive)
