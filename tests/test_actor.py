"""The user's functions, live: each is called once, what raises is counted and shown, and nothing stops."""

from __future__ import annotations

import threading

import msgspec
import pytest

from katmatic import App, Event, Key, Time, future, past
from katmatic.actor import Actor
from katmatic.clock import ManualClock
from katmatic.log.codec import decode
from katmatic.log.memory import MemoryLog
from katmatic.pipeline import Pipeline
from katmatic.records import ALERTS, DECISIONS
from tests.learning import DAY, HOUR, MINUTE

NOW = 50 * DAY


class Lesson(Event):
    pupil: Key
    at: Time


class Scan(Event):
    pupil: Key
    at: Time


class Sure:
    """It learns, and answers 0.9 once it has."""

    def learn_one(self, x, y):
        pass

    def predict_proba_one(self, x):
        return {True: 0.9, False: 0.1}


class School:
    """A pipeline with an actor: pupils have lessons, and the model is always sure that they are absent."""

    def __init__(self, *, log=None, now=NOW):
        self.app = App("school")
        absent = future.none(Scan, per=Lesson, within="15m")
        self.absence = self.app.predict(
            "absence", absent, features={"seen": past.count(Scan, "30d", by=Lesson.pupil)}, model=Sure()
        )
        self.label, self.log, self.clock, self.done = absent, log or MemoryLog(), ManualClock(now), []

    def start(self):
        self.pipeline = Pipeline(self.app, self.log, self.clock)
        self.pipeline.recover()
        self.actor = Actor(self.pipeline, self.done.append)
        self.pipeline.watchers.append(self.actor)
        return self

    def lesson(self, pupil, *, wait=HOUR):
        """A pupil has a lesson; then time passes."""
        self.log.append("lesson", [msgspec.json.encode({"pupil": pupil, "at": self.clock.now() / 1e6})])
        self.pipeline.drain()
        self.clock.move_to(self.clock.now() + wait)
        self.pipeline.drain()

    def alerts(self):
        return [decode(ALERTS, value) for _, value in self.log.scan(ALERTS)]


@pytest.fixture
def school():
    found = School()
    yield found
    if hasattr(found, "actor"):
        found.actor.stop()


def test_nobody_is_acted_on_before_something_was_learnt(school):
    seen = []
    school.absence.when(above=0.8)(lambda likely: seen.append(likely.event.pupil))
    school.start()
    school.lesson("A")
    school.lesson("B")
    school.actor.stop()
    assert seen == ["B"]


def test_an_action_gets_the_event_that_the_prediction_is_about(school):
    seen = []
    school.absence.when(above=0.8)(seen.append)
    school.start()
    school.lesson("A")
    school.lesson("B")
    school.actor.stop()
    (acted,) = seen
    assert (acted.event.pupil, acted.key, acted.probability) == ("B", ("B",), 0.9)
    assert [(done.action, done.key, done.error) for done in school.done] == [("append", ("B",), None)]


def test_an_action_that_raises_is_counted_and_nothing_stops(school):
    called = []

    @school.absence.when(above=0.8)
    def warn(likely):
        called.append(likely.event.pupil)
        if likely.event.pupil == "B":
            raise ConnectionError("the message was not taken")

    school.start()
    for pupil in "ABC":
        school.lesson(pupil)
    school.actor.stop()
    assert called == ["B", "C"]
    errors = {done.key: done.error for done in school.done}
    assert errors == {("B",): "ConnectionError('the message was not taken')", ("C",): None}


def test_actions_are_carried_out_in_the_order_of_their_decisions(school):
    called = []
    school.absence.when(above=0.8)(lambda likely: called.append(likely.event.pupil))
    school.start()
    school.lesson("first")
    for i in range(50):
        school.lesson(f"{i}", wait=MINUTE)
    school.actor.stop()
    assert called == [str(i) for i in range(50)]


def test_a_listener_hears_each_version_of_its_label(school):
    heard = []
    school.app.on(school.label)(lambda version: heard.append((version.key, version.state.name, version.value)))
    school.start()
    school.lesson("A")
    school.actor.stop()
    assert heard == [(("A",), "OPEN", None), (("A",), "FINAL", 1.0)]


@pytest.mark.parametrize("raised", [KeyError("class"), SystemExit(2)])
def test_a_listener_that_raises_is_shown_and_the_others_are_called(school, raised):
    heard = []

    @school.app.on(school.label)
    def broken(version):
        raise raised

    school.app.on(school.label)(heard.append)
    school.start()
    school.lesson("A")
    school.actor.stop()
    school.pipeline.turn()
    assert len(heard) == 2
    found = [alert for alert in school.alerts() if alert.name == "listener-failed"]
    assert len(found) == 2
    assert found[0].text == f"broken, which listens to absence, raised {raised!r}"


def test_a_listener_without_a_name_is_shown_too(school):
    class Broken:
        def __call__(self, version):
            raise KeyError("class")

    school.app.on(school.label)(Broken())
    school.start()
    school.lesson("A")
    school.actor.stop()
    school.pipeline.turn()
    assert school.alerts()[0].text.startswith("Broken, which listens")


def test_whoever_is_told_may_fail_and_the_next_action_is_carried_out(school):
    called = []
    school.absence.when(above=0.8)(lambda likely: called.append(likely.event.pupil))
    school.start()
    school.actor._done = lambda decision: 1 / 0
    for pupil in "ABC":
        school.lesson(pupil)
    school.actor.stop()
    school.pipeline.turn()
    assert called == ["B", "C"]
    assert [alert.name for alert in school.alerts()] == ["watcher-failed"] * 2


def test_an_action_is_taken_at_most_once(school):
    """What was decided is in the log; a restart reads it again, and does nothing about it."""
    called = []
    school.absence.when(above=0.8)(lambda likely: called.append(likely.event.pupil))
    school.start()
    for pupil in "ABC":
        school.lesson(pupil)
    school.actor.stop()
    school.log.close()
    assert called == ["B", "C"]

    again = School(log=MemoryLog(school.log), now=school.clock.now())
    again.absence.when(above=0.8)(lambda likely: called.append(likely.event.pupil))
    again.start()
    again.lesson("D")
    again.actor.stop()
    assert called == ["B", "C", "D"]
    assert len(list(again.log.scan(DECISIONS))) == 3


def test_the_row_is_durable_before_its_action_is_carried_out(school):
    seen = []

    @school.absence.when(above=0.8)
    def warn(likely):
        seen.append(len(list(school.log.scan("katmatic.predictions"))))

    school.start()
    school.lesson("A")
    school.lesson("B")
    school.actor.stop()
    assert seen == [2]


def test_actions_do_not_hold_up_the_pipeline(school):
    gate, called = threading.Event(), []

    @school.absence.when(above=0.8)
    def slow(likely):
        assert gate.wait(30)
        called.append(likely.event.pupil)

    school.start()
    for pupil in "ABCD":
        school.lesson(pupil)
    assert called == []
    assert school.pipeline.state.store.counts["applied"] == 4
    gate.set()
    school.actor.stop()
    assert called == ["B", "C", "D"]


def test_an_action_that_hangs_is_told_and_the_pipeline_goes_on(monkeypatch):
    """Found by running: an action that never came back held up, in the end, every event; and the end of the process."""
    monkeypatch.setattr("katmatic.actor.HANGS_SECONDS", 0.05)
    monkeypatch.setattr("katmatic.actor.STOP_SECONDS", 0.05)
    monkeypatch.setattr("katmatic.actor.WAITING_LIMIT", 3)
    world, came, free = School(), threading.Event(), threading.Event()
    called = []

    @world.absence.when(above=0.5)
    def warn(likely):
        called.append(likely.event.pupil)
        came.set()
        free.wait()

    world.start()
    world.lesson("Ann")
    world.lesson("Bob")
    assert came.wait(20)
    while not any(alert.name == "action-hangs" for alert in world.alerts()):
        world.pipeline.turn()
    for pupil in "CDEFG":
        world.lesson(pupil)
    world.pipeline.turn()
    names = [alert.name for alert in world.alerts()]
    assert names.count("action-hangs") == 1
    assert names.count("actions-dropped") == 2, "room for three"
    world.actor.stop()
    assert len(called) == 1
    free.set()
