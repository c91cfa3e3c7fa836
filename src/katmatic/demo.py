"""Katmatic attendance on a simulated school: as fast as it can, or live with its page."""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from rich.console import Console

from katmatic.clock import ManualClock, monotonic_seconds, to_datetime, to_micros
from katmatic.drive import drive, merged
from katmatic.pipeline import Turn
from katmatic.replay import GRAIN, Pace, progress, settle, summary
from katmatic.runtime import Runtime, keep_for_good, load_app, stopped_by_signals
from katmatic.settings import Settings
from katmatic.sources.base import Arrival
from katmatic.sources.simulator import School

EXAMPLES = {"attendance": "school", "shop": "", "fraud": "bank"}
FIRST_DAY = date(2025, 4, 20)  # the school year of Nepal begins in Baisakh, mid-April
POLL_SECONDS = 0.05  # how soon an event that somebody sends is taken in


def example_files(example: str) -> dict[str, str]:
    """The files of an example, by name: its declaration, and the module that stands for the user's own systems."""
    names = [name for name in (example, EXAMPLES[example]) if name]
    return {f"{name}.py": (examples() / f"{name}.py").read_text("utf-8") for name in names}


def examples() -> Path:
    """Where the examples lie: in the installed package, or beside the source."""
    installed = Path(str(resources.files("katmatic"))) / "examples"
    return installed if installed.exists() else Path(__file__).parents[2] / "examples"


def run_days(days: int, *, pupils: int, seed: int, data: str | None, show: bool) -> dict[str, Any]:
    """Simulate `days` school days as fast as it goes; gives back what came of it."""
    began = monotonic_seconds()
    clock = ManualClock()
    with _folder(data) as folder, _school(pupils, seed) as school:
        settings = Settings(data=str(folder))
        path = examples() / "attendance.py"
        app = load_app(path)
        with Runtime(app, path, settings, clock=clock, waits=True) as runtime:
            start = _midnight(FIRST_DAY, app.timezone)
            with progress(show) as bar:
                task = bar.add_task(f"{pupils} pupils", total=days, moment="")

                def seen(turn: Turn) -> None:
                    moment = to_datetime(turn.batch.now).astimezone(app.timezone)
                    bar.update(
                        task, completed=(turn.batch.now - start) / 86_400_000_000, moment=moment.strftime("%d %b %H:%M")
                    )

                clock.move_to(start)
                _drive(runtime, clock, school, FIRST_DAY, days, after=seen)
                settle(runtime, clock)
            return summary(runtime, monotonic_seconds() - began)


def run_live(days: int, *, speed: float, pupils: int, seed: int, data: str | None, port: int | None) -> None:
    """Simulate the days before today as fast as it goes, then today, `speed` times the clock's speed, with the page."""
    from katmatic.serving.api import make_api
    from katmatic.serving.server import Server

    console = Console(stderr=True)
    clock, stop = ManualClock(), stopped_by_signals()
    with _folder(data) as folder, _school(pupils, seed) as school:
        settings = Settings(data=str(folder), port=port or Settings.port)
        path = examples() / "attendance.py"
        app = load_app(path)
        with Runtime(app, path, settings, clock=clock, waits=True) as runtime:
            runtime.live.ready = False
            api = make_api(runtime.live, names=lambda pupil: school.name(pupil) if pupil in school.students else None)
            server = Server(api, host=settings.host, port=settings.port, closing=runtime.live.hub.close)
            server.start()
            console.print(
                f"[bold]{server.url}[/]  the page of a simulated school with {pupils} pupils (Ctrl-C stops it)",
                soft_wrap=True,
            )

            def work() -> None:
                clock.move_to(_midnight(FIRST_DAY, app.timezone))
                with progress(True) as bar:
                    task = bar.add_task(f"{days} days before today", total=days, moment="")
                    start = clock.now()

                    def seen(turn: Turn) -> None:
                        bar.update(task, completed=(turn.batch.now - start) / 86_400_000_000)
                        if stop.is_set():
                            raise KeyboardInterrupt

                    _drive(runtime, clock, school, FIRST_DAY, days, after=seen)
                keep_for_good()
                runtime.live.ready = True
                if runtime.trainer is not None:
                    runtime.trainer.waits = False
                today = _next_school_day(school, FIRST_DAY + timedelta(days=days), app.timezone)
                while not stop.is_set():
                    morning = to_micros(datetime(today.year, today.month, today.day, 5, 45, tzinfo=app.timezone))
                    console.print(f"{today:%A, %d %B %Y}: the gates open at 6; {speed:g} times as fast as the clock")
                    _live_day(runtime, clock, school, today, morning, speed, stop)
                    today = _next_school_day(school, today + timedelta(days=1), app.timezone)

            worker = threading.Thread(target=_quietly(work, stop, console), name="katmatic-pipeline")
            worker.start()
            while worker.is_alive() and not stop.wait(0.5):
                pass
            stop.set()
            worker.join()
            server.stop()


def _quietly(work: Callable[[], None], stop: threading.Event, console: Console) -> Callable[[], None]:
    def guarded() -> None:
        try:
            work()
        except KeyboardInterrupt:
            return
        except Exception:
            console.print_exception()
            stop.set()

    return guarded


def _drive(
    runtime: Runtime, clock: ManualClock, school: School, first: date, days: int, *, after: Callable[[Turn], None]
) -> None:
    start = _midnight(first, runtime.app.timezone)
    calendar = _calendar(runtime, start, _midnight(first + timedelta(days=days), runtime.app.timezone))
    events = school.arrivals(first, days)
    drive(
        runtime.pipeline,
        clock,
        merged(calendar, events),
        until=_midnight(first + timedelta(days=days), runtime.app.timezone) - 1,
        grain=10 * GRAIN,
        after=after,
    )


def _live_day(
    runtime: Runtime, clock: ManualClock, school: School, today: date, morning: int, speed: float, stop: threading.Event
) -> None:
    """The night passes at once; from the morning on, simulated time goes `speed` times as fast as the clock."""
    zone = runtime.app.timezone
    start, end = _midnight(today, zone), _midnight(today + timedelta(days=1), zone)
    evening = to_micros(datetime(today.year, today.month, today.day, 16, tzinfo=zone))
    pace = Pace(speed, morning)

    def wait(moment: int) -> None:
        while not stop.is_set() and morning < moment < evening and (left := pace.left(moment)) > 0:
            if runtime.log.wait(min(left, POLL_SECONDS)):  # somebody has sent an event
                clock.move_to(pace.moment())
                runtime.pipeline.turn()
        if stop.is_set():
            raise KeyboardInterrupt

    calendar = _calendar(runtime, start, end)
    events = school.arrivals(today, 1)
    whole = merged(calendar, events)
    drive(runtime.pipeline, clock, whole, grain=GRAIN, pace=wait, until=end - 1, send=runtime.live.submit)


def _calendar(runtime: Runtime, start: int, end: int) -> Iterator[Arrival]:
    """What the calendars say from `start` up to `end`; of the very first day it is known at its midnight."""
    for moment, topic, values in runtime.said(start - 1, end - 1):
        for value in values:
            yield Arrival(moment, topic, value)


def _next_school_day(school: School, day: date, zone: Any) -> date:
    for ahead in range(60):
        found = day + timedelta(days=ahead)
        if any(True for _ in school.roster(datetime(found.year, found.month, found.day, tzinfo=zone))):
            return found
    return day


def _midnight(day: date, zone: Any) -> int:
    return to_micros(datetime(day.year, day.month, day.day, tzinfo=zone))


@contextmanager
def _folder(data: str | None) -> Iterator[Path]:
    if data is not None:
        yield Path(data)
        return
    with tempfile.TemporaryDirectory(prefix="katmatic-demo-") as folder:
        yield Path(folder)


@contextmanager
def _school(pupils: int, seed: int) -> Iterator[School]:
    """A simulated school that stands where the example imports the module of a real one."""
    school = School(seed=seed, start=FIRST_DAY, pupils=pupils)
    before = sys.modules.get("school")
    sys.modules["school"] = cast(ModuleType, school)
    try:
        yield school
    finally:
        if before is None:
            del sys.modules["school"]
        else:
            sys.modules["school"] = before
