from datetime import datetime
from fractions import Fraction

import numpy as np

from katmatic.errors import InputError
from katmatic.moment import to_micros


def parse_micros(v, zone):
    if isinstance(v, str):
        try:
            d = datetime.fromisoformat(v)
        except ValueError:
            raise InputError("time", found=repr(v), expected="ISO 8601", do="x")
        if d.tzinfo is None:
            d = d.replace(tzinfo=zone)
        return to_micros(d)
    x = Fraction(v)
    a = abs(x)
    return round(x * 1000000) if a < 10**11 else round(x * 1000) if a < 10**14 else round(x)


def parse_many(values, zone):
    out = np.zeros(len(values), np.int64)
    bad = []
    for i, v in enumerate(values):
        try:
            out[i] = parse_micros(v, zone)
        except InputError as e:
            bad.append((i, e))
    return out, bad
