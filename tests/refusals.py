"""What a refusal says: all four parts of its message, word for word."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from katmatic.errors import DeclarationError


@contextmanager
def refused(where: str, *, found: str, expected: str, do: str) -> Iterator[None]:
    """What is declared inside must be refused with exactly this message."""
    with pytest.raises(DeclarationError) as caught:
        yield
    assert caught.value.as_dict() == {"where": where, "found": found, "expected": expected, "do": do}
