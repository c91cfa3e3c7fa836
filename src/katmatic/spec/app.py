"""The application: collects what the user declares, and checks it as it comes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from typing import Any, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from katmatic import duration
from katmatic.errors import DeclarationError
from katmatic.spec import check
from katmatic.spec.event import Event, schema
from katmatic.spec.function import takes_one
from katmatic.spec.future import Label
from katmatic.spec.past import Past
from katmatic.spec.policy import Promote, Rank, Retrain

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class SourcePolicy:
    """How one stream of events behaves.

    lateness: how long after its time an event may come and still be waited for.
    silence: silent for longer, the source counts as broken, and labels that wait for it are held open; None: never.
    horizon: later than this, an event goes to the dead letters; until then it is applied exactly.
    duplicates: how long the identity of an event is remembered.
    ahead: how far in the future an event's time may lie.
    """

    lateness: timedelta = timedelta(0)
    silence: timedelta | None = None
    horizon: timedelta = timedelta(days=7)
    duplicates: timedelta = timedelta(days=1)
    ahead: timedelta = timedelta(days=366)


@dataclass(frozen=True)
class Action:
    """A function of the user's that acts on a prediction with a probability (or value) in `[above, below)`."""

    function: Callable[[Any], Any]
    above: float | None
    below: float | None
    censors: bool
    holdout: float


@dataclass(eq=False)
class Predictor:
    """One prediction: its label, its features, its model and its policies. Made by `App.predict`."""

    name: str
    label: Label
    features: Mapping[str, Any]  # Past | field of the anchor | function of event, now and other features
    model: Any
    lead: tuple[timedelta, ...]  # moments before the anchor's time; empty: when the anchor arrives
    retrain: Retrain
    promote: Promote
    rank: Rank | None
    deadline: timedelta | None
    actions: list[Action] = field(default_factory=list)

    @property
    def anchor(self) -> type[Event]:
        """The event that every prediction belongs to."""
        return self.label.anchor

    @property
    def events(self) -> tuple[type[Event], ...]:
        """Every event class that it needs: those of its label, then those of its windows."""
        found = [*self.label.events]
        for window in windows(self):
            found += window.label.events if window.label else window.events
        return tuple(dict.fromkeys(found))

    def when(
        self, *, above: float | None = None, below: float | None = None, censors: bool = False, holdout: float = 0.0
    ) -> Callable[[Function], Function]:
        """Call the decorated function with each prediction above (or below) a threshold, once per anchor.

        `censors=True` says that the action keeps the truth from being seen (a declined payment): its row is taken out
        of the labels, but for the share `holdout` that is let through at random, with its odds logged.
        """
        where = f"{self.name}.when"
        given = [limit for limit in (above, below) if limit is not None]
        numbers = all(type(limit) in (int, float) and math.isfinite(limit) for limit in given)
        is_off = not numbers or (self.label.is_binary and not all(0 <= limit <= 1 for limit in given))
        if not given or is_off or given != sorted(given):
            raise DeclarationError(
                where,
                found=f"above={above!r}, below={below!r}",
                expected="above=, below= or both" + (", each a probability in [0, 1]" if self.label.is_binary else ""),
                do="e.g. above=0.8",
            )
        is_share = type(holdout) in (int, float) and 0 <= holdout < 1
        if not is_share or type(censors) is not bool or (holdout and not censors):
            raise DeclarationError(
                where,
                found=f"censors={censors!r}, holdout={holdout!r}",
                expected="a share in [0, 1), and only with censors=True",
                do="e.g. censors=True, holdout=0.01",
            )

        def add(function: Function) -> Function:
            takes_one(where, function, "the prediction")
            self.actions.append(Action(function, above, below, censors, holdout))
            return function

        return add


@dataclass(frozen=True)
class Calendar:
    """A function that makes events from a day (or hour, ...): called once per period, in the app's time zone."""

    function: Callable[[datetime], Iterable[Event]]
    every: timedelta


class App:
    """An application, declared in one file.

    >>> app = App("attendance", timezone="Asia/Kathmandu")
    >>> app.name, str(app.timezone)
    ('attendance', 'Asia/Kathmandu')
    """

    def __init__(self, name: str, *, timezone: str = "UTC") -> None:
        check.app_name(f"App({name!r})", name)
        self.name = name
        try:
            self.timezone = ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError, TypeError) as error:
            raise DeclarationError(
                f"App({name!r})",
                found=f"timezone={timezone!r}",
                expected="an IANA time zone",
                do='e.g. "Europe/London"',
            ) from error
        self.predictors: dict[str, Predictor] = {}
        self.sources: dict[type[Event], SourcePolicy] = {}
        self.calendars: list[Calendar] = []
        self.listeners: list[tuple[Label, Callable[[Any], Any]]] = []

    def source(
        self,
        event: type[Event],
        *,
        lateness: str = "0s",
        silence: str | None = None,
        horizon: str = "7d",
        duplicates: str = "1d",
        ahead: str = "366d",
    ) -> None:
        """Say how the stream of `event` behaves; see `SourcePolicy` for the meaning of each."""
        where = f"App.source({schema(event).name})"
        if event in self.sources:
            raise DeclarationError(where, found="a second declaration", expected="one", do="merge the two")
        check.topics((*self.events, event))
        texts = {"lateness": lateness, "horizon": horizon, "duplicates": duplicates, "ahead": ahead}
        spans = {
            name: duration.parse(text, where=f"{where} {name}=", least=duration.NO_TIME) for name, text in texts.items()
        }
        if silence is not None:
            spans["silence"] = duration.parse(silence, where=f"{where} silence=", least=duration.SHORTEST)
        if spans["lateness"] > spans["horizon"]:
            raise DeclarationError(
                where,
                found=f"lateness={lateness!r}, which is waited for, and horizon={horizon!r}, when it is too late",
                expected="a horizon that is no shorter than the lateness",
                do="lengthen the horizon",
            )
        self.sources[event] = SourcePolicy(**spans)

    def predict(
        self,
        name: str,
        label: Label,
        *,
        features: Mapping[str, Any],
        model: Any,
        lead: str | tuple[str, ...] = (),
        retrain: Retrain | None = None,
        promote: Promote | None = None,
        rank: Rank | None = None,
        deadline: str | None = None,
    ) -> Predictor:
        """Predict `label` for each of its anchors from `features`.

        `lead` asks at one moment or several relative to the anchor's time ("2h" before it, "-10m" after it); without
        it the prediction is made when the anchor arrives. A row whose answer is already known is not asked.
        """
        where = f"App.predict({name!r})"
        if not isinstance(features, Mapping):
            raise DeclarationError(
                where,
                found=f"features of type {type(features).__name__}",
                expected="a dict: each feature by its name",
                do='features={"amount": Payment.amount}',
            )
        moments = tuple(lead) if isinstance(lead, list | tuple) else (lead,)
        predictor = Predictor(
            name,
            label,
            dict(features),
            model,
            tuple(duration.parse(moment, where=f"{where} lead=") for moment in moments),
            retrain or Retrain(),
            promote or Promote(),
            rank,
            None if deadline is None else duration.parse(deadline, where=f"{where} deadline=", least=duration.SHORTEST),
        )
        check.predictor(self, predictor)
        self.predictors[name] = predictor
        return predictor

    def on(self, label: Label) -> Callable[[Function], Function]:
        """Call the decorated function with each new version of `label`."""
        if not isinstance(label, Label):
            raise DeclarationError(
                "App.on",
                found=repr(label),
                expected="a label made by future.*",
                do="pass the label itself: @app.on(absent)",
            )

        def add(function: Function) -> Function:
            takes_one("App.on", function, "the version")
            self.listeners.append((label, function))
            return function

        return add

    def every(self, period: str) -> Callable[[Function], Function]:
        """Call the decorated function with the start of each period, and publish the events that it yields."""
        length = duration.parse(period, where="App.every", least=duration.SHORTEST)

        def add(function: Function) -> Function:
            takes_one("App.every", function, "the day")
            self.calendars.append(Calendar(function, length))
            return function

        return add

    @property
    def labels(self) -> dict[str, Label]:
        """Every label in use by name: that of the first predictor that asks it, else its description."""
        found: dict[str, Label] = {}
        for predictor in self.predictors.values():
            if predictor.label not in found.values():
                found[predictor.name] = predictor.label
        inner = [w.label for p in self.predictors.values() for w in windows(p) if w.label is not None]
        for label in (*inner, *(label for label, _ in self.listeners)):
            if label not in found.values():
                found[_free(str(label), found)] = label
        return found

    @property
    def events(self) -> tuple[type[Event], ...]:
        """Every event class in use, in the order in which it is first named."""
        predicted = (event for predictor in self.predictors.values() for event in predictor.events)
        heard = (event for label, _ in self.listeners for event in label.events)
        return tuple(dict.fromkeys((*predicted, *heard, *self.sources)))


def _free(name: str, taken: Iterable[str]) -> str:
    """`name`, or the first of `name #2`, `name #3`, ... that is not taken."""
    numbered = (f"{name} #{n}" for n in count(2))
    return name if name not in taken else next(other for other in numbered if other not in taken)


def windows(predictor: Predictor) -> list[Past]:
    """The backward windows that a predictor reads: its features', then its candidates'."""
    ranked = list(predictor.rank.candidates) if predictor.rank else []
    return [feature for feature in predictor.features.values() if isinstance(feature, Past)] + ranked
