"""Events from the calendar."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest

from katmatic import App, Event, Key, Time
from katmatic.moment import to_datetime, to_micros
from katmatic.sources.calendar import ALERTS_LIMIT, Calendars, starts

DAY = 86_400_000_000


class Expected(Event):
    student: Key
    bell: Time


class Lunch(Event):
    student: Key
    at: Time


def moment(text, zone="UTC"):
    return to_micros(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)))


def local(starts, zone, count):
    return [to_datetime(start).astimezone(ZoneInfo(zone)).strftime("%m-%d %H:%M") for start in islice(starts, count)]


def test_a_timetable_is_published_at_midnight_of_the_school():
    app = App("school", timezone="Asia/Kathmandu")
    days = []

    @app.every("1d")
    def timetable(day):
        days.append(day)
        yield Expected(student="A1", bell=day.replace(hour=8))
        yield Expected(student="A2", bell=day.replace(hour=8))
        yield Lunch(student="A1", at=day.replace(hour=12))

    after = moment("2025-04-20T18:14:59")
    found = list(Calendars(app).due(after, after + DAY))
    midnight = moment("2025-04-21T00:00", "Asia/Kathmandu")
    assert [(start, topic, len(values)) for start, topic, values in found] == [
        (midnight, "expected", 2),
        (midnight, "lunch", 1),
    ]
    assert json.loads(found[0][2][0]) == {"student": "A1", "bell": "2025-04-21T08:00:00+05:45"}
    assert [day.isoformat() for day in days] == ["2025-04-21T00:00:00+05:45"]


def test_each_period_is_published_once_however_time_is_cut():
    app = App("a", timezone="Europe/Berlin")

    @app.every("6h")
    def shifts(start):
        yield Lunch(student="x", at=start)

    @app.every("1d")
    def days(start):
        yield Expected(student="x", bell=start)

    begin, end = moment("2025-03-29T00:00"), moment("2025-03-31T23:00")
    whole = list(Calendars(app).due(begin, end))
    cuts = [begin, begin + 1, moment("2025-03-29T23:00"), moment("2025-03-30T22:00"), end - 1, end]
    pieces = [piece for a, b in pairwise(cuts) for piece in Calendars(app).due(a, b)]
    assert pieces == whole
    assert [start for start, _, _ in whole] == sorted(start for start, _, _ in whole)


def test_days_are_those_of_the_zone_when_clocks_change():
    lengths = [later - earlier for earlier, later in zip(
        list(islice(starts(timedelta(days=1), ZoneInfo("Europe/Berlin"), moment("2025-03-28T12:00")), 4)),
        list(islice(starts(timedelta(days=1), ZoneInfo("Europe/Berlin"), moment("2025-03-28T12:00")), 1, 4)),
        strict=False,
    )]  # fmt: skip
    assert [length / 3.6e9 for length in lengths] == [24, 23, 24]


def test_hours_are_hours_that_pass():
    hours = list(islice(starts(timedelta(hours=1), ZoneInfo("Europe/Berlin"), moment("2025-10-25T21:59")), 26))
    assert [later - earlier for earlier, later in pairwise(hours)] == [3_600_000_000] * 25
    assert local(hours, "Europe/Berlin", 4) == ["10-26 00:00", "10-26 01:00", "10-26 02:00", "10-26 02:00"]


def test_parts_of_a_day_begin_at_local_midnight():
    begin = moment("2025-04-21T00:00", "Asia/Kathmandu")
    assert local(starts(timedelta(hours=10), ZoneInfo("Asia/Kathmandu"), begin - 1), "Asia/Kathmandu", 4) == [
        "04-21 00:00", "04-21 10:00", "04-21 20:00", "04-22 00:00",
    ]  # fmt: skip


def test_weeks_begin_on_mondays_and_odd_periods_are_counted_through():
    found = islice(starts(timedelta(days=7), ZoneInfo("Asia/Kathmandu"), moment("2025-04-22T00:00")), 3)
    assert [to_datetime(start).astimezone(ZoneInfo("Asia/Kathmandu")).weekday() for start in found] == [0, 0, 0]
    odd = list(islice(starts(timedelta(hours=36), ZoneInfo("UTC"), moment("2025-04-22T00:00")), 3))
    assert [later - earlier for earlier, later in pairwise(odd)] == [36 * 3_600_000_000] * 2


def test_a_midnight_that_does_not_exist_is_when_the_day_begins():
    found = starts(timedelta(days=1), ZoneInfo("America/Havana"), moment("2025-03-08T12:00"))
    assert local(found, "America/Havana", 2) == ["03-09 01:00", "03-10 00:00"]


@pytest.mark.parametrize("wrong", ["raises", "no event", "nothing"])
def test_a_function_that_fails_is_told_and_the_others_go_on(wrong):
    app = App("a")

    @app.every("1d")
    def broken(day):
        if wrong == "nothing":
            return None
        return failing(day)

    def failing(day):
        yield Expected(student="A1", bell=day)
        if wrong == "raises":
            raise ValueError("no roster")
        yield "A2"

    @app.every("1d")
    def whole(day):
        yield Lunch(student="A1", at=day)

    calendars = Calendars(app)
    found = list(calendars.due(0, DAY))
    assert [topic for _, topic, _ in found] == (["lunch"] if wrong == "nothing" else ["expected", "lunch"])
    (alert,) = calendars.take_alerts()
    assert (alert.name, alert.key, alert.now) == ("calendar-failed", ("broken",), DAY)
    assert {"raises": "ValueError: no roster", "no event": "'A2', which is no event"}.get(
        wrong, "TypeError"
    ) in alert.text
    assert calendars.take_alerts() == []


def test_what_failed_is_tried_again_until_it_works():
    app = App("a")
    roster = []

    @app.every("1d")
    def timetable(day):
        if not roster:
            raise ConnectionError("no roster")
        yield Expected(student=roster[0], bell=day)

    calendars = Calendars(app)
    assert list(calendars.due(0, DAY)) == []
    assert list(calendars.again()) == []
    roster.append("A1")
    ((start, topic, values),) = calendars.again()
    assert (start, topic, json.loads(values[0])["student"]) == (DAY, "expected", "A1")
    assert list(calendars.again()) == []


def test_failures_that_nobody_takes_are_bounded():
    app = App("a")

    @app.every("1h")
    def broken(day):
        raise ValueError

    calendars = Calendars(app)
    assert list(calendars.due(0, (ALERTS_LIMIT + 10) * 3_600_000_000)) == []
    assert len(calendars.take_alerts()) == ALERTS_LIMIT


def test_nothing_is_due_in_no_time():
    app = App("a")
    app.every("1d")(lambda day: [Lunch(student="x", at=day)])
    noon = to_micros(datetime(2025, 4, 21, 12, tzinfo=UTC))
    assert list(Calendars(app).due(noon, noon)) == []
    assert list(Calendars(app).due(noon, noon - DAY)) == []
