"""Events from the calendar: `@app.every` functions, called once for each period in the app's time zone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from itertools import groupby
from zoneinfo import ZoneInfo

import msgspec

from katmatic.moment import to_datetime, to_micros
from katmatic.records import Alert
from katmatic.spec.app import App, Calendar
from katmatic.spec.event import events_in, schema

ALERTS_LIMIT = 1000  # failures that are kept until they are taken; of more, the oldest are dropped

_DAY = timedelta(days=1)
_MONDAY = date(1970, 1, 5)  # periods of several days are counted from here, so that weeks begin on Mondays
_MICROSECOND = timedelta(microseconds=1)


class Calendars:
    """The calendars of an application.

    A period of whole days begins at local midnight; a shorter one a multiple of its length after local midnight, in
    time that really passes, so that a day on which clocks change has 23 or 25 hours.
    """

    def __init__(self, app: App) -> None:
        self._calendars, self._zone = app.calendars, app.timezone
        self._alerts: list[Alert] = []
        self._failed: list[tuple[Calendar, int]] = []

    def due(self, after: int, until: int) -> Iterator[tuple[int, str, list[bytes]]]:
        """What the calendars say of the periods that begin in `(after, until]`: beginning, topic, events as JSON.

        By beginning, then in the order of declaration. Each function is called when its events are asked for. One that
        raises, or yields something else than events, has published what came before; `take_alerts` tells of it.
        """
        periods = [
            (start, i) for i, calendar in enumerate(self._calendars) for start in self._starts(calendar, after, until)
        ]
        for start, i in sorted(periods):
            yield from self._published(self._calendars[i], start)

    def again(self) -> Iterator[tuple[int, str, list[bytes]]]:
        """What the periods that failed publish now; those that fail again are tried again the next time."""
        failed, self._failed = self._failed, []
        for calendar, start in failed:
            yield from self._published(calendar, start)

    def take_alerts(self) -> list[Alert]:
        """The failures since the last call, as alerts."""
        taken, self._alerts = self._alerts, []
        return taken

    def _starts(self, calendar: Calendar, after: int, until: int) -> Iterator[int]:
        for start in starts(calendar.every, self._zone, after):
            if start > until:
                return
            yield start

    def _published(self, calendar: Calendar, start: int) -> Iterator[tuple[int, str, list[bytes]]]:
        found: list[tuple[str, bytes]] = []
        try:
            for event in calendar.function(to_datetime(start).astimezone(self._zone)):
                if not events_in(type(event)):
                    raise TypeError(f"it yielded {event!r}, which is no event")
                found.append((schema(type(event)).topic, msgspec.json.encode(event)))
        except Exception as error:  # the user's function may raise anything
            self._fail(calendar, start, error)
        for topic, group in groupby(found, key=lambda pair: pair[0]):
            yield start, topic, [value for _, value in group]

    def _fail(self, calendar: Calendar, start: int, error: Exception) -> None:
        name = getattr(calendar.function, "__name__", repr(calendar.function))
        when = to_datetime(start).astimezone(self._zone).isoformat(sep=" ", timespec="minutes")
        text = f"the calendar {name} failed for {when}: {type(error).__name__}: {error}"
        self._alerts.append(Alert(name="calendar-failed", severity="critical", text=text, now=start, key=(name,)))
        self._failed.append((calendar, start))
        del self._alerts[:-ALERTS_LIMIT], self._failed[:-ALERTS_LIMIT]


def starts(period: timedelta, zone: ZoneInfo, after: int) -> Iterator[int]:
    """When periods begin, from the first one after the moment `after` on, without an end.

    >>> from itertools import islice
    >>> days = starts(timedelta(days=1), ZoneInfo("Asia/Kathmandu"), 0)
    >>> [to_datetime(start).isoformat() for start in islice(days, 2)]
    ['1970-01-01T18:30:00+00:00', '1970-01-02T18:30:00+00:00']
    """
    day = to_datetime(after).astimezone(zone).date()
    if period % _DAY == timedelta(0):
        days = period // _DAY
        first = day - timedelta(days=(day - _MONDAY).days % days)
        while True:
            if (start := _midnight(first, zone)) > after:
                yield start
            first += timedelta(days=days)
    length = period // _MICROSECOND
    if period > _DAY:  # no whole number of days: in time that passes
        origin = _midnight(_MONDAY, zone)
        start = origin + ((after - origin) // length + 1) * length
        while True:
            yield start
            start += length
    while True:
        begin, end = _midnight(day, zone), _midnight(day + _DAY, zone)
        skipped = max(0, (after - begin) // length + 1)
        yield from range(begin + skipped * length, end, length)
        day += _DAY


def _midnight(day: date, zone: ZoneInfo) -> int:
    return to_micros(datetime.combine(day, time(), tzinfo=zone))
