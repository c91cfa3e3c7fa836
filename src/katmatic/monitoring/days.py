"""The days of moments in a time zone."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from katmatic.moment import to_datetime, to_micros


def day_of(moment: int, zone: ZoneInfo) -> date:
    """The day of a moment, by the wall clock of a zone."""
    return to_datetime(moment).astimezone(zone).date()


class Days:
    """The days of moments, of which those that follow each other are mostly the same."""

    def __init__(self, zone: ZoneInfo) -> None:
        self._zone = zone
        self._start = self._stop = 0  # of the day that was looked up last
        self._day = date.min

    def of(self, moment: int) -> date:
        """The day of a moment."""
        if not self._start <= moment < self._stop:
            self._day = day_of(moment, self._zone)
            self._start = _begin(self._day, self._zone)
            self._stop = _begin(self._day + timedelta(days=1), self._zone) if self._day < date.max else self._start
        return self._day


def _begin(day: date, zone: ZoneInfo) -> int:
    return to_micros(datetime(day.year, day.month, day.day, tzinfo=zone))
