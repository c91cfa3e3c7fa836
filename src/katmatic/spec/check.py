"""Refusals: what a declaration must not say. Each error names where, what was found, what was expected, what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from katmatic import duration
from katmatic.errors import DeclarationError
from katmatic.spec.event import Event, FieldRef, Role, field_ref, schema
from katmatic.spec.feature import given
from katmatic.spec.function import arguments
from katmatic.spec.future import Label
from katmatic.spec.model import check_model
from katmatic.spec.past import Past
from katmatic.spec.policy import Promote, Rank, Retrain

if TYPE_CHECKING:
    from katmatic.spec.app import App, Predictor

RESERVED = ("event", "now")  # what a derived feature may take beside other features


def app_name(where: str, name: Any) -> None:
    """Refuse a name that cannot be part of a topic, a path and a metric."""
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", name):
        raise DeclarationError(
            where,
            found=repr(name),
            expected="a lower-case letter, then at most 62 of lower-case letters, digits, - and _",
            do='e.g. "attendance"',
        )


def predictor(app: App, new: Predictor) -> None:
    """Refuse all that can be wrong with one prediction."""
    where = f"App.predict({new.name!r})"
    app_name(where, new.name)
    if new.name in app.predictors:
        raise DeclarationError(
            where, found="a second predictor of this name", expected="one", do="give it a name of its own"
        )
    if not isinstance(new.label, Label):
        raise DeclarationError(where, found=repr(new.label), expected="a label made by future.*", do="future.any(...)")
    features(where, new.features, new.anchor)
    _lead(where, new)
    _policies(where, new)
    topics((*app.events, *new.events))
    check_model(where, new.model, new.label, given(new.features))


def topics(events: Iterable[type[Event]]) -> None:
    """Refuse two events that read one topic."""
    found: dict[str, type[Event]] = {}
    for event in events:
        topic = schema(event).topic
        if found.setdefault(topic, event) is not event:
            raise DeclarationError(
                f"class {event.__name__}",
                found=f"topic {topic!r}, which {found[topic].__name__} reads",
                expected="a topic for each event",
                do=f'name another: class {event.__name__}(Event, topic="...")',
            )


def features(where: str, named: Mapping[str, Any], anchor: type[Event]) -> None:
    """Refuse features that are not known at the moment of the prediction, or cannot be joined or computed."""
    if not named:
        raise DeclarationError(where, found="no features", expected="at least one", do="features={...}")
    for name, feature in named.items():
        place = f"{where} features[{name!r}]"
        if not isinstance(name, str) or not name.isidentifier() or name in RESERVED:
            raise DeclarationError(
                place, found=repr(name), expected="a name of letters, digits and _", do="not event, and not now"
            )
        _feature(place, name, feature, named, anchor)
    derived_order(where, named)


def derived_order(where: str, named: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the features that are functions, each after those it takes; a circle is refused."""
    takes = {
        name: [a for a in arguments(f"{where} features[{name!r}]", f) if a in named]
        for name, f in named.items()
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


def _feature(place: str, name: str, feature: Any, named: Mapping[str, Any], anchor: type[Event]) -> None:
    if isinstance(feature, Label):
        raise DeclarationError(
            place,
            found=f"{feature}, which looks forward",
            expected="something known at the moment of the prediction",
            do="use its past: past.mean(label, window, by=...)",
        )
    if isinstance(feature, Past):
        if feature.op == "top":
            raise DeclarationError(
                place,
                found=f"{feature}, a list",
                expected="one value",
                do="use it in Rank(candidates=[...]); for a feature take past.last or past.distinct",
            )
        _past(place, feature, anchor)
        return
    ref = field_ref(feature)
    if ref is not None:
        _field(place, ref, anchor)
        return
    if not callable(feature):
        raise DeclarationError(
            place,
            found=repr(feature),
            expected="past.*, a field of the anchor, or a function",
            do="write lambda event: ... for a value of your own",
        )
    for argument in arguments(place, feature):
        if argument not in (*RESERVED, *named):
            raise DeclarationError(
                place,
                found=f"the argument {argument!r}",
                expected=f"event, now, or the name of a feature: {', '.join(sorted(set(named) - {name}))}",
                do="name the argument after what it takes",
            )


def _field(place: str, ref: FieldRef, anchor: type[Event]) -> None:
    if ref.event is not anchor:
        raise DeclarationError(
            place,
            found=f"{ref}, a field of another event",
            expected=f"a field of the anchor {anchor.__name__}",
            do=f"take its latest value: past.last({ref}, by=...)",
        )
    if ref.field.kind is datetime:
        raise DeclarationError(
            place, found=f"{ref}, a time", expected="a number or a text", do=f"lambda event: event.{ref.name}.hour"
        )


def _past(place: str, window: Past, anchor: type[Event]) -> None:
    for ref in window.by:
        if ref.event is not anchor:
            raise DeclarationError(
                place,
                found=f"by={ref}, a field of another event",
                expected=f"a Key field of the anchor {anchor.__name__}",
                do=f"say by={anchor.__name__}.<key>",
            )
        if ref.name not in schema(anchor).keys:
            raise DeclarationError(
                place, found=f"by={ref}, which is no key", expected="a field of type Key", do=f"declare {ref} as a Key"
            )
    for event in (window.label.anchor,) if window.label else window.events:
        for ref in window.by:
            if ref.name not in schema(event).keys:
                raise DeclarationError(
                    place,
                    found=f"{event.__name__}, which has no key called {ref.name!r}",
                    expected=f"a Key field {ref.name!r} in {event.__name__}, as in {anchor.__name__}",
                    do="name the key fields alike in both events",
                )


def _lead(where: str, new: Predictor) -> None:
    if len(set(new.lead)) < len(new.lead):
        raise DeclarationError(where, found="one lead twice", expected="different moments", do="name each moment once")
    for lead in new.lead or (timedelta(0),):
        if -lead >= new.label.end:
            raise DeclarationError(
                where,
                found=f"a prediction {duration.spell(-lead)} after the anchor's time",
                expected=f"one before the label's window ends, {duration.spell(new.label.end)} after it",
                do='ask earlier, e.g. lead="30m"',
            )


def _policies(where: str, new: Predictor) -> None:
    for name, value, kinds in (
        ("retrain", new.retrain, Retrain),
        ("promote", new.promote, Promote),
        ("rank", new.rank, Rank | None),
    ):
        if not isinstance(value, kinds):
            wanted = name.title()
            raise DeclarationError(where, found=f"{name}={value!r}", expected=wanted, do=f"{name}={wanted}(...)")
    metrics = metrics_of(new.label)
    if new.promote.metric is not None and new.promote.metric not in metrics:
        raise DeclarationError(
            where,
            found=f"promote=Promote(metric={new.promote.metric!r})",
            expected=f"for {new.label}, one of {', '.join(metrics)}",
            do="choose one of these",
        )
    if new.rank is not None:
        _rank(where, new.rank, new.anchor)


def metrics_of(label: Label) -> tuple[str, ...]:
    """The metrics that mean something for predictions of `label`."""
    if label.is_binary:
        return ("log_loss", "brier", "roc_auc", "average_precision", "accuracy")
    return ("rmse", "mae", "accuracy") if label.op == "last" else ("rmse", "mae")


def _rank(where: str, rank: Rank, anchor: type[Event]) -> None:
    names = {window.field for window in rank.candidates}
    for window in rank.candidates:
        _past(f"{where} rank={window}", window, anchor)
        keys = schema(anchor).names(Role.KEY)
        if len(names) > 1 or window.field not in keys or window.field in [ref.name for ref in window.by]:
            raise DeclarationError(
                f"{where} rank",
                found=f"candidates of {', '.join(sorted(str(name) for name in names))}",
                expected=f"one Key of the anchor {anchor.__name__}, which no candidate is found by",
                do=f"rank one of {', '.join(keys)}",
            )
