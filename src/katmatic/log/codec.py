"""Records <-> bytes."""

from __future__ import annotations

from typing import Any

import msgspec

from katmatic.records import Decision


def decode(topic: str, data: bytes) -> Any:
    """The record of a topic of ours."""
    return msgspec.msgpack.decode(data, type=Decision)
