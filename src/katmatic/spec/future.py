"""Windows that look forward: `future.any(Chargeback, per=Payment, within="60d")` looks at `[t, t + 60d)`."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from katmatic import duration
from katmatic.errors import DeclarationError
from katmatic.spec.event import Event, events_in, field_ref, schema
from katmatic.spec.function import takes_one

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
    def events(self) -> tuple[type[Event], ...]:
        """Every event class that it looks at: the anchor, the evidence, and what makes it void."""
        return tuple(dict.fromkeys((self.anchor, *self.evidence, *self.unless)))

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


OF_A_FIELD = ("sum", "mean", "last")


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
    ref = field_ref(what) if op in OF_A_FIELD else None
    events = events_in(what if op not in OF_A_FIELD else ref and ref.event)
    if not events:
        _refuse_evidence(name, what, op)
    if ref and ref.field.kind in (str, datetime):
        raise DeclarationError(
            name, found=f"{ref}, no number", expected="a field of type float, int or bool", do="give classes numbers"
        )
    if len(events_in(per)) != 1:
        raise DeclarationError(name, found=f"per={per!r}", expected="the anchor's event class", do="per=Payment")
    void = () if unless is None else events_in(unless)
    if (unless is not None and not void) or set(void) & set(events):
        raise DeclarationError(
            name, found=f"unless={unless!r}", expected="event classes that are not the evidence", do="unless=Cancelled"
        )
    if where is not None:
        takes_one(f"{name} where=", where, "the event")
    start, end = _window(name, within)
    label = Label(op, events, ref.name if ref else None, per, start, end, _wait(name, provisional, end), void, where)
    if not label.join:
        others = ", ".join(event.__name__ for event in (*events, *void))
        raise DeclarationError(
            name,
            found=f"{others} and {per.__name__} with no key of the same name",
            expected="at least one Key (or Id) field that all of them have",
            do="name the key fields alike",
        )
    return label


def _refuse_evidence(name: str, what: Any, op: str) -> None:
    if isinstance(what, Label):
        raise DeclarationError(
            name,
            found=f"{what}, a label",
            expected="events: a label of a label goes in a circle",
            do="name the events that decide it; past.mean(label, ...) makes a feature of it",
        )
    wanted = "a field such as Payment.amount" if op in OF_A_FIELD else "an event class, or a union of them"
    example = "Payment.amount" if op in OF_A_FIELD else "Chargeback"
    raise DeclarationError(
        name, found=repr(what), expected=wanted, do=f'write {name}({example}, per=Payment, within="60d")'
    )


def _window(name: str, within: Any) -> tuple[timedelta, timedelta]:
    ends = ("0s", within) if isinstance(within, str) else within
    if not isinstance(ends, tuple) or len(ends) != 2:
        raise DeclarationError(
            name,
            found=f"within={within!r}",
            expected="how far it looks, or where it starts and ends",
            do='say within="30m", or within=("-2h", "15m")',
        )
    start, end = (duration.parse(moment, where=f"{name} within=") for moment in ends)
    if end <= start:
        raise DeclarationError(
            name,
            found=f"within={within!r}",
            expected="a window that ends after it starts",
            do='say how far it looks ahead: within="30m", or within=("-2h", "15m")',
        )
    return start, end


def _wait(name: str, provisional: str | None, end: timedelta) -> timedelta | None:
    if provisional is None:
        return None
    wait = duration.parse(provisional, where=f"{name} provisional=")
    if not timedelta(0) < wait < end:
        raise DeclarationError(
            name,
            found=f"provisional={provisional!r}",
            expected="a moment after the anchor and before the window ends",
            do="leave it out, or shorten it",
        )
    return wait
