"""Figures, moments and states as people read them. What is not known is said in words."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from katmatic.moment import to_datetime

UNKNOWN = "unknown"
LEARNING = "learning"


def chance(p: float | None) -> str:
    """A probability in whole percent; nothing is certain but 0 and 1.

    >>> chance(0.804), chance(0.001), chance(0.9999), chance(None)
    ('80%', '<1%', '>99%', 'learning')
    """
    if p is None or p != p:
        return LEARNING
    if 0 < p < 0.01:
        return "<1%"
    return ">99%" if 0.99 < p < 1 else f"{p:.0%}"


def number(n: float | None) -> str:
    """A count with its thousands apart.

    >>> number(1234567), number(None)
    ('1,234,567', 'unknown')
    """
    return UNKNOWN if n is None or n != n else f"{n:,.0f}"


def figure(x: float | None, digits: int = 3) -> str:
    """A measured figure.

    >>> figure(0.81449), figure(None)
    ('0.814', 'unknown')
    """
    return UNKNOWN if x is None or x != x else f"{x:.{digits}f}"


def value(x: Any) -> str:
    """The value of a feature, short.

    >>> value(0.123456), value(3.0), value(None), value(True), value("gate")
    ('0.123', '3', 'unknown', 'yes', 'gate')
    """
    if x is None or x != x:
        return UNKNOWN
    if isinstance(x, bool):
        return "yes" if x else "no"
    return f"{x:.3g}" if isinstance(x, int | float) and abs(x) < 1e6 else f"{x}"


def span(seconds: float | None) -> str:
    """A length of time with its unit.

    >>> span(0.00034), span(0.0123), span(2.5), span(180), span(90_000), span(0), span(None)
    ('340 µs', '12 ms', '2.5 s', '3 min', '25 h', 'none', 'unknown')
    """
    if seconds is None or seconds != seconds:
        return UNKNOWN
    if seconds <= 0:
        return "none"
    for size, unit, limit in ((1e-6, "µs", 1e-3), (1e-3, "ms", 1.0), (1.0, "s", 120.0), (60.0, "min", 7200.0)):
        if seconds < limit:
            shown = seconds / size
            return f"{shown:.1f} {unit}" if unit == "s" and shown < 10 else f"{shown:.0f} {unit}"
    return f"{seconds / 3600:.0f} h"


def ago(moment: int | None, now: int) -> str:
    """How long ago it was.

    >>> ago(0, 90_000_000), ago(None, 0), ago(10, 10)
    ('90 s ago', 'never', 'now')
    """
    if moment is None:
        return "never"
    seconds = (now - moment) / 1e6
    return "now" if seconds < 1 else f"{span(round(seconds))} ago"


def late(length: timedelta | None) -> str:
    """How late somebody came.

    >>> late(timedelta(minutes=7, seconds=31)), late(timedelta(seconds=20))
    ('8 min late', 'less than a minute late')
    """
    if length is None:
        return ""
    minutes = length.total_seconds() / 60
    return "less than a minute late" if minutes < 1 else f"{minutes:.0f} min late"


def clock(moment: int | None, zone: ZoneInfo) -> str:
    """The time of day: hours and minutes."""
    return UNKNOWN if moment is None else _there(moment, zone).strftime("%H:%M")


def stamp(moment: int | None, zone: ZoneInfo, now: int) -> str:
    """The time of day, with the date if that is not today's."""
    if moment is None:
        return UNKNOWN
    there = _there(moment, zone)
    is_today = there.date() == _there(now, zone).date()
    return there.strftime("%H:%M:%S") if is_today else f"{there.day} {there:%b} {there:%H:%M}"


def machine(moment: int, zone: ZoneInfo) -> str:
    """The moment for a machine: the `datetime` of a `time` element."""
    return _there(moment, zone).isoformat(timespec="seconds")


def day(found: date) -> str:
    """A date in full.

    >>> day(date(2025, 4, 21))
    'Monday 21 April 2025'
    """
    return f"{found:%A} {found.day} {found:%B %Y}"


def short_day(found: date) -> str:
    """A date, short.

    >>> short_day(date(2025, 4, 21))
    'Mon 21 Apr'
    """
    return f"{found:%a} {found.day} {found:%b}"


def plain(name: str) -> str:
    """The name of a field, a feature or a predictor as words.

    >>> plain("absent_60d"), plain("student_id")
    ('absent 60d', 'student')
    """
    return name.replace("_", " ").removesuffix(" id")


def _there(moment: int, zone: ZoneInfo) -> datetime:
    return to_datetime(moment).astimezone(zone)
