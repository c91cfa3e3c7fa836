"""Durations as people write them: `"30d"`, `"-2h"`, `"1h30m"`, `"50ms"` (Prometheus notation, with a sign)."""

from __future__ import annotations

import re
from datetime import timedelta

from katmatic.errors import DeclarationError

# Prometheus units; a year is 365 days, as there. `us` is ours: windows are exact to the microsecond.
UNITS_MICROS = {
    "y": 31_536_000_000_000,
    "w": 604_800_000_000,
    "d": 86_400_000_000,
    "h": 3_600_000_000,
    "m": 60_000_000,
    "s": 1_000_000,
    "ms": 1_000,
    "us": 1,
}
LIMIT_MICROS = 1000 * UNITS_MICROS["y"]  # moments and lengths stay far inside 64 bits
_PART = re.compile(r"([0-9]+)(ms|us|[ywdhms])")
_WHOLE = re.compile(r"[+-]?([0-9]+(ms|us|[ywdhms]))+")


NO_TIME = timedelta(0)
SHORTEST = timedelta(microseconds=1)


def parse(text: str, *, where: str = "duration", least: timedelta = timedelta.min) -> timedelta:
    """The length of time that `text` names; `"0"` with any unit is no time at all. Less than `least` is refused.

    >>> parse("1h30m")
    datetime.timedelta(seconds=5400)
    >>> parse("-10m") == -timedelta(minutes=10)
    True
    """
    if not isinstance(text, str) or not _WHOLE.fullmatch(text):
        raise DeclarationError(
            where,
            found=repr(text),
            expected='a duration such as "30d", "2h", "-10m" or "50ms"',
            do="write a whole number and a unit: y w d h m s ms us",
        )
    size = sum(int(number) * UNITS_MICROS[unit] for number, unit in _PART.findall(text))
    if size > LIMIT_MICROS:
        raise DeclarationError(where, found=repr(text), expected="at most 1000y", do="for ever is None")
    length = timedelta(microseconds=-size if text.startswith("-") else size)
    if length < least:
        wanted = "no negative time" if least == NO_TIME else "more than no time"
        raise DeclarationError(where, found=repr(text), expected=wanted, do='write e.g. "1d"')
    return length


def micros(length: timedelta) -> int:
    """The same length in whole microseconds.

    >>> micros(parse("2ms"))
    2000
    """
    return length // timedelta(microseconds=1)


def spell(length: timedelta) -> str:
    """The shortest text that `parse` reads back as `length`.

    >>> spell(parse("90m")), spell(parse("-2d")), spell(timedelta(0))
    ('1h30m', '-2d', '0s')
    """
    rest = micros(length)
    sign, rest = ("-", -rest) if rest < 0 else ("", rest)
    parts = []
    for unit, size in UNITS_MICROS.items():
        if unit in ("y", "w"):
            continue
        number, rest = divmod(rest, size)
        if number:
            parts.append(f"{number}{unit}")
    return sign + ("".join(parts) or "0s")
