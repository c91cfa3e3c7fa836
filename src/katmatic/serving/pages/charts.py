"""Where the points and bars of the inline charts lie, in the units of their view box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

WIDTH, HEIGHT = 480.0, 220.0
BROAD = 760.0  # of a chart that has a row for itself
LEFT, RIGHT, TOP, BOTTOM = 40.0, 26.0, 10.0, 26.0
TICK_WIDTH = 95.0  # what a date below a chart needs


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    place: float
    text: str


@dataclass(frozen=True)
class Bar:
    """One bar: left, top, width, height; `title` says its figure."""

    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class Curve:
    """One line: its pieces (a gap where nothing is known) as SVG point lists, and its points."""

    name: str
    kind: str  # names its look in the style sheet
    pieces: tuple[str, ...]
    points: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True)
class Chart:
    """A chart with dates below and figures on the left."""

    title: str
    bars: tuple[Bar, ...]
    curves: tuple[Curve, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    width: float
    right: float
    height: float = HEIGHT
    left: float = LEFT
    bottom: float = HEIGHT - BOTTOM


Line = tuple[str, str, Sequence[float | None]]  # name, kind, figures


def chart(
    title: str,
    names: Sequence[str],
    *,
    bars: Sequence[float | None] = (),
    lines: Sequence[Line] = (),
    percent: bool = True,
    zero: bool = True,
    width: float = WIDTH,
    high: float | None = None,
) -> Chart | None:
    """The chart of figures at the places `names`; None if nothing is known.

    With `zero` the axis begins at 0; it ends at `high` or above.
    """
    known = [v for row in (bars, *(line[2] for line in lines)) for v in row if v is not None]
    if not known or not names:
        return None
    low, high, step = _axis(
        0.0 if zero else min(known), max(*known, high or 0.0) if high else max(known), at_most=1.0 if percent else None
    )
    slot = (width - LEFT - RIGHT) / len(names)

    def x(i: int) -> float:
        return LEFT + slot * (i + 0.5)

    def y(v: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (v - low) / (high - low))

    def spell(v: float) -> str:
        return f"{v:.1%}" if percent else f"{v:.3g}"

    thick = min(slot * 0.68, 28.0)
    drawn = tuple(
        Bar(
            round(x(i) - thick / 2, 1),
            round(y(v), 1),
            round(thick, 1),
            round(y(low) - y(v), 1),
            f"{names[i]}: {spell(v)}",
        )
        for i, v in enumerate(bars)
        if v is not None
    )
    curves = tuple(
        _curve(
            name,
            kind,
            [None if v is None else (x(i), y(v), f"{names[i]}: {name} {spell(v)}") for i, v in enumerate(row)],
        )
        for name, kind, row in lines
    )
    every = ceil(len(names) * TICK_WIDTH / (width - LEFT - RIGHT))
    across = tuple(Tick(round(x(i), 1), names[i]) for i in range(len(names)) if i % every == (len(names) - 1) % every)
    marks = round((high - low) / step)
    digits = max(0, -floor(log10(step)) - (2 if percent else 0))
    up = tuple(
        Tick(round(y(low + i * step), 1), f"{low + i * step:.{digits}{'%' if percent else 'f'}}")
        for i in range(marks + 1)
    )
    return Chart(title, drawn, curves, across, up, width=width, right=width - RIGHT)


def _curve(name: str, kind: str, places: Sequence[tuple[float, float, str] | None]) -> Curve:
    pieces: list[list[str]] = [[]]
    for place in places:
        if place is None:
            pieces.append([])
        else:
            pieces[-1].append(f"{place[0]:.1f},{place[1]:.1f}")
    points = tuple((round(p[0], 1), round(p[1], 1), p[2]) for p in places if p is not None)
    return Curve(name, kind, tuple(" ".join(piece) for piece in pieces if len(piece) > 1), points)


def _axis(low: float, high: float, *, at_most: float | None) -> tuple[float, float, float]:
    """The ends of an axis, and the distance of its marks: 1, 2 or 5 times a power of ten.

    >>> _axis(0.0, 0.083, at_most=1.0)
    (0.0, 0.1, 0.02)
    """
    room = max(high - low, abs(high) * 0.1, 1e-3)
    power = 10.0 ** floor(log10(room / 4))
    step = next(step for m in (1, 2, 5, 10) if (step := m * power) >= room / 5)
    bottom, top = floor(low / step + 1e-9) * step, ceil(high / step - 1e-9) * step
    if top <= bottom:
        top = bottom + step
    if at_most is not None and high <= at_most:
        top = min(top, max(at_most, bottom + step))
    return round(bottom, 10), round(top, 10), round(step, 10)
