"""What is read back is what was written, bit for bit, or a clear refusal."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from katmatic.errors import LogError
from katmatic.log import codec
from katmatic.records import (
    ALERTS,
    DEAD,
    DECISIONS,
    MODELS,
    NOTHING,
    Alert,
    DeadLetter,
    Decision,
    LabelBlock,
    ModelVersion,
    PredictionBlock,
)
from katmatic.state.keys import KeyNumbers

INTEGERS = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=True, allow_infinity=True)
KEYS = st.lists(st.text(max_size=5), min_size=1, max_size=3).map(tuple)
TEXTS = st.none() | st.text(max_size=5) | st.lists(st.text(max_size=3), max_size=3)


def integers(draw, n):
    return np.array(draw(st.lists(INTEGERS, min_size=n, max_size=n)), np.int64)


def numbers(draw, *shape):
    n = int(np.prod(shape))
    return np.array(draw(st.lists(FLOATS, min_size=n, max_size=n)), np.float64).reshape(shape)


@st.composite
def prediction_blocks(draw):
    n, width = draw(st.integers(0, 4)), draw(st.integers(0, 3))
    columns = tuple(f"feature{i}" for i in range(width))
    return PredictionBlock(
        predictor=draw(st.text(max_size=5)),
        columns=columns,
        anchor=integers(draw, n),
        key=draw(st.lists(KEYS, min_size=n, max_size=n)),
        time=integers(draw, n),
        at=integers(draw, n),
        now=integers(draw, n),
        lead=integers(draw, n),
        values=numbers(draw, n, width),
        texts={name: draw(st.lists(TEXTS, min_size=n, max_size=n)) for name in columns[:1]},
        failed=np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)), np.bool_),
        version=draw(st.integers(0, 2**40)),
        score=numbers(draw, n) if draw(st.booleans()) else None,
    )


@st.composite
def label_blocks(draw):
    n = draw(st.integers(0, 4))
    return LabelBlock(
        label=draw(st.text(max_size=5)),
        anchor=integers(draw, n),
        key=draw(st.lists(KEYS, min_size=n, max_size=n)),
        time=integers(draw, n),
        version=integers(draw, n),
        state=np.array(draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)), np.uint8),
        value=numbers(draw, n),
        now=integers(draw, n),
        evidence=integers(draw, n),
    )


def same(a, b):
    for name in a.__dataclass_fields__:
        one, two = getattr(a, name), getattr(b, name)
        if isinstance(one, np.ndarray):
            assert one.dtype == two.dtype, name
            assert one.shape == two.shape, name
            assert one.tobytes() == two.tobytes(), name
            assert two.flags.writeable, name
            assert two.flags.aligned, name
        else:
            assert one == two, name


@given(prediction_blocks())
def test_predictions_come_back_bit_for_bit(block):
    same(block, codec.decode_predictions(codec.encode_predictions(block)))


@given(label_blocks())
def test_labels_come_back_bit_for_bit(block):
    same(block, codec.decode_labels(codec.encode_labels(block)))


def predictions(n=2):
    return PredictionBlock(
        predictor="absence",
        columns=("weekday", "gate"),
        anchor=np.arange(n),
        key=[(f"P{i}", "7b") for i in range(n)],
        time=np.arange(n),
        at=np.arange(n),
        now=np.arange(n),
        lead=np.full(n, NOTHING),
        values=np.full((n, 2), np.nan),
        texts={"gate": ["north"] * n},
        failed=np.zeros(n, np.bool_),
    )


def labels(n=2):
    return LabelBlock(
        label="absent",
        anchor=np.arange(n),
        key=[(f"P{i}",) for i in range(n)],
        time=np.arange(n),
        version=np.zeros(n, np.int64),
        state=np.zeros(n, np.uint8),
        value=np.full(n, np.nan),
        now=np.arange(n),
        evidence=np.full(n, NOTHING),
    )


def test_keys_that_are_bytes_already_are_written_like_a_list_of_texts():
    keys = KeyNumbers()
    numbers = np.array([keys.numbers(0, ["P0", "P1"]), keys.numbers(1, ["7b", "7b"])]).T
    for block, encode in ((predictions(), codec.encode_predictions), (labels(), codec.encode_labels)):
        texts = replace(block, key=[("P0", "7b"), ("P1", "7b")])
        assert encode(replace(block, key=keys.rows(numbers))) == encode(texts)


def test_a_column_that_is_a_part_of_another_array_is_written_as_it_looks():
    table = np.arange(12).reshape(4, 3)
    block = predictions(4)
    strided = PredictionBlock(**{**vars(block), "anchor": table[:, 1]})
    assert codec.decode_predictions(codec.encode_predictions(strided)).anchor.tolist() == [1, 4, 7, 10]


def test_a_row_is_as_small_as_it_says():
    one, more = (len(codec.encode_predictions(predictions(n))) for n in (1000, 2000))
    assert (more - one) / 1000 == pytest.approx(
        41 + 2 * 8 + len("north") + 1 + 1 + len("P1000") + 1 + len("7b") + 1, abs=1
    )


BLOCKS = [
    (predictions, codec.encode_predictions, codec.decode_predictions),
    (labels, codec.encode_labels, codec.decode_labels),
]


@pytest.mark.parametrize(("make", "encode", "decode"), BLOCKS, ids=["predictions", "labels"])
def test_a_block_cut_short_or_with_more_is_refused(make, encode, decode):
    data = encode(make())
    for length in range(len(data)):
        with pytest.raises(LogError):
            decode(data[:length])
    with pytest.raises(LogError, match="trailing"):
        decode(data + b"\x00")


@pytest.mark.parametrize(("make", "encode", "decode"), BLOCKS, ids=["predictions", "labels"])
def test_a_block_with_any_byte_changed_is_refused_or_a_block(make, encode, decode):
    data = encode(make())
    for at in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[at] ^= 1 << bit
            try:
                found = decode(bytes(changed))
            except LogError:
                continue
            assert len(found.key) == len(found)


@pytest.mark.parametrize(("make", "encode", "decode"), BLOCKS, ids=["predictions", "labels"])
def test_a_form_of_another_version_is_refused(make, encode, decode):
    data = b"\x02" + encode(make())[1:]
    with pytest.raises(
        LogError, match="found a record of form 2, expected form 1; read it with the version of katmatic"
    ):
        decode(data)
    with pytest.raises(LogError, match="a record of no bytes"):
        decode(b"")


@pytest.mark.parametrize(("make", "encode", "decode"), BLOCKS, ids=["predictions", "labels"])
def test_columns_that_do_not_agree_are_refused_when_written_and_when_read(make, encode, decode):
    block = make(3)
    with pytest.raises(LogError, match=r"now: found int64 of shape \(2,\), expected int64 of shape \(3,\)"):
        encode(type(block)(**{**vars(block), "now": block.now[:2]}))
    with pytest.raises(LogError, match="time: found float64 of shape"):
        encode(type(block)(**{**vars(block), "time": block.time.astype(float)}))
    fields = msgspec.msgpack.decode(encode(block)[1:])
    at = next(i for i, field in enumerate(fields) if isinstance(field, bytes))
    fields[at] = fields[at][:-8]
    with pytest.raises(LogError, match="bytes of anchor: found 16, expected 24"):
        decode(b"\x01" + msgspec.msgpack.encode(fields))


def test_texts_of_another_length_are_refused():
    block = predictions(3)
    with pytest.raises(LogError, match="rows of gate: found 1, expected 3"):
        codec.encode_predictions(PredictionBlock(**{**vars(block), "texts": {"gate": ["north"]}}))


RECORDS = {
    DECISIONS: Decision(predictor="fraud", anchor=7, key=("c1",), action="decline", score=0.93, now=1, propensity=0.99),
    MODELS: ModelVersion(predictor="fraud", version=2, action="promoted", reason="better", now=1, metrics={"auc": 0.8}),
    ALERTS: Alert(name="gate-silent", severity="critical", text="Tür 2 schweigt", now=1, key=("g2",)),
    DEAD: DeadLetter(
        topic="gate", position=3, payload=b"\xff\x00", where="$", found="bytes", expected="JSON", do="send JSON", now=1
    ),
}


@pytest.mark.parametrize("topic", RECORDS)
def test_a_record_comes_back(topic):
    assert codec.decode(topic, codec.encode(RECORDS[topic])) == RECORDS[topic]


@pytest.mark.parametrize("topic", RECORDS)
def test_a_record_cut_short_or_of_another_topic_is_refused(topic):
    data = codec.encode(RECORDS[topic])
    for length in range(len(data)):
        with pytest.raises(LogError):
            codec.decode(topic, data[:length])
    other = next(t for t in RECORDS if t != topic)
    with pytest.raises(LogError, match=r"a record that cannot be read: .*; restore the log"):
        codec.decode(other, data)


def test_a_record_of_an_earlier_katmatic_has_what_was_added_since():
    """Fields with defaults may come and go within a form."""
    early = msgspec.msgpack.encode({"name": "n", "severity": "info", "text": "t", "now": 1, "dropped": 5})
    assert codec.decode(ALERTS, b"\x01" + early) == Alert(name="n", severity="info", text="t", now=1)


def test_a_topic_of_events_has_no_records_of_ours():
    with pytest.raises(LogError, match=r"attendance-topic: found a topic without records of ours"):
        codec.decode("attendance-topic", b"{}")
