"""Windows that look back: `past.mean(Payment.amount, "30d", by=Payment.card)` is the mean over `[t - 30d, t)`."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from katmatic import duration
from katmatic.errors import DeclarationError
from katmatic.spec.event import Event, FieldRef, events_in, field_ref, field_refs
from katmatic.spec.future import Label

Where = Callable[[Any], bool]
Source = type[Event] | types.UnionType | Label


@dataclass(frozen=True, eq=False)
class Past:
    """One backward window: an aggregate over the events of a key in `[t - window, t)`; `window` None is for ever."""

    op: str
    events: tuple[type[Event], ...]  # the stream it reads; empty when it reads a label
    label: Label | None
    field: str | None  # the aggregated field; None counts events, or takes the label's value
    window: timedelta | None
    by: tuple[FieldRef, ...]  # fields of the anchor; matched by name with the keys of the stream
    where: Where | None = None
    k: int | None = None

    def __str__(self) -> str:
        what = self.label or " | ".join(event.__name__ for event in self.events)
        what = f"{what}.{self.field}" if self.field else what
        span = duration.spell(self.window) if self.window is not None else None
        return f"past.{self.op}({what}, {span!r})"


def count(what: Source, window: str | None, *, by: Any = (), where: Where | None = None) -> Past:
    """How many events there were. 0 if none."""
    return _past("count", what, window, by, where)


def sum(what: Any, window: str | None, *, by: Any = (), where: Where | None = None) -> Past:
    """The sum of a field, or of a label's values. 0 if there were no events."""
    return _past("sum", what, window, by, where)


def mean(what: Any, window: str | None, *, by: Any = (), where: Where | None = None) -> Past:
    """The mean of a field, or of a label's values (its rate). Unknown if there were no events."""
    return _past("mean", what, window, by, where)


def min(what: Any, window: str | None, *, by: Any = (), where: Where | None = None) -> Past:
    """The least value. Unknown if there were no events."""
    return _past("min", what, window, by, where)


def max(what: Any, window: str | None, *, by: Any = (), where: Where | None = None) -> Past:
    """The greatest value. Unknown if there were no events."""
    return _past("max", what, window, by, where)


def std(what: Any, window: str | None, *, by: Any = (), where: Where | None = None) -> Past:
    """The sample standard deviation (n - 1). Unknown with fewer than two events."""
    return _past("std", what, window, by, where)


def distinct(what: Any, window: str | None, *, by: Any = (), where: Where | None = None) -> Past:
    """How many different values a field had. 0 if there were no events."""
    return _past("distinct", what, window, by, where)


def last(what: Any, window: str | None = None, *, by: Any = (), where: Where | None = None) -> Past:
    """The latest value before `t`, by event time; of two at the same time the later to arrive. Unknown if none."""
    return _past("last", what, window, by, where)


def first(what: Any, window: str | None = None, *, by: Any = (), where: Where | None = None) -> Past:
    """The earliest value in the window, by event time. Unknown if there were no events."""
    return _past("first", what, window, by, where)


def since(what: Source, window: str | None = None, *, by: Any = (), where: Where | None = None) -> Past:
    """Days since the latest event before `t`. Unknown if there was none."""
    return _past("since", what, window, by, where)


def ewm(what: Any, halflife: str, *, by: Any = (), where: Where | None = None) -> Past:
    """The mean of all values before `t`, each weighing one half per `halflife` of its age. Unknown if none."""
    return _past("ewm", what, halflife, by, where)


def top(what: Any, window: str | None, *, k: int, by: Any = (), where: Where | None = None) -> Past:
    """The `k` most frequent values of a field, most frequent first; ties go to the value seen first."""
    if not isinstance(k, int) or k < 1:
        raise DeclarationError("past.top", found=f"k={k!r}", expected="a whole number above 0", do="say how many: k=10")
    return _past("top", what, window, by, where, k)


def _past(op: str, what: Any, window: str | None, by: Any, where: Where | None, k: int | None = None) -> Past:
    span = None if window is None else duration.parse(window, where=f"past.{op}")
    if span is not None and span <= timedelta(0):
        raise DeclarationError(
            f"past.{op}", found=f"the window {window!r}", expected="more than no time", do='look back, e.g. "30d"'
        )
    refs = tuple(field_refs(by))
    if None in refs:
        raise DeclarationError(
            f"past.{op}",
            found=f"by={by!r}",
            expected="one Key field of the anchor event, or a tuple of them",
            do="name the field of the event that the prediction is about: by=Payment.card",
        )
    if callable(where) is False and where is not None:
        raise DeclarationError(
            f"past.{op}",
            found=f"where={where!r}",
            expected="a function of the event",
            do="where=lambda e: e.amount > 100",
        )
    named = tuple(ref for ref in refs if ref is not None)
    if isinstance(what, Label):
        return Past(op, (), what, None, span, named, where, k)
    ref = field_ref(what)
    if ref is not None and op not in ("count", "since"):
        return Past(op, (ref.event,), None, ref.name, span, named, where, k)
    events = events_in(what)
    if events and op in ("count", "since"):
        return Past(op, events, None, None, span, named, where, k)
    wanted = (
        "an event class, a union of them, or a label"
        if op in ("count", "since")
        else "a field such as Payment.amount, or a label"
    )
    raise DeclarationError(
        f"past.{op}", found=repr(what), expected=wanted, do=f"past.{op}({wanted.split(',')[0]}, window)"
    )
