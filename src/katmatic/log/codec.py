"""Records <-> bytes. Predictions and labels travel as whole blocks: columns of little-endian numbers, as they are.

The first byte is the version of the form. Bytes of an unknown form, cut short or with columns of unequal length are
refused with LogError: what is read back is what was written, or nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, TypeVar, overload

import msgspec
import numpy as np
from numpy.typing import NDArray

from katmatic.errors import LogError
from katmatic.records import (
    ALERTS,
    DEAD,
    DECISIONS,
    LABELS,
    MODELS,
    PREDICTIONS,
    Alert,
    DeadLetter,
    Decision,
    Keys,
    LabelBlock,
    ModelVersion,
    PredictionBlock,
)

Record = Decision | ModelVersion | Alert | DeadLetter
T = TypeVar("T")

PREDICTIONS_FORM = 1  # _Predictions as an array
LABELS_FORM = 1  # _Labels as an array
RECORD_FORM = 1  # a map by field name: a field with a default may be added without a new form

INTEGER, NUMBER, SMALL, TRUTH = np.dtype("<i8"), np.dtype("<f8"), np.dtype("u1"), np.dtype("?")


# --------------------------------------------------------------------------------------------------------- predictions


class _Predictions(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    predictor: str
    columns: tuple[str, ...]
    version: int
    key: list[tuple[str, ...]]
    anchor: memoryview
    time: memoryview
    at: memoryview
    now: memoryview
    lead: memoryview
    values: memoryview
    texts: dict[str, list[Any]]
    failed: memoryview
    score: memoryview | None


def encode_predictions(block: PredictionBlock) -> bytes:
    """The block as bytes: 49 bytes a row, 8 for each feature and the texts. LogError if its columns do not agree."""
    where = f"{PREDICTIONS} of {block.predictor}"
    if block.packed is not None:
        score = None if block.score is None else _bytes(block.score, NUMBER, (len(block),), where, "score")
        begin = _beginning(PREDICTIONS_FORM, len(_Predictions.__struct_fields__), block.predictor, block.columns)
        return b"".join((begin, _encoder.encode(block.version), block.packed, _encoder.encode(score)))
    n = len(block.key)
    width = len(block.columns)
    for name, column in block.texts.items():
        _same(len(column), n, f"{where}: rows of {name}")
    return _pack(
        PREDICTIONS_FORM,
        (
            block.predictor,
            block.columns,
            block.version,
            _keys(block.key),
            _bytes(block.anchor, INTEGER, (n,), where, "anchor"),
            _bytes(block.time, INTEGER, (n,), where, "time"),
            _bytes(block.at, INTEGER, (n,), where, "at"),
            _bytes(block.now, INTEGER, (n,), where, "now"),
            _bytes(block.lead, INTEGER, (n,), where, "lead"),
            _bytes(block.values, NUMBER, (n, width), where, "values"),
            block.texts,
            _bytes(block.failed, TRUTH, (n,), where, "failed"),
            None if block.score is None else _bytes(block.score, NUMBER, (n,), where, "score"),
        ),
    )


def decode_predictions(data: bytes) -> PredictionBlock:
    """The block that was encoded, bit for bit, in arrays of its own. LogError if the bytes are no such block."""
    found = _unpack(_predictions, PREDICTIONS_FORM, data, PREDICTIONS)
    n, width = len(found.key), len(found.columns)
    where = f"{PREDICTIONS} of {found.predictor}"
    for name, column in found.texts.items():
        _same(len(column), n, f"{where}: rows of {name}")
    return PredictionBlock(
        predictor=found.predictor,
        columns=found.columns,
        anchor=_array(found.anchor, INTEGER, n, where, "anchor"),
        key=found.key,
        time=_array(found.time, INTEGER, n, where, "time"),
        at=_array(found.at, INTEGER, n, where, "at"),
        now=_array(found.now, INTEGER, n, where, "now"),
        lead=_array(found.lead, INTEGER, n, where, "lead"),
        values=_array(found.values, NUMBER, n * width, where, "values").reshape(n, width),
        texts=found.texts,
        failed=_array(found.failed, TRUTH, n, where, "failed"),
        version=found.version,
        score=None if found.score is None else _array(found.score, NUMBER, n, where, "score"),
    )


# -------------------------------------------------------------------------------------------------------------- labels


class _Labels(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    label: str
    key: list[tuple[str, ...]]
    anchor: memoryview
    time: memoryview
    version: memoryview
    state: memoryview
    value: memoryview
    now: memoryview
    evidence: memoryview


def encode_labels(block: LabelBlock) -> bytes:
    """The block as bytes: 49 bytes a row and its key. LogError if its columns do not agree."""
    if block.packed is not None:
        return _beginning(LABELS_FORM, len(_Labels.__struct_fields__), block.label) + block.packed
    n = len(block.key)
    where = f"{LABELS} of {block.label}"
    return _pack(
        LABELS_FORM,
        (
            block.label,
            _keys(block.key),
            _bytes(block.anchor, INTEGER, (n,), where, "anchor"),
            _bytes(block.time, INTEGER, (n,), where, "time"),
            _bytes(block.version, INTEGER, (n,), where, "version"),
            _bytes(block.state, SMALL, (n,), where, "state"),
            _bytes(block.value, NUMBER, (n,), where, "value"),
            _bytes(block.now, INTEGER, (n,), where, "now"),
            _bytes(block.evidence, INTEGER, (n,), where, "evidence"),
        ),
    )


def decode_labels(data: bytes) -> LabelBlock:
    """The block that was encoded, bit for bit, in arrays of its own. LogError if the bytes are no such block."""
    found = _unpack(_labels, LABELS_FORM, data, LABELS)
    n = len(found.key)
    where = f"{LABELS} of {found.label}"
    return LabelBlock(
        label=found.label,
        anchor=_array(found.anchor, INTEGER, n, where, "anchor"),
        key=found.key,
        time=_array(found.time, INTEGER, n, where, "time"),
        version=_array(found.version, INTEGER, n, where, "version"),
        state=_array(found.state, SMALL, n, where, "state"),
        value=_array(found.value, NUMBER, n, where, "value"),
        now=_array(found.now, INTEGER, n, where, "now"),
        evidence=_array(found.evidence, INTEGER, n, where, "evidence"),
    )


# ------------------------------------------------------------------------------------------------------ single records


def encode(record: Record) -> bytes:
    """One record as bytes.

    >>> fire = Alert(name="gate-silent", severity="critical", text="gate 2 is silent", now=0)
    >>> decode(ALERTS, encode(fire)) == fire
    True
    """
    return _pack(RECORD_FORM, record)


@overload
def decode(topic: Literal["katmatic.decisions"], data: bytes) -> Decision: ...
@overload
def decode(topic: Literal["katmatic.models"], data: bytes) -> ModelVersion: ...
@overload
def decode(topic: Literal["katmatic.alerts"], data: bytes) -> Alert: ...
@overload
def decode(topic: Literal["katmatic.dead"], data: bytes) -> DeadLetter: ...
@overload
def decode(topic: str, data: bytes) -> Record: ...
def decode(topic: str, data: bytes) -> Record:
    """The record of a topic of ours that holds single records. LogError if the bytes are no such record."""
    decoder = _records.get(topic)
    if decoder is None:
        raise LogError(
            topic,
            found="a topic without records of ours",
            expected=f"one of {', '.join(_records)}",
            do="read blocks with decode_predictions or decode_labels, and events with their schema",
        )
    return _unpack(decoder, RECORD_FORM, data, topic)


# -------------------------------------------------------------------------------------------------------------- pieces

_encoder = msgspec.msgpack.Encoder()
_predictions = msgspec.msgpack.Decoder(_Predictions)
_labels = msgspec.msgpack.Decoder(_Labels)
_records: dict[str, msgspec.msgpack.Decoder[Record]] = {
    DECISIONS: msgspec.msgpack.Decoder(Decision),
    MODELS: msgspec.msgpack.Decoder(ModelVersion),
    ALERTS: msgspec.msgpack.Decoder(Alert),
    DEAD: msgspec.msgpack.Decoder(DeadLetter),
}


@lru_cache(maxsize=1_024)
def _beginning(form: int, size: int, *values: Any) -> bytes:
    """The form, the head of a list of so many values (at most 15), and the first of them."""
    return bytes([form, 0x90 | size]) + b"".join(map(_encoder.encode, values))


def _pack(form: int, value: Any) -> bytes:
    return form.to_bytes(1, "little") + _encoder.encode(value)


def _unpack(decoder: msgspec.msgpack.Decoder[T], form: int, data: bytes, where: str) -> T:
    if not data or data[0] != form:
        raise LogError(
            where,
            found=f"a record of form {data[0]}" if data else "a record of no bytes",
            expected=f"form {form}",
            do="read it with the version of katmatic that wrote it, or restore the log from a backup",
        )
    try:
        return decoder.decode(memoryview(data)[1:])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LogError(
            where,
            found=f"a record that cannot be read: {error}",
            expected="the bytes that were written",
            do="restore the log from a backup",
        ) from error


def _keys(key: Sequence[tuple[str, ...]]) -> Any:
    return msgspec.Raw(key.packed()) if isinstance(key, Keys) else key


def _bytes(column: NDArray[Any], kind: np.dtype[Any], shape: tuple[int, ...], where: str, name: str) -> bytes:
    if column.dtype != kind or column.shape != shape:
        raise LogError(
            f"{where}: {name}",
            found=f"{column.dtype} of shape {column.shape}",
            expected=f"{kind} of shape {shape}",
            do="give every row a value of its type",
        )
    return column.tobytes()


def _array(data: memoryview, kind: np.dtype[Any], n: int, where: str, name: str) -> NDArray[Any]:
    _same(len(data), n * kind.itemsize, f"{where}: bytes of {name}")
    # A copy: aligned, which compiled code wants, and free of the record that it came in.
    return np.frombuffer(data, kind).astype(kind.newbyteorder("="))


def _same(found: int, expected: int, where: str) -> None:
    if found != expected:
        raise LogError(where, found=str(found), expected=str(expected), do="restore the log from a backup")
