"""Recorded events from files."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from katmatic import Event, Id, Key, Time
from katmatic.engine.validate import Reader
from katmatic.errors import InputError
from katmatic.moment import to_micros
from katmatic.sources.file import open_events
from katmatic.spec.event import schema

KATHMANDU = ZoneInfo("Asia/Kathmandu")


class Payment(Event):
    payment: Id
    card: Key
    amount: float
    at: Time
    items: int = 1
    online: bool = False
    country: str = "NP"
    note: str | None = None


FIRST = to_micros(datetime(2025, 4, 21, 2, 17, tzinfo=UTC))
HEADER = "payment,card,amount,at\n"


@pytest.fixture
def write(tmp_path):
    def make(name, content):
        path = tmp_path / name
        data = content.encode() if isinstance(content, str) else content
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return make


def events(path, **mapping):
    return list(open_events(path, Payment, mapping, KATHMANDU))


def dead(rows):
    """Reasons of those rows that the pipeline will keep as dead letters."""
    return [str(letter.error) for letter in Reader(schema(Payment), KATHMANDU).read([value for _, value in rows]).dead]


@pytest.mark.parametrize("name", ["a.csv", "a.CSV", "a.csv.gz"])
def test_a_table_becomes_events_with_typed_values(write, name):
    path = write(
        name, "payment,card,amount,at,items,online,country,note,other\n007,C1,12.50,2025-04-21 08:02:00,3,yes,,,x\n"
    )
    ((moment, value),) = events(path)
    assert moment == FIRST
    assert json.loads(value) == {
        "payment": "007", "card": "C1", "amount": 12.5, "at": "2025-04-21 08:02:00",
        "items": 3, "online": True, "country": "", "note": None,
    }  # fmt: skip
    assert dead([(moment, value)]) == []


def test_columns_are_named_and_values_fixed_by_the_mapping(write):
    path = write("a.tsv", "id\tCARD\tTX_AMOUNT\tTX_TIME\n1\tC1\t7\t1745201820\n")
    rows = events(path, payment="id", card="CARD", amount="TX_AMOUNT", at="TX_TIME", country=":DE", items=":2")
    assert rows[0][0] == FIRST
    assert json.loads(rows[0][1]) == {
        "payment": "1", "card": "C1", "amount": 7.0, "at": "1745201820", "country": "DE", "items": 2,
    }  # fmt: skip


def test_empty_cells_are_unknown_or_the_default(write):
    path = write("a.csv", "payment,card,amount,at,items,online,note\n1,C1,7,2025-04-21,,,\n2,C1,,2025-04-21,1,0,x\n")
    (_, first), second = events(path)
    assert json.loads(first) == {"payment": "1", "card": "C1", "amount": 7.0, "at": "2025-04-21", "note": None}
    assert "Expected `float`, got `str`" in dead([second])[0]


NO_OBJECT = "Expected `object`"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b'1,C1,"12,50",2025-04-21', "Expected `float`, got `str`"),
        (b"1,C1,12", NO_OBJECT),
        (b"1,C1,12,2025-04-21,,,", NO_OBJECT),
        (b"1,C\xff,12,2025-04-21", NO_OBJECT),
        (b"1,C1,12,yesterday", "ISO 8601"),
        (b"1,,12,2025-04-21", "an empty text"),
        (b"1,C1,inf,2025-04-21", "Expected `float`, got `str`"),
        (b"1," + b"C" * 200_000 + b",12,2025-04-21", NO_OBJECT),
    ],
)
def test_a_row_that_cannot_be_read_is_passed_on_and_the_others_go_on(write, row, reason):
    path = write("a.csv", HEADER.encode() + b"0,C1,1,2025-04-21\n" + row + b"\r\n2,C1,3,2025-04-21 08:02:00\n")
    rows = events(path)
    assert [json.loads(value)["payment"] for _, value in (rows[0], rows[2])] == ["0", "2"]
    assert rows[2][0] == FIRST
    assert reason in dead([rows[1]])[0]
    if reason == NO_OBJECT:
        assert rows[1] == (None, row)


def test_a_quoted_cell_may_hold_a_comma_and_a_line_break(write):
    path = write("a.csv", '\ufeffpayment,card,amount,at,note\r\n1,C1,5,2025-04-21,"a, ""b""\nc"\r\n\r\n')
    ((_, value),) = events(path)
    assert json.loads(value)["note"] == 'a, "b"\nc'


def test_lines_of_json_pass_as_they_are(write):
    lines = [
        b'{"payment":"1", "card":"C1", "amount":1e2, "at":"2025-04-21 08:02:00", "more":[1]}',
        b"", b"{broken", b'["no", "object"]', b'{"payment": "2"}', b'\xff{"card": 1}',
    ]  # fmt: skip
    rows = events(write("a.jsonl.gz", b"\n".join(lines)))
    assert rows == [(FIRST, lines[0]), *((None, line) for line in lines[2:])]
    assert len(dead(rows)) == 4


def test_lines_of_json_are_renamed_by_the_mapping(write):
    line = '{"id":7,"card":"C1","value":12.5,"at":1745201820,"more":1}\n'
    ((moment, value),) = events(write("a.ndjson", line), payment="id", amount="value", country=":IN")
    assert moment == FIRST
    assert json.loads(value) == {"payment": 7, "card": "C1", "amount": 12.5, "at": 1745201820, "country": "IN"}


def test_one_array_of_json_is_read_like_lines(write):
    whole = '\n[{"payment":"1","at":"2025-04-21 08:02:00"},\n {"payment":"2"}, 3]\n'
    assert events(write("a.json", whole)) == [
        (FIRST, b'{"payment":"1","at":"2025-04-21 08:02:00"}'), (None, b'{"payment":"2"}'), (None, b"3"),
    ]  # fmt: skip


def test_parquet_keeps_its_types(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "payment": pa.array([7.0, 8.0]),
            "card": pa.array(["C1", "C2"]),
            "amount": pa.array([Decimal("12.50"), Decimal("3.00")]),
            "at": pa.array([FIRST * 1000 + 999, None], pa.timestamp("ns", "UTC")),
            "items": pa.array([None, 2], pa.int64()),
            "note": pa.array([b"a", None]),
            "unused": pa.array([[1], [2]]),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    source = open_events(tmp_path / "a.parquet", Payment, {"country": ":DE"}, KATHMANDU)
    rows = list(source)
    assert [moment for moment, _ in rows] == [FIRST, None]
    assert json.loads(rows[0][1]) == {
        "payment": 7, "card": "C1", "amount": 12.5, "at": "2025-04-21T02:17:00+00:00", "note": "a", "country": "DE",
    }  # fmt: skip
    assert json.loads(rows[1][1])["at"] is None
    assert source.bytes_read == source.len_hint
    assert len(dead(rows)) == 1


def test_without_pyarrow_it_says_what_to_install(write, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"katmatic\[parquet\]"):
        events(write("a.parquet", "PAR1"))


def test_a_column_that_is_not_there_is_named_with_those_that_are(write):
    path = write("a.csv", "payment,card,sum,at_time\n")
    with pytest.raises(
        InputError, match=r"Payment.amount: found 'amount', expected a column of the file: payment, card, s"
    ):
        events(path)
    with pytest.raises(InputError, match="did you mean 'at_time'"):
        events(path, amount="sum", at="at_tim")
    with pytest.raises(InputError, match="did you mean 'amount'"):
        events(path, amout="sum")


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.xlsx", "", "expected one of .csv"),
        ("a", "", "without a suffix"),
        ("a.gz", "", "expected one of .csv"),
        ("a.parquet.gz", "", "all but Parquet"),
        ("a.parquet", "no", "a Parquet file"),
        ("a.csv", "", "there is none"),
        ("a.csv", "payment,card,card,amount,at\n", "2 columns 'card'"),
    ],
)
def test_a_file_that_cannot_be_events_is_refused(write, name, content, match):
    if name == "a.parquet":
        pytest.importorskip("pyarrow")
    with pytest.raises(InputError, match=match):
        events(write(name, content))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        events(tmp_path / "a.csv")
    (tmp_path / "b.csv").mkdir()
    with pytest.raises(InputError, match="IsADirectoryError"):
        events(tmp_path / "b.csv")


def test_a_file_that_breaks_off_gives_what_it_has_and_says_so(tmp_path):
    whole = gzip.compress(b"".join(b'{"payment": "%d"}\n' % n for n in range(50_000)))
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    source = open_events(path, Payment, {}, KATHMANDU)
    given = list(islice(source, 10_000))
    assert len(given) == source.position == 10_000
    with pytest.raises(InputError, match=r"a\.jsonl\.gz, after \d+ events: found EOFError"):
        list(source)


def test_reading_goes_on_from_a_position(write):
    path = write("a.csv", HEADER + "".join(f"{n},C1,{n},2025-04-21\n" for n in range(5_000)))
    source = open_events(path, Payment, {}, KATHMANDU)
    first = list(source.read(3_333))
    assert (len(first), source.position) == (3_333, 3_333)
    assert 0 < source.bytes_read <= source.len_hint == path.stat().st_size
    rest = list(source)
    assert source.bytes_read == source.len_hint
    source.seek(3_333)
    assert list(source) == rest
    source.seek(0)
    assert list(source) == first + rest
    source.seek(99_999)
    assert (source.position, list(source)) == (5_000, [])


@given(st.lists(st.lists(st.text(max_size=6), min_size=4, max_size=4), max_size=8))
def test_every_row_of_a_table_is_one_event(tmp_path_factory, rows):
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["payment", "card", "amount", "at"])
    writer.writerows(rows)
    path = tmp_path_factory.mktemp("rows") / "a.csv"
    path.write_bytes(text.getvalue().encode())
    found = events(path)
    assert len(found) == len(rows)
    assert all(value for _, value in found)  # an empty value would be a heartbeat
