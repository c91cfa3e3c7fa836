"""The body of a request, with limits: bytes in, raw JSON values out, none of them decoded or encoded anew."""

from __future__ import annotations

import zlib

import msgspec
from starlette.requests import ClientDisconnect, Request

from katmatic.serving.problem import Refused

BODY_BYTES_LIMIT = 8 * 1024 * 1024  # of a request, as sent and as inflated
EVENT_BYTES_LIMIT = 1024 * 1024  # of one event
EVENTS_LIMIT = 100_000  # in one request
LINES = ("application/x-ndjson", "application/jsonl", "application/json-lines", "application/x-jsonlines")
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_SPACE = b" \t\r\n"
_CHUNK = 256 * 1024


async def read(request: Request) -> bytes:
    """The whole body, inflated; 413 if it is above `BODY_BYTES_LIMIT`, 415 for an encoding that we do not know."""
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding not in ("identity", "gzip", "x-gzip"):
        raise Refused(415, "Content-Encoding", found=encoding, expected="gzip or none", do="send it plain")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > BODY_BYTES_LIMIT:
        raise _too_large(f"{declared} bytes")
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > BODY_BYTES_LIMIT:
                raise _too_large(f"more than {BODY_BYTES_LIMIT} bytes")
            parts.append(part)
    except ClientDisconnect as error:
        raise Refused(
            400, "body", found=f"{size} bytes, then nothing", expected="the whole body", do="send it again"
        ) from error
    whole = b"".join(parts)
    return whole if encoding == "identity" else inflate(whole)


def inflate(data: bytes) -> bytes:
    """What gzip packed, at most `BODY_BYTES_LIMIT` bytes; several members follow each other."""
    found, size = [], 0
    while data:
        member = zlib.decompressobj(zlib.MAX_WBITS | 16)
        while data and not member.eof:
            try:
                part = member.decompress(data, _CHUNK)
            except zlib.error as error:
                raise Refused(400, "body", found=str(error), expected="gzip", do="pack it again") from error
            size += len(part)
            if size > BODY_BYTES_LIMIT:
                raise _too_large(f"more than {BODY_BYTES_LIMIT} bytes when unpacked")
            found.append(part)
            data = member.unused_data if member.eof else member.unconsumed_tail
        if not member.eof:
            raise Refused(400, "body", found="gzip that ends too early", expected="all of it", do="send it again")
    return b"".join(found)


def split(body: bytes, content_type: str = "") -> list[bytes]:
    r"""The events in a body: one JSON value, the items of one array, or one value a line.

    What is not JSON comes out as one value, as it is: it becomes a dead letter with its reason, and is not lost.

    >>> split(b'[{"a": 1}, {"a":2}]'), split(b'{"a":1}\n{"a":2}\n'), split(b'{"a":\n1}')
    ([b'{"a": 1}', b'{"a":2}'], [b'{"a":1}', b'{"a":2}'], [b'{"a":\n1}'])
    """
    body = body.removeprefix(b"\xef\xbb\xbf").strip(_SPACE)
    if not body:
        raise Refused(400, "body", found="nothing", expected="an event", do='send JSON: {"student_id": "A123", ...}')
    values = _values(body, content_type.partition(";")[0].strip().lower())
    if not values:
        raise Refused(400, "body", found="an empty array", expected="at least one event", do="send one")
    if len(values) > EVENTS_LIMIT:
        raise Refused(413, "body", found=f"{len(values)} events", expected=f"at most {EVENTS_LIMIT}", do="send fewer")
    for i, value in enumerate(values):
        if len(value) > EVENT_BYTES_LIMIT:
            raise Refused(
                413, f"body[{i}]", found=f"{len(value)} bytes", expected=f"at most {EVENT_BYTES_LIMIT}", do="shorten it"
            )
    return values


def _values(body: bytes, content_type: str) -> list[bytes]:
    if content_type in LINES:
        return _lines(body)
    if body.startswith(b"["):
        try:
            return [bytes(item) for item in _ARRAY.decode(body)]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return [body]
    first, _, rest = body.partition(b"\n")
    if rest and first.rstrip(_SPACE).endswith(b"}") and _is_json(first):
        return _lines(body)
    return [body]


def _lines(body: bytes) -> list[bytes]:
    return [line for line in (part.strip(_SPACE) for part in body.split(b"\n")) if line]


def _is_json(value: bytes) -> bool:
    try:
        msgspec.json.decode(value, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _too_large(found: str) -> Refused:
    return Refused(413, "body", found=found, expected=f"at most {BODY_BYTES_LIMIT} bytes", do="send it in parts")
