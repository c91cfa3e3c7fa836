"""Days begin when they do on the wall."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from katmatic.moment import to_datetime, to_micros
from katmatic.monitoring.days import Days


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Asia/Kathmandu", "America/Sao_Paulo", "Pacific/Apia", "UTC"])
def test_the_day_of_a_moment_is_that_of_the_wall_clock_also_where_clocks_change_at_midnight(zone):
    zone, rng = ZoneInfo(zone), random.Random(4)
    days = Days(zone)
    moment = to_micros(datetime(2011, 10, 1, tzinfo=UTC))  # in that year Apia left out a day
    for _ in range(5_000):
        moment += rng.choice((1, 1_000_000, 3_600_000_000, 7 * 3_600_000_000, -1_800_000_000))
        assert days.of(moment) == to_datetime(moment).astimezone(zone).date()
