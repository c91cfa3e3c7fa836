"""Keys that can no longer matter are forgotten: their memory serves new ones, and no answer changes."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from katmatic import App, Event, Key, Time, future, past
from katmatic.engine.step import step
from katmatic.state import forget, kernel
from tests.apps import NOON, SECOND
from tests.engine.running import Running, all_at_once, answered, assert_equal, at_random, one_by_one
from tests.histories import APPS, histories

MINUTE, HOUR, DAY = 60 * SECOND, 3600 * SECOND, 86_400 * SECOND
MADE = {name: make() for name, make in APPS.items()}
SOME = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


class Ride(Event):
    """A taxi takes somebody somewhere."""

    taxi: Key
    rider: Key
    price: float
    at: Time


class Complaint(Event):
    """A rider complains."""

    rider: Key
    at: Time


class Model:
    """Never asked."""

    def fit(self, x, y):
        """Nothing to learn."""

    def predict_proba(self, x):
        """Nothing to say."""


def rides(window="1h", since="1h"):
    app = App("rides")
    app.source(Ride, lateness="1m", horizon="10m", duplicates="1h")
    app.source(Complaint, lateness="1m", horizon="10m", silence="20m", duplicates="1h")
    complaint = future.any(Complaint, per=Ride, within="5m")
    app.predict(
        "complaint",
        complaint,
        features={
            "rides": past.count(Ride, window, by=Ride.rider),
            "price": past.max(Ride.price, window, by=Ride.rider),
            "mean": past.mean(Ride.price, window, by=Ride.rider),
            "since": past.since(Ride, since, by=Ride.rider),
            "bad": past.mean(complaint, window, by=Ride.taxi),
        },
        model=Model(),
    )
    return app


@pytest.fixture
def eager(monkeypatch):
    """Look at every key after every step; how many were forgotten."""
    work, gone = forget.Forgetting.work, []

    def at_once(self, now, *, held=False):
        before = self._forgotten
        work(self, now, held=held)
        if self.can and now - self._held > self._life:
            self._at = 0
            self._look(now)
        gone.append(self._forgotten - before)

    monkeypatch.setattr(forget, "LOOKED_AT", 1 << 40)
    monkeypatch.setattr(forget.Forgetting, "work", at_once)
    return gone


def ride(taxi, rider, at, price=10.0):
    return "ride", b'{"taxi": "%s", "rider": "%s", "price": %r, "at": %f}' % (
        taxi.encode(), rider.encode(), price, at / 1e6,
    )  # fmt: skip


def heard(at):
    return "complaint", b'{"rider": "nobody", "at": %f}' % (at / 1e6)


@pytest.mark.parametrize("name", MADE)
def test_forgetting_as_early_as_can_be_changes_no_answer(name, eager):
    @SOME
    @given(histories(MADE[name]), st.integers(0, 99))
    def holds(history, seed):
        oracle = answered(history.app, history.moments)
        for steps in (all_at_once(history.moments), one_by_one(history.moments), at_random(history.moments, seed)):
            engine = Running(history.app)
            for i, moments in enumerate(steps):
                engine.apply(moments)
                if (i + seed) % 9 == 8:
                    engine.reload()
            assert_equal(engine, oracle)

    holds()
    assert sum(eager) > 0 or name in ("calls", "grades", "sums", "windows")  # these keep theirs longer, or for ever


def lived(app, hours, riders=50, step=30 * SECOND):
    """Each hour other riders, all heard of once or twice; what the engine says must be what the oracle says."""
    engine, moments = Running(app), []
    for i in range(hours * HOUR // step):
        now = NOON + i * step
        hour = i * step // HOUR
        at = now - (i % 7) * MINUTE  # some late
        records = [ride(f"t{i % 5}", f"r{hour}-{i % riders}", at, float(i % 11))]
        records += [heard(now)] if i % 10 == 0 else []
        moments.append((now, records))
    for moment in moments:
        engine.apply([moment])
    return engine, moments


@pytest.mark.slow
def test_numbers_and_memory_of_old_keys_serve_new_ones(eager):
    engine, moments = lived(rides(), 6)
    assert_equal(engine, answered(rides(), moments))
    store = engine.state.store
    assert len(store.keys) < 120  # of 300 riders
    assert store.keys.known <= len(store.keys)
    sizes = []
    for hours in (12, 24):
        longer = lived(rides(), hours)[0].state.store
        assert len(longer.keys) == len(store.keys)
        sizes.append(int(longer.words[kernel.USED]))
    assert sizes[0] == sizes[1]
    names = [*(f"t{i}" for i in range(5)), *(f"r{hour}-{i}" for hour in range(6) for i in range(50))]
    numbers = {name: store.keys.find(space, name) for space in (0, 1) for name in names}
    assert sum(number >= 0 for number in numbers.values()) > 50
    engine.reload()
    again = engine.state.store
    assert {name: again.keys.find(space, name) for space in (0, 1) for name in names} == numbers
    free = len(again.keys) - again.keys.known
    again.keys.numbers(1, [f"new-{i}" for i in range(10)])
    assert (len(again.keys), len(again.keys) - again.keys.known) == (len(store.keys), max(0, free - 10)) or free == 0


@pytest.mark.slow
def test_in_the_usual_pace_an_eighth_waits_to_be_forgotten(monkeypatch):
    monkeypatch.setattr(forget, "LOOKED_AT", 16)
    engine, moments = lived(rides(), 6)
    assert_equal(engine, answered(rides(), moments))
    longer, _ = lived(rides(), 40)
    assert len(longer.state.store.keys) < 140  # of 2,000 riders; as soon as can be it would be 106


def test_a_window_without_an_end_keeps_its_keys_for_ever(eager):
    engine, moments = lived(rides(since=None), 4)
    assert_equal(engine, answered(rides(since=None), moments))
    assert engine.state.store.keys.find(engine.plan.spaces.index(("rider",)), "r0-1") >= 0


def test_what_a_silent_source_holds_keeps_its_keys(eager):
    app = rides()
    engine = Running(app)
    moments = [(NOON, [heard(NOON), ride("t1", "r1", NOON)])]
    moments += [(NOON + i * MINUTE, [ride("t2", f"r{i}", NOON + i * MINUTE)]) for i in range(2, 160)]
    for moment in moments:
        engine.apply([moment])
    riders = engine.plan.spaces.index(("rider",))
    assert engine.state.store.keys.find(riders, "r50") >= 0  # whose label waits for word of complaints
    later = [(NOON + DAY + i * MINUTE, [heard(NOON + DAY + i * MINUTE)]) for i in range(200)]
    for moment in later:
        engine.apply([moment])
    assert engine.state.store.keys.find(riders, "r50") == -1
    assert_equal(engine, answered(app, [*moments, *later]))


@pytest.mark.slow
def test_long_rings_and_their_trees_are_given_back(eager):
    app = rides()
    engine, moments = Running(app), []
    for day in range(8):
        start = NOON + day * DAY
        for i in range(100):
            at = start + i * SECOND
            moments.append((at, [heard(at), ride("t", f"r{day}", at, float(100 - i))]))
        moments += [(start + i * 15 * MINUTE, [heard(start + i * 15 * MINUTE)]) for i in range(1, 40)]
    sizes = []
    for moment in moments:
        engine.apply([moment])
        sizes.append(int(engine.state.store.words[kernel.USED]))
    assert_equal(engine, answered(app, moments))
    assert sizes[-1] == sizes[len(sizes) // 2]  # once all tables of identities are as long as a day wants
    words, cells = engine.state.store.words, engine.state.store.cells_per_key
    assert words[kernel.CELLS_AT : kernel.CELLS_AT + cells * len(engine.state.store.keys)].any()
    changes = step(engine.plan, engine.state)
    assert changes.counts["events"] == 0
