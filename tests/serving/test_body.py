"""Bodies: whatever is sent comes out whole, whichever way it is cut."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from katmatic.serving import body
from katmatic.serving.problem import Refused

EVENTS = st.lists(
    st.dictionaries(
        st.text(max_size=5), st.none() | st.integers() | st.text(max_size=9) | st.lists(st.integers()), max_size=3
    ),
    min_size=1,
    max_size=8,
)


@given(EVENTS, st.sampled_from([None, 1]), st.booleans())
def test_an_array_comes_apart_without_being_encoded_anew(events, indent, ascii_only):
    written = [json.dumps(event, indent=indent, ensure_ascii=ascii_only) for event in events]
    found = body.split(("[" + " ,\n".join(written) + "]").encode())
    assert found == [text.encode() for text in written]


@given(EVENTS)
def test_lines_come_apart(events):
    written = [json.dumps(event).encode() for event in events]
    assert body.split(b"\n".join(written), "application/x-ndjson; charset=utf-8") == written
    assert body.split(b"\n".join(written)) == written


@given(st.binary(min_size=1, max_size=60))
def test_rubbish_is_kept_whole(rubbish):
    inside = rubbish.removeprefix(b"\xef\xbb\xbf").strip(b" \t\r\n")
    if not inside or (inside.startswith(b"[") and not inside[1:-1].strip(b" \t\r\n") and inside.endswith(b"]")):
        with pytest.raises(Refused):
            body.split(rubbish)
        return
    found = body.split(rubbish)
    assert found
    assert all(value in rubbish for value in found)


@given(st.binary(max_size=2000), st.integers(1, 3))
def test_what_was_packed_comes_out(content, members):
    assert body.inflate(gzip.compress(content) * members) == content * members


@given(st.binary(min_size=1, max_size=200))
def test_what_was_not_packed_is_refused(content):
    with pytest.raises(Refused):
        body.inflate(b"\x00" + content)


def test_a_mark_before_the_text_is_no_part_of_it():
    assert body.split(b'\xef\xbb\xbf{"a":1}') == [b'{"a":1}']


def test_too_many_events(monkeypatch):
    monkeypatch.setattr(body, "EVENTS_LIMIT", 2)
    with pytest.raises(Refused) as refused:
        body.split(b"[1,2,3]")
    assert refused.value.status == 413
