"""Events and the roles of their fields."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias, get_args, get_origin, get_type_hints

import msgspec

from katmatic.errors import DeclarationError

RESERVED_TOPICS = "katmatic."  # our own topics begin with this: katmatic.predictions, katmatic.labels, ...


class Role(Enum):
    """What a field is for, beyond its value."""

    KEY = "key"
    ID = "id"
    TIME = "time"
    SERVED = "served"
    VALUE = "value"


if TYPE_CHECKING:
    Key: TypeAlias = str
    Id: TypeAlias = str
    Time: TypeAlias = datetime
    Served: TypeAlias = str
else:
    Key = Annotated[str, Role.KEY]
    Id = Annotated[str, Role.ID]
    Time = Annotated[datetime, Role.TIME]
    Served = Annotated[str, Role.SERVED]


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


class EventMeta(type(msgspec.Struct)):  # type: ignore[misc]  # a metaclass that only msgspec can name
    """Makes event classes frozen and keyword-only, and remembers their topic."""

    def __new__(  # noqa: D102
        mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], *, topic: str | None = None, **options: Any
    ) -> EventMeta:
        cls = super().__new__(mcs, name, bases, namespace, frozen=True, kw_only=True, **options)
        cls.__topic__ = topic or _snake(name)
        return cls  # type: ignore[no-any-return]


class Event(msgspec.Struct, metaclass=EventMeta):
    """Something that happened, or will: subclass it and annotate the fields.

    Exactly one field is a `Time`; `Key` fields say who the event is about, an `Id` field is its identity (delivered
    twice it counts once). Other fields are `float`, `int`, `bool` or `str`, with or without a default.
    The event is read from the topic `topic=`, by default the class name in snake case.

    >>> class CardRead(Event, topic="gate"):
    ...     student: Key
    ...     at: Time
    >>> schema(CardRead).topic, schema(CardRead).keys
    ('gate', ('student',))
    """

    __topic__: ClassVar[str]


@dataclass(frozen=True)
class Field:
    """One field of an event: its name, role, the kind of its values, and its default (`...` if it must be given)."""

    name: str
    role: Role
    kind: type  # str, float, int, bool or datetime
    optional: bool  # None is a value
    default: Any = ...


@dataclass(frozen=True)
class Schema:
    """What an event class declares."""

    event: type[Event]
    name: str
    topic: str
    fields: tuple[Field, ...]

    def names(self, *roles: Role) -> tuple[str, ...]:
        """Names of the fields with one of `roles`, in the order of declaration."""
        return tuple(field.name for field in self.fields if field.role in roles)

    @property
    def time(self) -> str:
        """Name of the event-time field."""
        return self.names(Role.TIME)[0]

    @property
    def id(self) -> str | None:
        """Name of the identity field, if there is one."""
        return next(iter(self.names(Role.ID)), None)

    @property
    def keys(self) -> tuple[str, ...]:
        """Fields by which the event can be found: its keys, and its identity."""
        return self.names(Role.KEY, Role.ID)

    def field(self, name: str) -> Field:
        """The field called `name`; KeyError if there is none."""
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(name)


_SCHEMAS: dict[type, Schema] = {}
_KINDS = (str, float, int, bool)


def schema(event: type[Event]) -> Schema:
    """What `event` declares, checked: one time, known kinds, a topic of its own."""
    if event not in _SCHEMAS:
        _SCHEMAS[event] = _read_schema(event)
    return _SCHEMAS[event]


def _read_schema(event: type[Event]) -> Schema:
    hints = get_type_hints(event, include_extras=True)
    fields = tuple(
        _read_field(event, info.name, hints[info.name], ... if info.required else info.default)
        for info in msgspec.structs.fields(event)
    )
    found = Schema(event, event.__name__, event.__topic__, fields)
    for role, least, most in ((Role.TIME, 1, 1), (Role.ID, 0, 1), (Role.SERVED, 0, 1)):
        if not least <= len(found.names(role)) <= most:
            wanted = "exactly one" if least else "at most one"
            raise DeclarationError(
                event.__name__,
                found=f"{len(found.names(role))} fields of type {role.value.title()}",
                expected=wanted,
                do=f"annotate {wanted} field with {role.value.title()}",
            )
    if found.topic.startswith(RESERVED_TOPICS):
        raise DeclarationError(
            event.__name__, found=f"topic {found.topic!r}", expected="a topic of yours", do="choose another name"
        )
    return found


def _read_field(event: type[Event], name: str, hint: Any, default: Any) -> Field:
    role = Role.VALUE
    if get_origin(hint) is Annotated:
        hint, *marks = get_args(hint)
        role = next((mark for mark in marks if isinstance(mark, Role)), role)
    optional = False
    if get_origin(hint) is types.UnionType or str(get_origin(hint)) == "typing.Union":
        rest = [part for part in get_args(hint) if part is not type(None)]
        optional = len(rest) < len(get_args(hint))
        hint = rest[0] if len(rest) == 1 else hint
    if role is Role.TIME:
        hint = datetime
    elif hint not in _KINDS:
        raise DeclarationError(
            f"{event.__name__}.{name}",
            found=f"the type {getattr(hint, '__name__', hint)}",
            expected="Key, Id, Time, Served, float, int, bool or str",
            do="declare one of these; put nested data into fields of their own",
        )
    return Field(name, role, hint, optional, default)


def events_in(what: Any) -> tuple[type[Event], ...]:
    """The event classes that `what` names: one class, or a union such as `Chargeback | Confirmed`; else none."""
    if isinstance(what, type) and issubclass(what, Event) and what is not Event:
        return (what,)
    if isinstance(what, types.UnionType) or str(get_origin(what)) == "typing.Union":
        found = [events_in(part) for part in get_args(what)]
        return tuple(event for part in found for event in part) if all(found) else ()
    return ()


@dataclass(frozen=True)
class FieldRef:
    """A field named at run time: `Payment.amount`."""

    event: type[Event]
    name: str

    def __str__(self) -> str:
        return f"{self.event.__name__}.{self.name}"


def field_ref(what: Any) -> FieldRef | None:
    """The field that `Payment.amount` names, or None if `what` names no field of an event."""
    owner = getattr(what, "__objclass__", None)
    if isinstance(what, types.MemberDescriptorType) and isinstance(owner, EventMeta):
        return FieldRef(owner, what.__name__)
    return None


def field_refs(what: Any) -> Iterator[FieldRef | None]:
    """The fields that `by=` names: none, one or a tuple; None in place of what is no field."""
    for part in what if isinstance(what, tuple) else (what,):
        yield field_ref(part)
