"""The application: collects what the user declares, and checks it as it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from katmatic import duration
from katmatic.errors import DeclarationError
from katmatic.spec import check
from katmatic.spec.event import Event, schema
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

    def when(
        self, *, above: float | None = None, below: float | None = None, censors: bool = False, holdout: float = 0.0
    ) -> Callable[[Function], Function]:
        """Call the decorated function with each prediction above (or below) a threshold, once per anchor.

        `censors=True` says that the action keeps the truth from being seen (a declined payment): its row is taken out
        of the labels, but for the share `holdout` that is let through at random, with its odds logged.
        """
        where = f"{self.name}.when"
        if above is None and below is None:
            raise DeclarationError(where, found="no threshold", expected="above= or below=", do="name one: above=0.8")
        if not 0 <= holdout < 1 or (holdout and not censors):
            raise DeclarationError(
                where, found=f"holdout={holdout}", expected="a share in [0, 1), with censors=True", do="correct it"
            )

        def add(function: Function) -> Function:
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
        check.app_name(name)
        self.name = name
        try:
            self.timezone = ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError) as error:
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
        self.sources[event] = SourcePolicy(
            duration.parse(lateness, where=where),
            None if silence is None else duration.parse(silence, where=where),
            duration.parse(horizon, where=where),
            duration.parse(duplicates, where=where),
            duration.parse(ahead, where=where),
        )

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
        moments = (lead,) if isinstance(lead, str) else tuple(lead)
        predictor = Predictor(
            name,
            label,
            dict(features),
            model,
            tuple(duration.parse(moment, where=where) for moment in moments),
            retrain or Retrain(),
            promote or Promote(),
            rank,
            None if deadline is None else duration.parse(deadline, where=where),
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
            self.listeners.append((label, function))
            return function

        return add

    def every(self, period: str) -> Callable[[Function], Function]:
        """Call the decorated function with the start of each period, and publish the events that it yields."""
        length = duration.parse(period, where="App.every")
        if length <= timedelta(0):
            raise DeclarationError("App.every", found=repr(period), expected="more than no time", do='e.g. "1d"')

        def add(function: Function) -> Function:
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
                found[str(label)] = label
        return found

    @property
    def events(self) -> tuple[type[Event], ...]:
        """Every event class in use, in the order in which it is first named."""
        found: dict[type[Event], None] = {}
        for label in self.labels.values():
            found |= dict.fromkeys((label.anchor, *label.evidence, *label.unless))
        for predictor in self.predictors.values():
            for window in windows(predictor):
                found |= dict.fromkeys(window.events)
        return tuple(found | dict.fromkeys(self.sources))


def windows(predictor: Predictor) -> list[Past]:
    """The backward windows that a predictor reads: its features', then its candidates'."""
    ranked = list(predictor.rank.candidates) if predictor.rank else []
    return [feature for feature in predictor.features.values() if isinstance(feature, Past)] + ranked
