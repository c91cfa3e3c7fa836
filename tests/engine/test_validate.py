"""Cleaning: what can be read, what cannot and why, and what is the same event."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pytest

from katmatic import Event, Id, Key, Time
from katmatic.engine import validate
from katmatic.engine.validate import Reader
from katmatic.errors import InputError
from katmatic.spec.event import schema
from tests.engine.identities import identities

UTC = ZoneInfo("UTC")
NOW = 1_700_000_000_000_000


class Reading(Event, topic="readings"):
    sensor: Key
    value: float
    count: int = 0
    is_on: bool = False
    note: str | None = None
    at: Time


class Order(Event):
    number: Id
    total: float = 0.0
    at: Time


GOOD = b'{"sensor": "s", "value": 1, "at": 1700000000}'


@pytest.fixture
def reader():
    return Reader(schema(Reading), UTC)


def reading(**fields):
    return msgspec.json.encode({"sensor": "s", "value": 1.5, "at": 1_700_000_000, **fields})


def test_a_record_becomes_a_row_with_its_defaults_and_its_time(reader):
    columns = reader.read([GOOD, reading(count=3, is_on=True, note="x", unknown=[1, {"a": None}])])
    assert columns.fields["sensor"] == ["s", "s"]
    assert columns.fields["value"] == [1.0, 1.5]
    assert columns.fields["count"] == [0, 3]
    assert columns.fields["note"] == [None, "x"]
    assert columns.time.tolist() == [NOW, NOW]
    assert columns.dead == []


def test_keys_are_texts_whether_sent_as_texts_or_numbers(reader):
    assert reader.read([reading(sensor=7), reading(sensor="7")]).fields["sensor"] == ["7", "7"]


@pytest.mark.parametrize(
    ("payload", "where", "found", "expected"),
    [
        (b"", None, None, None),
        (b" ", "$", "Input data was truncated", "one JSON object"),
        (b"{", "$", "Input data was truncated", "one JSON object"),
        (GOOD + b"{}", "$", "JSON is malformed", "one JSON object"),
        (b"[]", "$", "Expected `object`", "the type"),
        (b"\xff", "$", "JSON is malformed", "one JSON object"),
        (GOOD.replace(b'"s"', b'"\xff"'), "$", "", "UTF-8"),
        (b'{"sensor": "s", "at": 1}', "$", "Object missing required field `value`", "every field without a default"),
        (reading(value="1.5"), "$.value", "Expected `float`, got `str`", "the type"),
        (reading(value=None), "$.value", "Expected `float`, got `null`", "the type"),
        (reading(count=1.5), "$.count", "Expected `int`, got `float`", "the type"),
        (reading(count=True), "$.count", "Expected `int`, got `bool`", "the type"),
        (reading(is_on=1), "$.is_on", "Expected `bool`, got `int`", "the type"),
        (reading(count=2**63), "$.count", "Expected `int` <= 9223372036854775807", "a whole number of at most 64 bits"),
        (GOOD[:-1] + b', "count": -' + b"9" * 400 + b"}", "$.count", "Expected `int`", "a whole number of at most"),
        (reading(sensor=""), "$.sensor", "an empty text", "a key"),
        (reading(sensor=None), "$.sensor", "Expected `int | str`, got `null`", "the type"),
        (reading(at="soon"), "$.at", "'soon'", "ISO 8601"),
        (reading(at=None), "$.at", "Expected", "the type"),
        (b'{"deep": ' + b"[" * 200_000, "$", "", "the type"),
    ],
    ids=lambda value: repr(value)[:40] if isinstance(value, bytes) else None,
)
def test_what_cannot_be_read_says_where_and_why_and_leaves_the_others_alone(reader, payload, where, found, expected):
    columns = reader.read([GOOD, payload, GOOD])
    assert columns.index.tolist() == [0, 2]
    if where is None:
        assert columns.heartbeats.tolist() == [1]
        assert columns.dead == []
        return
    (dead,) = columns.dead
    assert dead.index == 1
    assert dead.error.where == f"readings {where}"
    assert dead.error.found.startswith(found)
    assert dead.error.expected.startswith(expected)
    with pytest.raises(InputError, match="readings"):
        reader.check(payload)
    reader.check(GOOD)


def test_records_are_read_alike_together_and_one_by_one(reader):
    payloads = [GOOD, reading(sensor=""), reading(at="2023-11-14 22:13:20", note="é"), b"", b"no", reading(at=-1)] * 20
    together = reader.read(payloads)
    alone = [reader.read([payload]) for payload in payloads]
    assert together.index.tolist() == [i for i, columns in enumerate(alone) if len(columns)]
    assert together.time.tolist() == [int(columns.time[0]) for columns in alone if len(columns)]
    assert together.heartbeats.tolist() == [i for i, columns in enumerate(alone) if len(columns.heartbeats)]
    assert [dead.index for dead in together.dead] == [i for i, columns in enumerate(alone) if columns.dead]
    for name, values in together.fields.items():
        assert values == [columns.fields[name][0] for columns in alone if len(columns)]


def test_events_are_what_the_user_declared_with_times_in_the_zone():
    reader = Reader(schema(Reading), ZoneInfo("Asia/Kathmandu"))
    (event,) = reader.events(reader.read([reading(at="2025-04-21 08:02:00", count=2)]))
    assert isinstance(event, Reading)
    assert event.at.isoformat() == "2025-04-21T08:02:00+05:45"
    assert (event.sensor, event.value, event.count, event.note) == ("s", 1.5, 2, None)


def test_the_same_content_is_the_same_event_however_it_is_written(reader):
    same = [
        GOOD,
        b'{"at":"2023-11-14T22:13:20Z","value":1.0,"sensor":"s","other":1}',
        reading(value=1, at=1_700_000_000_000),
    ]
    other = [reading(value=2), reading(value=1, sensor="t"), reading(value=1, note=""), reading(value=1, at=1)]
    found = identities(reader.read([*same, *other]))
    assert len(set(found[:3])) == 1
    assert len(set(found)) == 1 + len(other)


def test_an_identity_is_that_of_the_id_field_and_of_the_stream():
    reader = Reader(schema(Order), UTC)
    columns = reader.read(
        [b'{"number": 1, "at": 1}', b'{"number": "1", "total": 5, "at": 2}', b'{"number": 2, "at": 1}']
    )
    one, same, other = identities(columns)
    assert one == same != other
    assert identities(columns, 1)[0] != one


@pytest.mark.parametrize(
    ("time", "now", "expected"),
    [
        (-1, NOW, "a time since 1970"),
        (NOW + 11, NOW, "a time that is not so far ahead"),
        (NOW - 101, NOW, "an event within the horizon"),
        (-(2**62), NOW, "a time since 1970"),
        (NOW + 10, NOW, None),
        (NOW - 100, NOW, None),
        (0, 50, None),
    ],
)
def test_times_out_of_range_say_what_to_do(reader, time, now, expected):
    columns = reader.read([GOOD])
    columns.time[0] = time
    found = validate.in_range(columns, np.array([now]), 100, 10, schema(Reading))
    assert [dead.error.expected for dead in found] == ([] if expected is None else [expected])
    assert all(dead.error.where == "readings $.at" for dead in found)


def test_a_condition_is_asked_of_each_event_and_one_that_raises_counts_as_no(reader):
    events = reader.events(reader.read([reading(value=1), reading(value=0), reading(value=-1)]))
    masks, raised, said = validate.conditions([lambda e: 1 / e.value > 0, lambda e: "yes" if e.value else ""], events)
    assert masks.tolist() == [[1, 1], [0, 0], [0, 1]]
    assert (raised, said) == (1, "ZeroDivisionError: float division by zero")


def test_some_of_the_rows_can_be_taken(reader):
    columns = reader.read([reading(count=i) for i in range(5)])
    taken = validate.take(columns, np.array([4, 1]))
    assert taken.fields["count"] == [4, 1]
    assert taken.index.tolist() == [4, 1]
