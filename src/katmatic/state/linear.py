"""The compiled loop of linear models: unknown values are filled in, columns scaled, weighed and added up."""

from __future__ import annotations

import math

COMPILED: list[str] = []  # names of the functions that others here call


def weigh(x, rows, width, sources, marks, fills, means, scales, weights, count, start, logistic, out):
    """What a linear model answers for each row of `x`: `start` and its weighed columns, or (`logistic`) the chance.

    A column is one of `x`, unknown values filled in; or (`marks`) whether it is unknown. Columns are added up in their
    order, so an answer does not depend on the rows beside it, nor on the processor.
    """
    for i in range(rows):
        total = 0.0
        for c in range(count):
            v = x[i * width + sources[c]]
            if marks[c] != 0:
                v = 1.0 if v != v else 0.0
            elif v != v:
                v = fills[c]
            total += (v - means[c]) / scales[c] * weights[c]
        total += start
        if logistic != 0:
            e = math.exp(-abs(total))
            total = 1.0 / (1.0 + e) if total >= 0.0 else e / (1.0 + e)
        out[i] = total
