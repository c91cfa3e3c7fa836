"""`@app.every` functions: timetables and rosters, called at the start of each period, whose events are published."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec

from katmatic.moment import to_datetime, to_micros
from katmatic.spec.app import App, Calendar
from katmatic.spec.event import Event, schema

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Failure:
    """A calendar function raised, or yielded what is no event."""

    name: str
    moment: int
    error: str


@dataclass
class Calendars:
    """All calendars of an application. Periods of whole days begin at midnight in its zone, whatever its clocks do."""

    app: App
    failures: list[Failure] = field(default_factory=list)

    def due(self, after: int, until: int) -> Iterator[tuple[int, str, list[bytes]]]:
        """What is published by the periods that begin in `(after, until]`: moment, topic and events, in their order.

        A function that raises publishes nothing for its period; `failures` says so.
        """
        starts = [
            (start, calendar) for calendar in self.app.calendars for start in self._starts(calendar, after, until)
        ]
        for start, calendar in sorted(starts, key=lambda found: found[0]):
            moment = to_micros(start)
            topics: dict[str, list[bytes]] = {}
            for event in self._events(calendar.function, start, moment):
                topics.setdefault(schema(type(event)).topic, []).append(encode(event))
            for topic, values in topics.items():
                yield moment, topic, values

    def _starts(self, calendar: Calendar, after: int, until: int) -> Iterator[datetime]:
        zone, period = self.app.timezone, calendar.every
        begin = to_datetime(after).astimezone(zone)
        if period % DAY:  # a part of a day: counted from 1970
            step = period // timedelta(microseconds=1)
            for number in range(after // step + 1, until // step + 1):
                yield to_datetime(number * step).astimezone(zone)
            return
        days = period // DAY
        day = begin.date() - timedelta(days=begin.date().toordinal() % days)
        while True:
            start = datetime(day.year, day.month, day.day, tzinfo=zone)
            moment = to_micros(start)
            if moment > until:
                return
            if moment > after:
                yield start
            day += timedelta(days=days)

    def _events(self, function: Callable[[datetime], Any], start: datetime, moment: int) -> list[Event]:
        try:
            found = list(function(start))
            for event in found:
                schema(type(event))
        except Exception as error:  # the user's function may raise anything
            self.failures.append(Failure(function.__name__, moment, repr(error)))
            return []
        return found


def encode(event: Event) -> bytes:
    """An event as JSON, as its producer would have sent it."""
    return msgspec.json.encode(event)
