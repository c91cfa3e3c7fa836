"""Recorded events through an application: by their own time, with what its calendars say and time brings about."""

from __future__ import annotations

import resource
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from katmatic.clock import ManualClock, SystemClock, monotonic_seconds, sleep, to_datetime
from katmatic.drive import drive, merged
from katmatic.engine.step import COUNTS
from katmatic.errors import SettingsError
from katmatic.pipeline import Turn
from katmatic.runtime import Runtime, load_app
from katmatic.settings import Settings
from katmatic.sources.base import Arrival
from katmatic.sources.file import EventFile, open_events
from katmatic.spec.app import App
from katmatic.spec.event import Event, schema

DAY = 86_400_000_000
GRAIN = 1_000_000
SHOW_EVERY = 0.1  # seconds between two looks of the progress bar


def replay_files(
    file: Path,
    events: Sequence[str],
    *,
    topic: str | None,
    mapping: Mapping[str, str],
    settings: Settings,
    speed: float | None,
    acts: bool,
    show: bool,
) -> dict[str, Any]:
    """Replay files; gives back the counts, and what the models did.

    Each of `events` is a path, or topic=path. Files of one topic follow each other, several topics are merged by time.
    An event that has no time, or cannot be read, arrives with the one before it, so that its dead letter is in place.
    """
    app = load_app(file)
    recorded = _recorded(app, events, topic, mapping)
    began = monotonic_seconds()
    clock = ManualClock()
    with Runtime(app, file, settings, clock=clock, waits=True, acts=acts) as runtime:
        with progress(show) as bar:
            tasks = [
                (bar.add_task(source.path.name, total=source.len_hint, moment=""), source)
                for sources in recorded.values()
                for source in sources
            ]

            def seen(turn: Turn) -> None:
                shown = to_datetime(turn.batch.now).astimezone(app.timezone).strftime("%Y-%m-%d %H:%M")
                for task, source in tasks:
                    bar.update(task, completed=source.bytes_read, moment=shown)

            replay(runtime, clock, {name: chain(*sources) for name, sources in recorded.items()}, speed, seen)
            for task, source in tasks:
                bar.update(task, completed=source.len_hint)
        return summary(runtime, monotonic_seconds() - began)


def replay(
    runtime: Runtime,
    clock: ManualClock,
    events: Mapping[str, Iterable[tuple[int | None, bytes]]],
    speed: float | None = None,
    after: Any = lambda turn: None,
) -> None:
    """Send events (by topic: their time, their bytes) through an application, by time, then `settle`."""
    arrivals = merged(*(_in_order(topic, iter(found)) for topic, found in events.items()))
    first = next(arrivals, None)
    if first is None:
        return
    clock.move_to(first.now)
    pace = Pace(speed, first.now) if speed else (lambda moment: None)
    whole = with_calendars(runtime, chain([first], arrivals))
    drive(runtime.pipeline, clock, whole, grain=GRAIN, pace=pace, after=after)
    settle(runtime, clock, after)


def _recorded(
    app: App, events: Sequence[str], topic: str | None, mapping: Mapping[str, str]
) -> dict[str, list[EventFile]]:
    """The files of each topic. `mapping` is from a field, or topic.field, to its column."""
    found: dict[str, list[EventFile]] = {}
    wanted = set(mapping)
    for text in events:
        name, equals, path = ("", "", text) if Path(text).exists() else text.partition("=")
        event = chosen(app, name if equals else topic)
        facts = schema(event)
        own = {}
        for field in facts.fields:
            for key in (field.name, f"{facts.topic}.{field.name}"):
                if key in mapping:
                    own[field.name] = mapping[key]
                    wanted.discard(key)
        found.setdefault(facts.topic, []).append(open_events(Path(path if equals else text), event, own, app.timezone))
    if wanted:
        raise SettingsError(
            f"--map {min(wanted)}=",
            found="no such field in what is replayed",
            expected="field=column, or topic.field=column",
            do="correct it",
        )
    return found


def settle(runtime: Runtime, clock: ManualClock, after: Any = lambda turn: None) -> None:
    """Let the labels that are still open have their time, as far as a day ahead, and not past the real present.

    The log's clock never goes back: an application that goes on live must not be ahead of it.
    """
    drive(runtime.pipeline, clock, (), until=max(clock.now(), min(clock.now() + DAY, SystemClock().now())), after=after)


def with_calendars(runtime: Runtime, arrivals: Iterable[Arrival]) -> Iterator[Arrival]:
    """Arrivals, and in between what the calendars say, from the day before the first to the last of them."""
    said: deque[tuple[int, str, list[bytes]]] = deque()
    first = asked = None
    for arrival in arrivals:
        if first is None or asked is None:
            first, asked = arrival.now, arrival.now - DAY
        while asked < arrival.now:
            said.extend(runtime.said(asked, asked + DAY))
            asked += DAY
        while said and said[0][0] <= arrival.now:
            moment, topic, values = said.popleft()
            for value in values:
                yield Arrival(max(moment, first), topic, value)
        yield arrival


class Pace:
    """Waits so that simulated time goes `speed` times as fast as the clock."""

    def __init__(self, speed: float, start: int) -> None:
        self._speed, self._start, self._began = speed, start, monotonic_seconds()

    def __call__(self, moment: int) -> None:
        """Wait until it is time for `moment`."""
        sleep(self.left(moment))

    def left(self, moment: int) -> float:
        """Seconds until it is time for `moment`."""
        return self._began + (moment - self._start) / 1e6 / self._speed - monotonic_seconds()

    def moment(self) -> int:
        """The simulated moment that it is now."""
        return self._start + round((monotonic_seconds() - self._began) * self._speed * 1e6)


def chosen(app: App, topic: str | None) -> type[Event]:
    """The event class that reads `topic`; without one, the only class that no calendar makes."""
    topics = {schema(event).topic: event for event in app.events}
    if topic is not None and topic in topics:
        return topics[topic]
    if topic is None and len(topics) == 1:
        return next(iter(topics.values()))
    raise SettingsError(
        "--topic", found=str(topic), expected=f"one of {', '.join(topics)}", do="say whose events they are"
    )


def summary(runtime: Runtime, seconds: float) -> dict[str, Any]:
    """What became of all events, what was answered, and how good it was."""
    live, counts = runtime.live, runtime.pipeline.state.store.counts
    status = live.status()
    found: dict[str, Any] = {name: counts.get(name, 0) for name in COUNTS if name != "heartbeats"}
    found["predictions"], found["labels"] = status.vitals.predictions, status.vitals.labels
    found["alerts"] = runtime.log.end("katmatic.alerts")
    found["versions"] = sum(
        record.action in ("promoted", "refused") for name in runtime.app.predictors for record in live.models(name)
    )
    for report in status.quality.values():
        found["auc"], found["auc_rule"], found["brier"] = report.model.auc, report.rule.auc, report.model.brier
        found["auc_base"], found["brier_rule"] = report.base.auc, report.rule.brier
    found["seconds"] = round(seconds, 2)
    found["rss_mb"] = round(resident_mb(), 1)
    return found


def resident_mb() -> float:
    """Memory of this process that is resident now; where the system does not tell, the most it ever was."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def progress(show: bool) -> Progress:
    """A bar on standard error."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[moment]}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), disable=not show, refresh_per_second=1 / SHOW_EVERY)


def _in_order(topic: str, events: Iterator[tuple[int | None, bytes]]) -> Iterator[Arrival]:
    """Events arrive in the order of the file: an event whose time lies before that of an earlier one comes late."""
    now: int | None = None
    waiting: list[bytes] = []
    for moment, value in events:
        if moment is None and now is None:
            waiting.append(value)
            continue
        now = max(now, moment) if now is not None and moment is not None else now if moment is None else moment
        assert now is not None
        for early in waiting:
            yield Arrival(now, topic, early)
        waiting = []
        yield Arrival(now, topic, value)
    for early in waiting:
        yield Arrival(0, topic, early)
