"""What a feature gives to a model: a number or a text, always or only sometimes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from katmatic.spec.event import field_ref
from katmatic.spec.past import Past

ALWAYS_KNOWN = ("count", "sum", "distinct")  # of nothing they are 0
VALUES = ("last", "first")  # they give a value as it came


@dataclass(frozen=True)
class Given:
    """One input of a model."""

    name: str
    is_text: bool
    may_be_unknown: bool

    @property
    def filled(self) -> Given:
        """The same, once an imputer has put something in place of the unknown."""
        return replace(self, may_be_unknown=False)

    @property
    def encoded(self) -> Given:
        """The same as a number."""
        return replace(self, is_text=False)


def given(features: Mapping[str, Any]) -> list[Given]:
    """What each of the features gives, in their order."""
    return [_given(name, feature) for name, feature in features.items()]


def _given(name: str, feature: Any) -> Given:
    if isinstance(feature, Past):
        return Given(name, feature.op in VALUES and feature.kind is str, feature.op not in ALWAYS_KNOWN)
    ref = field_ref(feature)
    if ref is not None:
        return Given(name, ref.field.kind is str, ref.field.optional)
    # A function may return None, and one that raises makes its feature unknown.
    return Given(name, getattr(feature, "__annotations__", {}).get("return") in (str, "str"), True)
