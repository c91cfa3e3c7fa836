"""Refusals: what a declaration must not say. Each error names where, what was found, what was expected, what to do."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any

from katmatic.errors import DeclarationError
from katmatic.spec.event import field_ref, schema
from katmatic.spec.future import Label
from katmatic.spec.past import Past

if TYPE_CHECKING:
    from katmatic.spec.app import App, Predictor


def app_name(name: str) -> None:
    """A name that can be part of a topic, a path and a metric."""
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
        raise DeclarationError(
            f"App({name!r})",
            found=repr(name),
            expected="lower-case letters, digits, - and _, starting with a letter",
            do='e.g. App("attendance")',
        )


def predictor(app: App, new: Predictor) -> None:
    """All that can be wrong with one prediction."""
    where = f"App.predict({new.name!r})"
    app_name(new.name)
    if new.name in app.predictors:
        raise DeclarationError(
            where, found="a second predictor of this name", expected="one", do="give it a name of its own"
        )
    if not isinstance(new.label, Label):
        raise DeclarationError(where, found=repr(new.label), expected="a label made by future.*", do="future.any(...)")
    if not new.features:
        raise DeclarationError(where, found="no features", expected="at least one", do="features={...}")
    for name, feature in new.features.items():
        _feature(where, name, feature, new)
    _order(where, new)


def _feature(where: str, name: str, feature: Any, new: Predictor) -> None:
    place = f"{where} features[{name!r}]"
    if isinstance(feature, Label):
        raise DeclarationError(
            place,
            found=f"{feature}, which looks forward",
            expected="something known at the moment of the prediction",
            do="use its past: past.mean(label, window, by=...)",
        )
    if isinstance(feature, Past):
        _past(place, feature, new)
        return
    ref = field_ref(feature)
    if ref is not None:
        if ref.event is not new.anchor:
            raise DeclarationError(
                place,
                found=f"{ref}, a field of another event",
                expected=f"a field of the anchor {new.anchor.__name__}",
                do=f"take its latest value: past.last({ref}, by=...)",
            )
        return
    if not callable(feature):
        raise DeclarationError(
            place,
            found=repr(feature),
            expected="past.*, a field of the anchor, or a function",
            do="write lambda event: ... for a value of your own",
        )
    known = {"event", "now", *new.features}
    for argument in arguments(place, feature):
        if argument not in known:
            raise DeclarationError(
                place,
                found=f"the argument {argument!r}",
                expected=f"event, now, or the name of a feature: {', '.join(sorted(set(new.features) - {name}))}",
                do="name the argument after what it takes",
            )


def _past(place: str, window: Past, new: Predictor) -> None:
    for ref in window.by:
        if ref.event is not new.anchor:
            raise DeclarationError(
                place,
                found=f"by={ref}, a field of another event",
                expected=f"a Key field of the anchor {new.anchor.__name__}",
                do=f"say by={new.anchor.__name__}.<key>",
            )
        if ref.name not in schema(new.anchor).keys:
            raise DeclarationError(
                place, found=f"by={ref}, which is no key", expected="a field of type Key", do=f"declare {ref} as a Key"
            )
    streams = (window.label.anchor,) if window.label else window.events
    for event in streams:
        for ref in window.by:
            if ref.name not in schema(event).keys:
                raise DeclarationError(
                    place,
                    found=f"{event.__name__}, which has no key called {ref.name!r}",
                    expected=f"a Key field {ref.name!r} in {event.__name__}, as in {new.anchor.__name__}",
                    do="name the key fields alike in both events",
                )


def arguments(place: str, function: Any) -> tuple[str, ...]:
    """The names of a function's arguments: what it takes."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        raise DeclarationError(
            place, found="*args or **kwargs", expected="named arguments", do="name each feature that it takes"
        )
    return tuple(p.name for p in parameters)


def derived_order(where: str, features: dict[str, Any]) -> tuple[str, ...]:
    """Names of the features that are functions, each after those it takes; a circle is refused."""
    takes = {
        name: [a for a in arguments(f"{where} features[{name!r}]", f) if a in features]
        for name, f in features.items()
        if not isinstance(f, Past) and field_ref(f) is None
    }
    done: dict[str, None] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise DeclarationError(
                where,
                found=f"features in a circle: {' -> '.join((*path, name))}",
                expected="features that can be computed one after the other",
                do="break the circle",
            )
        if name in takes and name not in done:
            for other in takes[name]:
                visit(other, (*path, name))
            done[name] = None

    for name in takes:
        visit(name, ())
    return tuple(done)


def _order(where: str, new: Predictor) -> None:
    derived_order(where, dict(new.features))
