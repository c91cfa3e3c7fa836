"""Every error says where, what was found, what was expected, what to do."""

from __future__ import annotations

import pytest

from katmatic import errors

KINDS = [
    errors.KatmaticError,
    errors.DeclarationError,
    errors.InputError,
    errors.LogError,
    errors.ModelError,
    errors.SettingsError,
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_reads_as_a_sentence_and_as_four_parts(kind):
    error = kind("payments[3] $.amount", found='"12,50"', expected="a number", do="send a decimal point")
    assert str(error) == 'payments[3] $.amount: found "12,50", expected a number; send a decimal point'
    assert error.as_dict() == {
        "where": "payments[3] $.amount",
        "found": '"12,50"',
        "expected": "a number",
        "do": "send a decimal point",
    }
    assert isinstance(error, errors.KatmaticError)
