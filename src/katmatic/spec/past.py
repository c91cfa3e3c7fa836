"""Windows that look back: `past.mean(Payment.amount, "30d", by=Payment.card)` is the mean over `[t - 30d, t)`."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from katmatic import duration
from katmatic.errors import DeclarationError
from katmatic.spec.event import Event, FieldRef, events_in, field_ref, schema
from katmatic.spec.function import takes_one
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

    @property
    def kind(self) -> type:
        """The kind of the values that it looks at: str, float, int or bool; float for those of a label."""
        return float if self.field is None else schema(self.events[0]).field(self.field).kind

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
    """The `k` most frequent values of a field, most frequent first; ties go to the value seen first.

    They are candidates of a `Rank`; as a list, they are no feature.
    """
    if type(k) is not int or k < 1:
        raise DeclarationError("past.top", found=f"k={k!r}", expected="a whole number above 0", do="say how many: k=10")
    return _past("top", what, window, by, where, k)


COUNTING = ("count", "since")  # they look at events, not at a field of them
COMPARING = ("distinct", "last", "first", "top")  # they take text as well as numbers


def _past(op: str, what: Any, window: str | None, by: Any, where: Where | None, k: int | None = None) -> Past:
    name = f"past.{op}"
    is_open = window is None and op != "ewm"
    span = None if is_open else duration.parse(cast(str, window), where=name, least=duration.SHORTEST)
    if where is not None:
        takes_one(f"{name} where=", where, "the event")
    keys = _keys(name, by)
    if isinstance(what, Label):
        if op == "top":
            raise DeclarationError(name, found=str(what), expected="a field such as Click.item", do="rank by a key")
        return Past(op, (), what, None, span, keys, where, k)
    ref, events = field_ref(what), events_in(what)
    if ref is not None and op not in COUNTING:
        _check_kind(name, ref, op)
        return Past(op, (ref.event,), None, ref.name, span, keys, where, k)
    if events and op in COUNTING:
        return Past(op, events, None, None, span, keys, where, k)
    wanted = "an event class, a union of them, or a label" if op in COUNTING else "a field such as Payment.amount"
    raise DeclarationError(
        name,
        found=repr(what),
        expected=wanted,
        do="name the class: Payment" if op in COUNTING else "name the class and the field: Payment.amount",
    )


def _keys(name: str, by: Any) -> tuple[FieldRef, ...]:
    parts = by if isinstance(by, tuple) else (by,)
    named = tuple(ref for part in parts if (ref := field_ref(part)) is not None)
    if len(named) < len(parts) or len({ref.event for ref in named}) > 1 or len(set(named)) < len(named):
        raise DeclarationError(
            name,
            found=f"by={', '.join(str(field_ref(part) or repr(part)) for part in parts)}",
            expected="one Key field of the anchor event, or a tuple of different ones",
            do="name the field of the event that the prediction is about: by=Payment.card",
        )
    return named


def _check_kind(name: str, ref: FieldRef, op: str) -> None:
    if ref.field.kind is datetime:
        raise DeclarationError(
            name,
            found=f"{ref}, a time",
            expected="a field with a value",
            do=f"for its age: past.since({ref.event.__name__}, by=...)",
        )
    if ref.field.kind is str and op not in COMPARING:
        raise DeclarationError(
            name,
            found=f"{ref}, a text",
            expected="a field of type float, int or bool",
            do=f"count its values: past.distinct({ref}, ...), or take the newest: past.last({ref}, ...)",
        )
