"""The view of a pipeline at work: what was answered, what came of it, what is wrong, and what may be asked."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import closing
from dataclasses import asdict, replace

import pytest
from river import linear_model

from katmatic import Retrain
from katmatic.clock import ManualClock
from katmatic.drive import drive, pass_until
from katmatic.errors import InputError, LogError, LogFull
from katmatic.live import UNKNOWN_FIELDS_LIMIT, Live
from katmatic.log.codec import encode
from katmatic.log.memory import MemoryLog
from katmatic.log.sqlite import SqliteLog
from katmatic.memory import quick_switches
from katmatic.metrics import LATENCY_SECONDS
from katmatic.pipeline import Pipeline
from katmatic.records import MODELS, PREDICTIONS, ModelVersion, Skew, SkewReport
from katmatic.serving.base import QueueFull
from katmatic.sources.base import Arrival
from tests.apps import NOON, SECOND, door, ring, visits

MINUTE = 60 * SECOND


class Posted(MemoryLog):
    """A log to which others have posted: what is read next came so many seconds ago."""

    seconds = 0

    def read(self, now, *, limit):
        batch, number = super().read(now, limit=limit), self._given[1]
        since = batch.now - self.seconds * SECOND
        came = [(piece.topic, since, len(piece.values)) for piece in batch.slices if self.seconds]
        self._given = replace(batch, came=came), number
        return self._given[0]


class World:
    """The door with its view; its model is an online one, so that it answers at once."""

    def __init__(self, log=None, **door_options):
        self.clock, self.log = ManualClock(NOON), log if log is not None else MemoryLog()
        app = door(**({"model": linear_model.LogisticRegression()} | door_options))
        self.pipeline = Pipeline(app, self.log, self.clock)
        self.live = Live(self.pipeline)
        self.pipeline.recover()
        self.live.rebuild()
        self.pipeline.watchers.append(self.live)
        self.live.ready = True

    def lived(self, number=200):
        drive(self.pipeline, self.clock, [Arrival(*each) for each in visits(number)], grain=SECOND)
        pass_until(self.pipeline, self.clock, self.clock.now() + 5 * MINUTE)
        return self

    def rings(self, *values):
        self.clock.move_to(self.clock.now() + SECOND)
        promise = self.live.submit("ring", list(values))
        self.pipeline.turn()
        return promise

    def alerts(self, name):
        self.pipeline.turn()
        return [alert for alert in self.live.alerts(100) if alert.name == name]


def test_turns_that_are_taken_in_together_show_the_same_as_one_by_one(monkeypatch):
    def shown(microseconds, rows=24):
        monkeypatch.setattr("katmatic.live.GATHERED_OVER", microseconds)
        monkeypatch.setattr("katmatic.live.GATHERED_ROWS", rows)
        world = World().lived(number=300)
        status = world.live.status()
        roll, keys = world.live.board().trend("open"), [f"v{i}" for i in range(12)]
        latest = [world.live.latest("open", (key,)) for key in keys]
        figures = (asdict(status.quality["open"]), status.vitals.counts, status.vitals.predictions, status.models)
        counted = [found for found in world.live.metrics.values() if found[0].endswith("_total")]
        return (*figures, counted), roll, [each and (each.anchor, each.score, each.at) for each in latest]

    one_by_one = shown(0)
    assert sum(each is not None for each in one_by_one[2]) > 5
    assert shown(10 * SECOND) == one_by_one
    assert shown(10**18) == one_by_one
    assert shown(10**18, rows=1) == one_by_one, "in two turns"
    assert shown(10**18, rows=10**6) == one_by_one, "once somebody asks"


def test_what_was_gathered_is_there_for_whoever_asks(monkeypatch):
    monkeypatch.setattr("katmatic.live.GATHERED_OVER", 10**18)
    world = World()
    world.rings(ring("v1", NOON))
    world.rings(ring("v2", NOON + SECOND))
    assert world.live.latest("open", ("v2",)).at == NOON + SECOND


def test_what_was_begun_is_there_for_whoever_asks(monkeypatch):
    monkeypatch.setattr("katmatic.live.GATHERED_OVER", 10**18)
    monkeypatch.setattr("katmatic.live.GATHERED_ROWS", 1)
    world = World()
    world.live._checked = 10**18  # who checks the rules would ask, too
    world.rings(ring("v1", NOON))
    (cell,) = map(world.live._board._sheets["open"].cells.get, range(1))
    world.pipeline.turn()
    assert cell.at == NOON, "both steps were made"
    world.clock.move_to(NOON + 5 * MINUTE)
    world.pipeline.turn()
    assert not world.live._gathered
    assert cell.state.name == "OPEN", "the first step was made"
    assert world.live.board() is not None
    assert cell.state.name == "FINAL"


def test_what_was_begun_goes_before_a_flood(monkeypatch):
    monkeypatch.setattr("katmatic.live.GATHERED_OVER", 10**18)
    monkeypatch.setattr("katmatic.live.GATHERED_ROWS", 1)
    world = World()
    world.live._checked = 10**18
    world.rings(ring("v1", NOON))  # its label is open, which is taken in with the next turn
    monkeypatch.setattr("katmatic.live.FLOOD_ROWS", 1)
    world.clock.move_to(NOON + 5 * MINUTE)
    world.pipeline.turn()
    (cell,) = map(world.live._board._sheets["open"].cells.get, range(1))
    assert cell.state.name == "FINAL"


def test_an_event_that_was_handed_in_is_answered_and_timed():
    world = World()
    promise = world.rings(ring("v1", NOON))
    assert promise.result(1) == range(1)
    found = world.live.latest("open", ("v1",))
    assert (found.key, found.at) == (("v1",), NOON)
    vitals = world.live.status().vitals
    assert (vitals.counts.events, vitals.counts.applied, vitals.predictions) == (1, 1, 1)
    assert 0 < vitals.p50_seconds < 60
    assert vitals.waiting == 0


def test_a_sender_is_answered_once_what_it_sent_can_be_seen_and_may_have_gone_away():
    world = World()
    seen, promises = [], [world.live.submit("ring", [ring(f"v{i}", NOON)]) for i in range(3)]
    promises[0].add_done_callback(lambda _: seen.append(world.live.latest("open", ("v0",))))
    assert not promises[1].cancel()
    world.pipeline.turn()
    assert [promise.result(0) for promise in promises] == [range(1), range(1, 2), range(2, 3)]
    assert seen[0].anchor == 0


def test_a_sender_whose_event_is_durable_before_anybody_waits_for_it_is_answered(monkeypatch):
    """Found by a sender that waited in vain, until another one came: the turn was over when it began to wait."""
    world = World()
    append = world.log.append

    def overtaken(topic, values):
        promise = append(topic, values)
        world.pipeline.turn()
        return promise

    monkeypatch.setattr(world.log, "append", overtaken)
    assert world.live.submit("ring", [ring("v1", NOON)]).result(0) == range(1)
    assert world.live.submit("ring", []).result(0) == range(0)


def test_senders_at_once_are_all_answered(tmp_path):
    with closing(SqliteLog(tmp_path / "log.db", moves_beside=True)) as log, quick_switches():
        world, stop, answered = World(log), threading.Event(), []

        def turns():
            while not stop.is_set():
                world.pipeline.turn(0.0005)

        def sends(number):
            answered.extend(world.live.submit("ring", [ring(f"v{number}", NOON + i)]).result(10) for i in range(200))

        turning, *senders = threads = [threading.Thread(target=turns)] + [
            threading.Thread(target=sends, args=(number,)) for number in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in senders:
            thread.join()
        stop.set()
        turning.join()
        assert sorted(each.start for each in answered) == list(range(800))


def test_what_others_put_into_the_log_is_timed_too():
    world = World(Posted())
    world.log.seconds = 90
    world.log.append("ring", [ring("v1", NOON)])
    world.clock.move_to(NOON + MINUTE)
    assert [alert.text for alert in world.alerts("lag")] == []
    world.log.seconds = 0
    vitals = world.live.status().vitals
    assert vitals.lag_seconds == 90
    assert vitals.p50_seconds == LATENCY_SECONDS[-1], "beyond the last bound"
    assert [alert.text for alert in world.alerts("lag")] == ["Events wait for 90 s; 0 are waiting"]
    assert world.live.status().vitals.lag_seconds == 0, "nothing waits any more"


def test_a_proof_that_says_no_more_falls_behind():
    world = World()
    world.live.proved(SkewReport(now=NOON, skews=(Skew(predictor="open", rows=3),), lag_seconds=0.5))
    assert world.live.metrics.value("skew_lag_seconds") == 0.5
    world.clock.move_to(NOON + 5 * MINUTE)
    world.pipeline.turn()
    assert world.live.metrics.value("skew_lag_seconds") == 300.5


def test_a_log_that_takes_no_more_says_so_to_the_sender():
    world = World()

    def full(topic, values):
        raise LogFull("log", found="100 records wait", expected="fewer", do="come again")

    world.log.append = full
    with pytest.raises(QueueFull, match="100 records wait"):
        world.live.submit("ring", [ring("v1", NOON)])


def test_what_cannot_be_made_durable_is_told_to_the_sender_and_not_counted_as_waiting(tmp_path):
    log = SqliteLog(tmp_path / "log.db")
    world = World(log)
    promise = world.live.submit("ring", [ring("v1", NOON)])
    log.close()
    assert isinstance(promise.exception(1), LogError)
    assert world.live._waiting == {}


def test_a_field_that_nobody_declared_is_told_once():
    world = World()
    for second in range(3):
        event = json.loads(ring("v1", NOON + second * SECOND)) | {"colour": "red", "size": 3}
        world.rings(json.dumps(event).encode())
    told = world.alerts("unknown-field")
    assert [alert.text for alert in reversed(told)] == [
        "ring has a field 'colour' that is not declared: it is ignored",
        "ring has a field 'size' that is not declared: it is ignored",
    ]
    assert world.live.status().vitals.counts.applied == 3


def test_a_sender_that_makes_up_fields_does_not_fill_the_memory():
    world = World()
    for i in range(UNKNOWN_FIELDS_LIMIT + 50):
        event = json.loads(ring("v1", NOON)) | {f"f{i}": 1}
        world.rings(json.dumps(event).encode())
    assert len(world.live._unknown) == UNKNOWN_FIELDS_LIMIT


def test_a_restart_reads_the_newest_blocks_that_hold_so_many_rows(monkeypatch):
    world = World().lived(200)
    newest = [world.live.latest("open", key) for key in world.live.board()._sheets["open"].latest]
    monkeypatch.setattr("katmatic.live.REBUILT_ROWS", 40)
    again = Live(world.pipeline)
    again.rebuild()
    cells = again.board()._sheets["open"].cells
    assert 40 <= len(cells) < 80
    assert max(cells) == max(found.anchor for found in newest)
    last = max(newest, key=lambda found: (found.at, found.anchor))
    assert again.latest("open", last.key) == last


def test_dead_letters_are_shown_newest_first():
    world = World()
    world.rings(b"{nothing")
    world.rings(b'{"visitor": "v1"}')
    found = world.live.dead(10)
    assert [letter.payload for letter in found] == [b'{"visitor": "v1"}', b"{nothing"]
    assert len(world.live.dead(1)) == 1


def test_asking_leaves_no_trace():
    world = World().lived()
    before = world.log.end(PREDICTIONS), world.live.status().vitals
    asked = world.live.predict("open", [{"visitor": "v1", "at": world.clock.now(), "loudness": 2.0}] * 2)
    world.pipeline.turn()
    assert len(asked) == 2
    assert asked[0].score == asked[1].score
    assert (world.log.end(PREDICTIONS), world.live.status().vitals) == before


def test_what_would_be_answered_is_what_is_answered():
    world = World().lived()
    world.clock.move_to(world.clock.now() + SECOND)
    at = world.clock.now()
    asked = world.live.predict("open", [{"visitor": "v1", "at": at, "loudness": 2.0}])[0]
    world.live.submit("ring", [ring("v1", at, 2.0)])
    world.pipeline.turn()
    found = world.live.latest("open", ("v1",))
    assert (asked.features, asked.score, asked.at) == (found.features, found.score, found.at)


def test_reasons_name_features_the_largest_effect_first():
    world = World().lived()
    found = world.live.reasons("open", ("v1",))
    assert {name for name, _ in found} <= {"rings_1h", "loudness_1h", "opened_1d", "hour"}
    assert [abs(effect) for _, effect in found] == sorted((abs(effect) for _, effect in found), reverse=True)
    assert world.live.reasons("open", ("nobody",)) == []


def test_after_a_restart_the_view_is_the_same(tmp_path):
    log = SqliteLog(tmp_path / "log.db")
    before = World(log).lived()
    shown = facts(before)
    log.close()
    log = SqliteLog(tmp_path / "log.db")
    after = World(log)
    after.clock.move_to(before.clock.now())
    assert facts(after) == shown
    log.close()


def facts(world):
    """What a page shows that must outlive a restart."""
    status = world.live.status()
    return {
        "counts": status.vitals.counts,
        "latest": [world.live.latest("open", (f"v{i}",)) for i in range(12)],
        "quality": [
            {name: value and round(value, 9) for name, value in asdict(scores).items()}  # summed up in another order
            for scores in (status.quality["open"].model, status.quality["open"].rule)
        ],
        "rows": world.live.rows("open"),
        "dead": world.live.dead(100),
    }


def test_a_model_is_reviewed_only_where_its_policy_says_so():
    world = World()
    assert world.live.review("open", "the alert A") == "its policy declares no on_decline"
    assert world.live.review("close", "the alert A") == "there is no predictor 'close'"
    world = World(retrain=Retrain(on_decline="7d"))
    assert world.live.review("open", "the alert A") == "this is a copy: tell the pipeline itself"
    asked = []
    world.live.reviewer = lambda predictor, why: asked.append((predictor, why)) or ""
    assert world.live.review("open", "the alert A") == ""
    assert asked == [("open", "the alert A")]


def test_rows_count_once_they_are_ripe():
    world = World()
    for second in range(5):
        world.rings(ring(f"v{second}", world.clock.now() + SECOND))
    assert world.live.rows("open") == 0
    pass_until(world.pipeline, world.clock, world.clock.now() + 2 * MINUTE)
    assert world.live.rows("open") == 5


@pytest.mark.parametrize(
    ("rows", "records", "waiting"),
    [
        (0, [], "0 of 50 labelled rows"),
        (60, [], "its first training is due"),
        (60, [("failed", 0)], "the last training was not used: it is said"),
        (60, [("failed", NOON + 86_400_000_000)], "it is said; the next follows 22 Apr 12:00 UTC"),
    ],
)
def test_a_predictor_without_a_model_says_what_it_waits_for(rows, records, waiting):
    world = World(model=None)
    world.live.rows = lambda name: rows
    for action, not_before in records:
        record = ModelVersion(
            predictor="open", version=0, action=action, reason="it is said", now=NOON, not_before=not_before
        )
        world.log.append(MODELS, [encode(record)])
    world.pipeline.turn()
    assert waiting in world.live.status().models["open"].waiting


def test_while_something_is_wrong_it_is_not_ready_and_says_why():
    world = World()
    assert world.live.status().ready
    world.live.trouble = "the disk is full"
    status = world.live.status()
    assert (status.ready, status.reason) == (False, "the disk is full")


def test_a_feature_that_raises_is_counted_and_shown_and_the_row_is_marked():
    world = World(features={"wrong": lambda event: 1 / (event.loudness - 1.0)})
    world.rings(ring("v1", NOON, 1.0), ring("v2", NOON, 3.0))
    spoilt, whole = (world.live.latest("open", (visitor,)) for visitor in ("v1", "v2"))
    assert (spoilt.features["wrong"], spoilt.state) == (None, "error")
    assert (whole.features["wrong"], whole.state) == (0.5, "learning")
    assert world.live.metrics.value("user_errors_total", where="open") == 1
    assert [alert.text for alert in world.alerts("user-error")] == [
        "open.wrong raised ZeroDivisionError: float division by zero; its rows are marked"
    ]
    world.rings(ring("v1", NOON, 1.0))
    assert len(world.alerts("user-error")) == 1, "told once a day"


async def heard(live, act):
    """What a listener hears while `act` runs."""
    listener = live.hub.subscribe()
    act()
    found = []
    while True:
        try:
            found.append(await asyncio.wait_for(anext(listener), 0.2))
        except TimeoutError:
            return found


def test_who_listens_is_told_of_predictions_labels_and_the_time():
    world = World()

    def act():
        world.rings(ring("v1", NOON))
        pass_until(world.pipeline, world.clock, NOON + 5 * MINUTE)

    messages = asyncio.run(heard(world.live, act))
    kinds = [kind for kind, _ in messages]
    assert kinds[0] == "prediction"
    assert {"label", "status"} <= set(kinds)
    assert messages[0][1]["key"] == {"visitor": "v1"}


def test_metrics_count_from_the_start_of_the_process_and_stay_in_balance(tmp_path):
    """Found by reading: after a restart the outcomes began at those of all lives, the events of topics at nothing."""
    log = SqliteLog(tmp_path / "log.db")
    World(log).lived()
    log.close()
    log = SqliteLog(tmp_path / "log.db")
    world = World(log)
    world.clock.move_to(world.pipeline.state.now)
    world.rings(ring("v1", world.clock.now()), b"{nothing")
    value = world.live.metrics.value
    outcomes = {name: value("event_outcomes_total", outcome=name) for name in ("applied", "duplicate", "late", "dead")}
    assert outcomes == {"applied": 1, "duplicate": 0, "late": 0, "dead": 1}
    assert value("events_total", topic="ring") == 2
    assert world.live.status().vitals.counts.events > 200, "the page shows all of them"
    log.close()


def test_prometheus_sees_how_good_the_model_is():
    world = World().lived()
    value = world.live.metrics.value
    report = world.live.status().quality["open"]
    assert value("model_judged_rows", predictor="open") > 100
    assert 0 < value("model_quality", predictor="open", metric="auc", who="model") < 1
    assert value("model_quality", predictor="open", metric="brier", who="base_rate") == pytest.approx(
        report.base.brier, abs=0.05
    )
    assert value("model_version", predictor="open") > 0
    assert value("source_silent", topic="ring") == 0


@pytest.mark.parametrize("days", [-400, 400])
def test_what_would_be_a_dead_letter_is_not_answered(days):
    world = World().lived()
    with pytest.raises(InputError) as refused:
        world.live.predict("open", [{"visitor": "v1", "at": world.clock.now() + days * 1_440 * MINUTE}])
    assert "ring $.at" in refused.value.where
