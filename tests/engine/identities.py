"""What tells records apart, as the engine has it."""

from __future__ import annotations

import numpy as np

from katmatic.engine.validate import Columns, take
from katmatic.state import loop

FAR = 2**60  # microseconds


def identities(columns: Columns, stream: int = 0) -> list[int]:
    """The identities of the records that lie after 1970."""
    columns = take(columns, np.flatnonzero(columns.time >= 0))
    count = len(columns)
    kind, of, moment, found = np.zeros((4, count), np.int64)
    rows = np.arange(count), columns.time.copy(), kind, of, moment, found, np.zeros(1)
    layout = columns.layout
    strays = loop.settle(
        columns.text,
        layout.fields,
        columns.address,
        (layout.identity, stream, FAR, FAR),
        (0, 0, 0),
        [array.ctypes.data for array in rows],
        count=count,
    )
    assert not strays
    assert of.tolist() == [stream] * count
    return found.tolist()
