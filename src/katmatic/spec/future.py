"""Windows that look forward: `future.any(Chargeback, per=Payment, within="60d")` looks at `[t, t + 60d)`."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from katmatic import duration
from katmatic.errors import DeclarationError
from katmatic.spec.event import Event, FieldRef, events_in, field_ref, schema

EventsType = type[Event] | types.UnionType


@dataclass(frozen=True, eq=False)
class Label:
    """One forward window: what happens to the anchor's key in `[t + start, t + end)`, `t` being the anchor's time.

    `any` and `none` are yes or no (1 or 0); `count`, `sum`, `mean` a number; `last` a value. The evidence joins the
    anchor by all key fields whose names they share. The anchor is never evidence about itself.
    """

    op: str
    evidence: tuple[type[Event], ...]
    field: str | None
    anchor: type[Event]
    start: timedelta
    end: timedelta
    provisional: timedelta | None = None  # after this long, silence counts provisionally
    unless: tuple[type[Event], ...] = ()  # such an event in the window makes the label void (censored)
    where: Callable[[Any], bool] | None = None

    @property
    def is_binary(self) -> bool:
        """Whether the prediction is a probability."""
        return self.op in ("any", "none")

    @property
    def join(self) -> tuple[str, ...]:
        """Names of the key fields that evidence and anchor share."""
        shared = set(schema(self.anchor).keys)
        for event in (*self.evidence, *self.unless):
            shared &= set(schema(event).keys)
        return tuple(name for name in schema(self.anchor).keys if name in shared)

    def __str__(self) -> str:
        what = " | ".join(event.__name__ for event in self.evidence) + (f".{self.field}" if self.field else "")
        span = f"({duration.spell(self.start)}, {duration.spell(self.end)})"
        return f"future.{self.op}({what}, per={self.anchor.__name__}, within={span})"


Within = str | tuple[str, str]


def any(
    what: EventsType,
    *,
    per: type[Event],
    within: Within,
    provisional: str | None = None,
    unless: Any = None,
    where: Callable[[Any], bool] | None = None,
) -> Label:
    """Yes if such an event happens in the window, else no."""
    return _label("any", what, per, within, provisional, unless, where)


def none(
    what: EventsType,
    *,
    per: type[Event],
    within: Within,
    provisional: str | None = None,
    unless: Any = None,
    where: Callable[[Any], bool] | None = None,
) -> Label:
    """Yes if no such event happens in the window, else no."""
    return _label("none", what, per, within, provisional, unless, where)


def count(
    what: EventsType,
    *,
    per: type[Event],
    within: Within,
    provisional: str | None = None,
    unless: Any = None,
    where: Callable[[Any], bool] | None = None,
) -> Label:
    """How many such events happen in the window."""
    return _label("count", what, per, within, provisional, unless, where)


def sum(
    what: Any,
    *,
    per: type[Event],
    within: Within,
    provisional: str | None = None,
    unless: Any = None,
    where: Callable[[Any], bool] | None = None,
) -> Label:
    """The sum of a field over the window; 0 if nothing happens."""
    return _label("sum", what, per, within, provisional, unless, where)


def mean(
    what: Any,
    *,
    per: type[Event],
    within: Within,
    provisional: str | None = None,
    unless: Any = None,
    where: Callable[[Any], bool] | None = None,
) -> Label:
    """The mean of a field over the window; void (censored) if nothing happens."""
    return _label("mean", what, per, within, provisional, unless, where)


def last(
    what: Any,
    *,
    per: type[Event],
    within: Within,
    provisional: str | None = None,
    unless: Any = None,
    where: Callable[[Any], bool] | None = None,
) -> Label:
    """The latest value of a field in the window; void (censored) if nothing happens."""
    return _label("last", what, per, within, provisional, unless, where)


def _label(
    op: str,
    what: Any,
    per: type[Event],
    within: Within,
    provisional: str | None,
    unless: Any,
    where: Callable[[Any], bool] | None,
) -> Label:
    name = f"future.{op}"
    ref: FieldRef | None = field_ref(what)
    events = (ref.event,) if ref else events_in(what)
    if (ref is None) is (op in ("sum", "mean", "last")) or not events:
        wanted = (
            "a field such as Payment.amount" if op in ("sum", "mean", "last") else "an event class, or a union of them"
        )
        raise DeclarationError(name, found=repr(what), expected=wanted, do=f"{name}({wanted}, per=..., within=...)")
    if not events_in(per):
        raise DeclarationError(name, found=f"per={per!r}", expected="the anchor's event class", do="per=Payment")
    first, second = ("0s", within) if isinstance(within, str) else within
    start, end = duration.parse(first, where=name), duration.parse(second, where=name)
    if end <= start or end <= timedelta(0):
        raise DeclarationError(
            name,
            found=f"within={within!r}",
            expected="a window that ends after it starts and after its anchor",
            do='say how far it looks ahead: within="30m", or within=("-2h", "15m")',
        )
    wait = None if provisional is None else duration.parse(provisional, where=name)
    if wait is not None and not timedelta(0) < wait < end:
        raise DeclarationError(
            name,
            found=f"provisional={provisional!r}",
            expected="a moment inside the window",
            do="leave it out, or shorten it",
        )
    void = () if unless is None else events_in(unless)
    if unless is not None and not void:
        raise DeclarationError(name, found=f"unless={unless!r}", expected="event classes", do="unless=Cancelled")
    label = Label(op, events, ref.name if ref else None, per, start, end, wait, void, where)
    if not label.join:
        raise DeclarationError(
            name,
            found=f"{', '.join(e.__name__ for e in (*events, *void))} and {per.__name__} with no key of the same name",
            expected="at least one Key (or Id) field that both have",
            do="name the key fields alike in both events",
        )
    return label
