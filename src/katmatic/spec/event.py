"""Events and the roles of their fields."""

from __future__ import annotations

import re
import types
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    TypeAlias,
    Union,
    cast,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec

from katmatic.errors import DeclarationError

RESERVED_TOPICS = "katmatic."  # our own topics begin with this: katmatic.predictions, katmatic.labels, ...
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")  # what Apache Kafka accepts


class Role(Enum):
    """What a field is for, beyond its value."""

    KEY = "key"
    ID = "id"
    TIME = "time"
    SERVED = "served"
    VALUE = "value"


class EventMeta(msgspec.StructMeta):
    """Makes event classes frozen and keyword-only, and reads what they declare."""

    __schema__: Schema

    def __new__(  # noqa: D102
        mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], *, topic: str | None = None, **options: Any
    ) -> EventMeta:
        if options or [base for base in bases if type(base) is EventMeta and base is not Event]:
            raise DeclarationError(
                f"class {name}",
                found=", ".join(f"{option}=" for option in options) or f"an event made from {bases[0].__name__}",
                expected='class Payment(Event) or class Payment(Event, topic="payments")',
                do="leave the options out" if options else "derive it from Event, and repeat the fields",
            )
        # Values are plain, so no event can be part of a cycle, and the collector need not look at it.
        cls = super().__new__(mcs, name, bases, namespace, frozen=True, kw_only=True, gc=False)
        if bases != (msgspec.Struct,):
            cls.__schema__ = _read_schema(cls, topic or _snake(name))
        return cls


if TYPE_CHECKING:
    Key: TypeAlias = str
    Id: TypeAlias = str
    Time: TypeAlias = datetime
    Served: TypeAlias = str

    @dataclass_transform(kw_only_default=True, frozen_default=True)
    class Event:
        """What an editor sees: fields by keyword, read-only. To it, `Payment.amount` is a value of the field's type."""

        def __init_subclass__(cls, *, topic: str | None = None) -> None:
            """Read the topic `topic`."""

else:
    Key = Annotated[str, Role.KEY]
    Id = Annotated[str, Role.ID]
    Time = Annotated[datetime, Role.TIME]
    Served = Annotated[str, Role.SERVED]

    class Event(msgspec.Struct, metaclass=EventMeta):
        """Something that happened, or will: subclass it and annotate the fields.

        Exactly one field is a `Time`; `Key` fields say who the event is about, an `Id` field is its identity (delivered
        twice it counts once). Other fields are `float`, `int`, `bool` or `str`, with or without a default; with
        `| None` they may be unknown. The event is read from the topic `topic=`, by default the class name in snake
        case. What cannot mean anything is refused with a `DeclarationError` when the class is made.

        >>> class CardRead(Event, topic="gate"):
        ...     student: Key
        ...     at: Time
        >>> schema(CardRead).topic, schema(CardRead).keys
        ('gate', ('student',))
        """


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


def schema(event: type[Event]) -> Schema:
    """What `event` declares."""
    if events_in(event) != (event,):
        raise DeclarationError(
            "schema", found=repr(event), expected="an event class", do="derive it: class Payment(Event)"
        )
    return event.__schema__  # type: ignore[attr-defined, no-any-return]  # set by EventMeta


_VALUES = {str: "str", float: "float", int: "int", bool: "bool"}
_COUNTS = {Role.TIME: (1, 1), Role.ID: (0, 1), Role.SERVED: (0, 1)}  # least and most fields of a role


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _read_schema(event: Any, topic: str) -> Schema:
    name = event.__name__
    if not isinstance(topic, str) or not _TOPIC.fullmatch(topic) or topic.startswith(RESERVED_TOPICS):
        raise DeclarationError(
            f"class {name}",
            found=f"topic={topic!r}",
            expected=f"1 to 249 letters, digits, dots, - and _, not beginning with {RESERVED_TOPICS!r}",
            do='choose another name, e.g. topic="payments"',
        )
    try:
        hints = get_type_hints(event, include_extras=True)
    except NameError as error:
        raise DeclarationError(
            f"class {name}", found=str(error), expected="types that are known where the class stands", do="import them"
        ) from error
    fields = tuple(_read_field(name, info, hints[info.name]) for info in msgspec.structs.fields(event))
    found = Schema(event, name, topic, fields)
    for role, (least, most) in _COUNTS.items():
        number = len(found.names(role))
        if not least <= number <= most:
            wanted = f"{'exactly' if least else 'at most'} one field of type {role.value.title()}"
            raise DeclarationError(f"class {name}", found=str(number), expected=wanted, do="say which one it is")
    return found


def _read_field(event: str, info: msgspec.structs.FieldInfo, hint: Any) -> Field:
    parts = get_args(hint) if get_origin(hint) in (types.UnionType, Union) else (hint,)
    rest = [part for part in parts if part is not type(None)]
    optional = len(rest) < len(parts)
    named = rest[0] if len(rest) == 1 else None
    kind, *marks = get_args(named) if get_origin(named) is Annotated else (named,)
    role = next((mark for mark in marks if isinstance(mark, Role)), Role.VALUE)
    if role is Role.VALUE and not (isinstance(kind, type) and kind in _VALUES):
        raise DeclarationError(
            f"{event}.{info.name}",
            found=f"the type {hint.__name__ if isinstance(hint, type) else hint}",
            expected="Key, Id, Time, Served, float, int, bool or str",
            do="declare one of these; put nested data into fields of their own",
        )
    found = Field(info.name, role, kind, optional, ... if info.required else info.default)
    _check_default(f"{event}.{info.name}", found)
    return found


def _check_default(where: str, field: Field) -> None:
    role = field.role.value.title()
    if field.role is not Role.VALUE and field.optional:
        raise DeclarationError(
            where, found=f"{role} | None", expected=f"a {role} in every event", do="leave out | None, or make it a str"
        )
    if field.default is ...:
        return
    if field.role in (Role.TIME, Role.ID) or (field.role is Role.KEY and not field.default):
        raise DeclarationError(
            where,
            found=f"the default {field.default!r}",
            expected=f"a {role} in every event",
            do="leave out the default",
        )
    kinds = (field.kind, int) if field.kind is float else (field.kind,)
    if type(field.default) not in kinds and not (field.default is None and field.optional):
        raise DeclarationError(
            where,
            found=f"the default {field.default!r}",
            expected=f"a plain {_VALUES[field.kind]}",
            do="write one" if field.optional or field.default is not None else f"say {_VALUES[field.kind]} | None",
        )


def events_in(what: Any) -> tuple[type[Event], ...]:
    """The event classes that `what` names: one class, or a union such as `Chargeback | Confirmed`; else none."""
    if type(what) is EventMeta and what is not Event:
        return (cast("type[Event]", what),)
    if get_origin(what) in (types.UnionType, Union):
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

    @property
    def field(self) -> Field:
        """What the event declares of it."""
        return schema(self.event).field(self.name)


def field_ref(what: Any) -> FieldRef | None:
    """The field that `Payment.amount` names, or None if `what` names no field of an event."""
    if isinstance(what, types.MemberDescriptorType):
        named = events_in(what.__objclass__)
        return FieldRef(named[0], what.__name__) if named else None
    return None
