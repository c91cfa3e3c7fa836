"""Times as producers write them -> microseconds since 1970 UTC."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from fractions import Fraction
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from katmatic.errors import InputError
from katmatic.moment import to_micros


def parse_micros(value: str | float, zone: ZoneInfo) -> int:
    """The moment that `value` names."""
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError as error:
            raise InputError("time", found=repr(value), expected="ISO 8601", do="send ISO 8601") from error
        return to_micros(moment if moment.tzinfo else moment.replace(tzinfo=zone))
    return round(Fraction(value) * (1000 if abs(value) >= 10**11 else 10**6))


def parse_many(values: Sequence[str | float], zone: ZoneInfo) -> tuple[NDArray[np.int64], list[tuple[int, InputError]]]:
    """The moments, and those that could not be read."""
    found = np.zeros(len(values), np.int64)
    bad: list[tuple[int, InputError]] = []
    for i, value in enumerate(values):
        try:
            found[i] = parse_micros(value, zone)
        except InputError as error:
            bad.append((i, error))
    return found, bad
