"""Moments: microseconds since 1970 in UTC, and the aware datetimes that people read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_micros(moment: datetime) -> int:
    """Microseconds since 1970 of an aware `moment`."""
    return (moment - EPOCH) // _MICROSECOND


def to_datetime(moment: int) -> datetime:
    """The aware UTC datetime of microseconds since 1970; OverflowError outside the years 1 to 9999.

    >>> to_datetime(1_745_222_520_000_000).isoformat()
    '2025-04-21T08:02:00+00:00'
    """
    return EPOCH + timedelta(microseconds=moment)
