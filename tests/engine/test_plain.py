"""Plain records are read all at once, others one by one: whatever a record looks like, both ways read the same."""

from __future__ import annotations

import random
import struct
from zoneinfo import ZoneInfo

import msgspec
import pytest

from katmatic import Event, Id, Key, Served, Time
from katmatic.engine.rows import numbers
from katmatic.engine.validate import Reader
from katmatic.spec.event import schema
from katmatic.state.keys import KeyNumbers
from tests.engine.identities import identities

KATHMANDU, NEW_YORK = ZoneInfo("Asia/Kathmandu"), ZoneInfo("America/New_York")


class Reading(Event, topic="readings"):
    sensor: Key
    sensors: Key = "alle Fühler"
    value: float
    value_of_the_other: float | None = None
    value_of_the_others: float = 2
    count: int = 3
    counts: int | None = None
    is_on: bool
    was_on: bool | None = None
    note: str = "né"
    notes: str | None = None
    by: Served = "wire"
    at: Time


class Order(Event):
    number: Id
    at: Time


class Tick(Event):
    at: Time


NUMBERS = (
    *(
        "0",
        "-0",
        "0.0",
        "-0.0",
        "1",
        "-1",
        "12.5",
        "-12.5",
        "007",
        "1.",
        ".5",
        "-",
        "+1",
        "1e5",
        "1E+5",
        "2.5e-3",
        "1e",
    ),
    *("1e22", "1e23", "1e-22", "1e-23", "123456789012345678", "1234567890123456789", "9007199254740993", "1e400"),
    *("9007199254740992", "9007199254740993.0", "0.1", "0.30000000000000004", "179.99", "9223372036854775808"),
    *("1.7976931348623157e308", "5e-324", "0.000000000000000000000012345", "100000000000000000000000", "1_0", "0x1"),
    *("NaN", "Infinity", "1e0005", "1e-0005", "12345678.12345678", "0e0", "0e99", "-9223372036854775808", "1e00022"),
)
TEXTS = (
    *(
        '""',
        '"a"',
        '"abcdefg"',
        '"abcdefgh"',
        '"abcdefghi"',
        '"a long text, longer than a word"',
        '"é"',
        '"日本語テキスト"',
        '"😀"',
    ),
    *(
        '"\\u00e9"',
        '"a\\nb"',
        '"\\""',
        '"\\\\"',
        '"\x7f"',
        '"a\tb"',
        '"a\x00b"',
        '"',
        '"a',
        '"\\ud800"',
        '"\\u0000"',
        "'a'",
    ),
    *(
        '"12"',
        '"-12.5"',
        '"true"',
        '"{}"',
        '"a,b:c}"',
        '"12345678é"',
        '"1234567é"',
        f'"{"x" * 300}"',
        f'"{"ü" * 40000}"',
    ),
)
TIMES = (
    *("1700000000", "1700000000.123456", "1700000000.1234567", "1700000000123", "1700000000123.5", "1700000000123456"),
    *(
        "1700000000123456789",
        "99999999999",
        "100000000000",
        "99999999999.5",
        "0",
        "-1",
        "1.5",
        "1e9",
        "1.7e9",
        "0.0000005",
    ),
    *("0.0000015", "253402300799", "1e17", "99999999999999", "100000000000000", "99999999999.9999999", "1e14", "1e11"),
)
CLOCKS = (
    "2025-04-21 08:02:00",
    "2025-03-09T02:30:00",
    "2025-11-02t01:30:00",
    "2024-02-29T23:59:59",
    "1999-12-31T00:00:00",
)
WRONG_CLOCKS = (
    *(
        "2023-02-29T00:00:00",
        "2025-13-01T00:00:00",
        "2025-00-10T00:00:00",
        "2025-04-31T00:00:00",
        "0000-01-01T00:00:00",
    ),
    *("2025-04-21T24:00:00", "2025-04-21T08:60:00", "2025-04-21T08:02:60", "2025-4-21T08:02:00", "0001-01-01T00:00:00"),
    *("9999-12-31T23:59:59", "2025-04-21", "2025-04-21T08:02", "20250421T080200", "2025-W17-1", "2025-04-21_08:02:00"),
    *("1900-02-29T00:00:00", "2000-02-29T00:00:00", "1969-12-31T23:59:59", "2025/04/21 08:02:00", "soon", "1700000000"),
)
TAILS = (
    "",
    "",
    ".5",
    ".123456",
    ",123",
    ".1234567",
    ".123456789",
    ".1234567890",
    ".",
    "Z",
    "z",
    " UTC",
    ".25Z",
    "+05:45",
)
TAILS += ("-05:00", ".000001+00:00", "+0545", "+05", "+24:00", "+05:60", " +05:45", ".5-23:59", "Z ")
OTHERS = (
    "null",
    "true",
    "false",
    "nul",
    "True",
    "tru",
    "[]",
    "{}",
    '[1, "a"]',
    '{"a": {"b": 1}}',
    "",
    "nulll",
    "falsy",
)


def value_of(rng: random.Random, kind: str) -> str:
    """A value as text: mostly of the kind, sometimes of any other."""
    if rng.random() < 0.06:
        kind = rng.choice(["float", "int", "str", "bool", "key", "time", "other"])
    if kind == "float":
        made = [repr(rng.uniform(-1e4, 1e4)), f"{rng.uniform(-1e4, 1e4):.2f}", repr(rng.lognormvariate(0, 80))]
        return rng.choice([*made, str(rng.randrange(-(10**6), 10**6)), *rng.sample(NUMBERS, 1)])
    if kind == "int":
        return rng.choice([str(rng.randrange(-(10**18), 10**18)), str(rng.randrange(100)), rng.choice(NUMBERS)])
    if kind == "str":
        return rng.choice([msgspec.json.encode("ab" * rng.randrange(9)).decode(), rng.choice(TEXTS)])
    if kind == "bool":
        return rng.choice(["true", "false"])
    if kind == "key":
        return rng.choice(
            [f'"C{rng.randrange(9)}"', str(rng.randrange(-9, 99)), rng.choice(TEXTS), rng.choice(NUMBERS)]
        )
    if kind == "time":
        clock = rng.choice(CLOCKS if rng.random() < 0.8 else WRONG_CLOCKS) + rng.choice(TAILS)
        return rng.choice([f'"{clock}"', f"{rng.uniform(0, 2e9):.6f}", rng.choice(TIMES), f'"{rng.choice(TIMES)}"'])
    return rng.choice(OTHERS)


def record(rng: random.Random, kind: type[Event]) -> bytes:
    """A record of a stream, in any order and form; sometimes damaged."""
    pairs = []
    for field in schema(kind).fields:
        if field.default is not ... and rng.random() < 0.4:
            continue
        what = "key" if field.role.value in ("key", "id") else "time" if field.kind.__name__ == "datetime" else ""
        value = "null" if field.optional and rng.random() < 0.2 else value_of(rng, what or field.kind.__name__)
        pairs.append((field.name, value))
    if rng.random() < 0.2:
        unknown = rng.choice(["", "values", "valu", "sensor ", "é", "value_of_the_otherr", "a\\u0074", "x" * 40])
        pairs.append((unknown, value_of(rng, rng.choice(["float", "str", "other", "other"]))))
    if rng.random() < 0.05:
        pairs.append(rng.choice(pairs))
    if rng.random() < 0.05:
        pairs.pop(rng.randrange(len(pairs)))
    if rng.random() < 0.4:
        rng.shuffle(pairs)
    comma, colon = rng.choice([(",", ":"), (", ", ": "), (" ,\n\t", " :\r ")])
    made = "{" + comma.join(f'"{name}"{colon}{value}' for name, value in pairs) + "}"
    around = rng.choice([("", "")] * 8 + [(" ", "\n"), ("\ufeff", ""), ("", " x")])
    data = bytearray(made.join(around).encode())
    if rng.random() < 0.1:
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(data) + 1)
            letter = rng.choice([rng.randrange(256), *b'",:\\{}0'])
            data[at : at + rng.randrange(3)] = bytes([letter] * rng.randrange(2))
    return bytes(data)


def bits(value: object) -> object:
    """What tells two values apart, and two zeros, and an integer and a float."""
    return struct.pack("<d", value) if type(value) is float else (type(value).__name__, value)


def assert_same(kind: type[Event], zone: ZoneInfo, values: list[bytes]) -> int:
    """Read both ways; how many records could be read, and were not left to the reader of all forms."""
    reader, careful = Reader(schema(kind), zone), Reader(schema(kind), zone)
    careful.layout.is_plain = False
    left, read_odd = [], reader._read_odd
    reader._read_odd = lambda odd: left.append(len(odd)) or read_odd(odd)
    found, expected = reader.read(values), careful.read(values)
    assert found.index.tolist() == expected.index.tolist()
    assert found.heartbeats.tolist() == expected.heartbeats.tolist()
    assert [(d.index, str(d.error)) for d in found.dead] == [(d.index, str(d.error)) for d in expected.dead]
    assert found.time.tolist() == expected.time.tolist()
    for name, column in expected.fields.items():
        assert list(map(bits, found.fields[name])) == list(map(bits, column)), name
    for seed in (0, 1):
        assert identities(found, seed) == identities(expected, seed)
    for names in ((), schema(kind).keys[:1], schema(kind).keys):
        told, other = KeyNumbers(), KeyNumbers()
        number = numbers(told, 1, names, found).tolist()
        assert number == numbers(other, 1, names, expected).tolist()
        assert told.dump() == other.dump()
    return len(values) - len(found.heartbeats) - sum(left)


@pytest.mark.parametrize("seed", range(60))
def test_plain_records_are_read_as_the_reader_of_all_forms_reads_them(seed):
    rng = random.Random(seed)
    plain = assert_same(Reading, KATHMANDU, [record(rng, Reading) for _ in range(100)])
    for kind in (Reading, Order, Tick):
        size = rng.choice([1, 14, 15, 60])  # the head of a list has another length from 16 on
        values = [record(rng, kind) if rng.random() < 0.97 else b"" for _ in range(size)]
        plain += assert_same(kind, rng.choice([KATHMANDU, NEW_YORK]), values)
    assert plain >= 1


PLAIN = b'{"sensor": "C1", "value": 12.5, "is_on": true, "at": 1700000000}'


@pytest.mark.parametrize(
    "value",
    [
        PLAIN,
        PLAIN.replace(b" ", b""),
        b" " + PLAIN.replace(b",", b"\n,\t").replace(b":", b" :\r ") + b"\n",
        PLAIN.replace(b"C1", "Fühler 日本 😀".encode()),
        PLAIN.replace(b'"C1"', b"17"),
        PLAIN.replace(b"12.5", b"-12"),
        PLAIN.replace(b"12.5", b"1.25e+1"),
        *(PLAIN.replace(b"12.5", number) for number in (b"179.99", b"0.30000000000000004", b"123456789012345678")),
        PLAIN[:-1] + b', "count": -123456789012345678, "counts": null, "was_on": false, "note": "", "sensors": "x"}',
        PLAIN[:-1] + b', "unknown": "text", "another": 1.5, "third": null, "is": true, "at_": false}',
        *(
            PLAIN.replace(b"1700000000", time)
            for time in (b"1700000000.1234567", b"1700000000123", b"1700000000123456")
        ),
        *(
            PLAIN.replace(b"1700000000", b'"2025-04-21T08:02:00' + tail + b'"')
            for tail in (b"", b"Z", b".5", b".123456789Z", b"+05:45", b",25-10:00")
        ),
    ],
)
def test_what_producers_usually_write_is_plain(value):
    assert assert_same(Reading, KATHMANDU, [value]) == 1


@pytest.mark.parametrize(
    "value",
    [
        *(
            PLAIN.replace(b"C1", letters)
            for letters in (
                *(
                    b"\x80",
                    b"\xc0\x80",
                    b"\xc1\xbf",
                    b"\xc3",
                    b"\xc3(",
                    b"\xe0\x80\x80",
                    b"\xe0\x9f\xbf",
                    b"\xed\xa0\x80",
                ),
                *(
                    b"\xed\xbf\xbf",
                    b"\xe2\x82",
                    b"\xf0\x80\x80\x80",
                    b"\xf0\x8f\xbf\xbf",
                    b"\xf4\x90\x80\x80",
                    b"\xf5\x80\x80\x80",
                ),
                *(b"\xff", b"\xf0\x9f\x98", b"a\nb", b"\x1f", b"\\u00e9", b'\\"', b"\\"),
            )
        ),
        PLAIN[:-1] + b', "count": 1, "count": 2}',
        PLAIN[:-1] + b', "value": 1, "is_on": false, "at": 2, "sensor": "C2"}',
        PLAIN.replace(b'"value": 12.5', b'"is_on": false'),
        PLAIN[:-1] + b', "value_of_the_others": null}',
        PLAIN.replace(b"12.5", b"-0.0"),
        PLAIN.replace(b"12.5", b"-0"),
        PLAIN[:-1] + b', "unknown": {"value": 1}}',
        PLAIN + b"}",
        PLAIN[:-1],
    ],
)
def test_what_is_odd_is_left_to_the_reader_of_all_forms(value):
    assert assert_same(Reading, KATHMANDU, [value]) == 0
    assert assert_same(Reading, KATHMANDU, [PLAIN, value, b"", PLAIN]) == 2


@pytest.mark.parametrize("seed", range(20))
def test_a_number_is_the_float_next_to_what_is_written(seed):
    rng = random.Random(seed)
    numbers = [repr(rng.lognormvariate(0, rng.choice([1, 10, 30]))) for _ in range(300)]
    numbers += [f"{rng.randrange(10**18)}e{rng.randrange(-22, 23)}" for _ in range(300)]
    for _ in range(300):  # the middle between two floats, and what is next to it in 18 digits
        low = rng.randrange(2**53, 2**59)
        step = 1 << (low.bit_length() - 53)
        middle = low // step * step + step // 2
        numbers += [str(middle), str(middle + 1), str(middle - 1), f"{middle}0e-1"[-24:]]
    reader = Reader(schema(Reading), KATHMANDU)
    found = reader.read([PLAIN.replace(b"12.5", number.encode()) for number in numbers])
    assert [bits(value) for value in found.fields["value"]] == [bits(float(number)) for number in numbers]
