"""What the simulation found, each bug as a story of its own; the seed that showed it first stands beside it."""

from __future__ import annotations

import numpy as np
import pytest

from katmatic import App, Event, Key, Time, future, past
from katmatic.clock import ManualClock
from katmatic.drive import pass_until
from katmatic.live import Live
from katmatic.log.codec import encode
from katmatic.log.memory import MemoryLog
from katmatic.log.sqlite import SqliteLog
from katmatic.monitoring.drift import Watch
from katmatic.monitoring.gather import joined_labels
from katmatic.monitoring.quality import Quality
from katmatic.pipeline import Pipeline
from katmatic.records import MODELS, LabelState, ModelVersion
from katmatic.state.files import FileCheckpoints
from katmatic.testing.simulation.apps import APPS, Model
from katmatic.testing.simulation.models import make_models
from katmatic.testing.simulation.run import simulate
from katmatic.training.dataset import read
from tests.apps import NOON, SECOND, door, ring
from tests.monitoring.blocks import MINUTE, bell, examples, labels, school

DAY = 86_400 * SECOND


@pytest.mark.parametrize("seed", [42, 51, 75, 120, 128, 199, 210, 215, 442, 523, 527, 666, 847, 3710, 6750, 9857])
def test_the_seeds_that_found_something_are_well(seed):
    outcome = simulate(seed)
    assert outcome.is_well, outcome.difference


class Knock(Event):
    visitor: Key
    at: Time


class Answered(Event):
    visitor: Key
    at: Time


class Bell(Event):
    visitor: Key
    at: Time


def house():
    """Two sources that may fall silent, one sooner than the other."""
    app = App("house")
    app.source(Answered, lateness="3s", silence="12s", horizon="1m")
    app.source(Bell, silence="5s", horizon="1m")
    alone = future.none(Answered | Bell, per=Knock, within="9s")
    app.predict("alone", alone, features={"alone": past.mean(alone, "1h", by=Knock.visitor)}, model=Model())
    return app


class Settled:
    def __init__(self):
        self.at = []

    def turn(self, turn):
        self.at += [
            (int(now) - NOON) / SECOND
            for block in turn.labels
            for now, state in zip(block.now, block.state, strict=True)
            if state == LabelState.FINAL
        ]


@pytest.mark.parametrize("crashes", [False, True])
def test_a_label_is_held_for_the_same_sources_after_a_crash(tmp_path, crashes):
    """Seed 42. The tick at which a label was held wrote nothing, so the log did not keep it: a restart held it at the
    moment of the next record, when another source had fallen silent, too, and then waited for both.
    """
    clock, log, settled = ManualClock(NOON), SqliteLog(tmp_path / "log.db"), Settled()
    pipeline = Pipeline(house(), log, clock, watchers=[settled])

    def at(second, topic, value=b""):
        pass_until(pipeline, clock, NOON + second * SECOND)
        log.append(topic, [value])
        pipeline.turn()

    at(1, "knock", b'{"visitor": "v", "at": %d}' % (NOON // SECOND + 1))
    at(2, "answered")  # heard, 11 seconds before the label is due: for which the bell alone is silent
    at(20, "knock")
    if crashes:
        log.close()
        log = SqliteLog(tmp_path / "log.db")
        pipeline = Pipeline(house(), log, clock, watchers=[settled])
        pipeline.recover()
    at(29, "bell")
    at(30, "answered")
    pass_until(pipeline, clock, NOON + 40 * SECOND)
    assert settled.at == [32.0], "three seconds after the bell, which it was held for"
    log.close()


def test_a_copy_holds_labels_when_its_owner_does(tmp_path):
    """The same, as it shows without any crash: in the log that copies follow, the tick is there."""
    clock, log = ManualClock(NOON), MemoryLog()
    pipeline = Pipeline(house(), log, clock)
    log.append("knock", [b'{"visitor": "v", "at": %d}' % (NOON // SECOND + 1)])
    clock.move_to(NOON + SECOND)
    pipeline.turn()
    pass_until(pipeline, clock, NOON + 300 * SECOND)
    assert [(batch.now - NOON) // SECOND for batch in log.batches()] == [1, 13]


def test_training_rows_do_not_depend_on_how_records_were_cut_into_batches():
    """Seeds 75, 215. Of a function that gives now a text and now a number, the numbers came beside texts as texts."""

    def mood(event):
        return "loud" if event.loudness > 2 else event.loudness

    found = []
    for at_once in (True, False):
        clock, log = ManualClock(NOON), MemoryLog()
        app = door(features={"mood": mood})
        pipeline = Pipeline(app, log, clock)
        values = [ring(f"v{n}", NOON, float(n)) for n in range(5)]
        for group in [values] if at_once else [[value] for value in values]:
            log.append("ring", group)
            pipeline.turn()
        pass_until(pipeline, clock, NOON + 600 * SECOND)
        found.append(read(log, app, app.predictors["open"], clock.now()))
    assert found[0].digest() == found[1].digest()
    assert found[0].texts["mood"] == [None, None, None, "loud", "loud"]
    assert found[0].values[:3, found[0].columns.index("mood")].tolist() == [0.0, 1.0, 2.0]


def test_a_text_that_is_unknown_in_a_whole_block_does_not_end_the_watch_for_drift():
    """Found by reading on from seed 75: the first block had the text, a later one did not, and KeyError ended it."""
    clock, log = ManualClock(NOON), MemoryLog()
    pipeline = Pipeline(door(features={"word": lambda event: "loud" if event.loudness > 2 else None}), log, clock)
    watch = Watch()
    for day in range(30):
        log.append("ring", [ring("v", clock.now(), 3.0 if day < 3 else 1.0)])
        for block in pipeline.turn().predictions:
            watch.predictions(block)
        if day == 14:
            watch.promoted()
        pass_until(pipeline, clock, clock.now() + DAY)
    assert all(shift.name != "word" or shift.has_moved is not None for shift in watch.shifts())


def test_the_quality_does_not_depend_on_who_looks():
    """Seeds 51, 128, 199. What a baseline knew at a moment was forgotten, if nobody had looked before it changed."""
    reports = []
    for looks in (True, False):
        app = school()
        quality = Quality(app, app.predictors["absence"])
        for day in range(1, 6):
            for label, known in ((1.0, 26 * MINUTE), (0.0, 30 * 60 * MINUTE)):  # taken back the day after
                keys = [("p1", "9b"), ("p2", "9b")]
                quality.examples(
                    examples(
                        range(10 * day, 10 * day + 2),
                        keys,
                        np.array([label, 1.0]),
                        np.array([0.3, 0.6]),
                        time=bell(day),
                        label_now=bell(day) + known,
                    )
                )
                if looks:
                    quality.report(bell(day) + known)
        reports.append(quality.report(bell(9)))
    assert reports[0] == reports[1]


def test_after_a_restart_held_out_rows_weigh_what_they_did(tmp_path):
    """Found beside seed 51: a restart read predictions and labels again, but not what was decided."""
    app = APPS["payments"]()
    predictor = app.predictors["fraud"]
    models = make_models(app, tmp_path)
    clock, log = ManualClock(NOON), MemoryLog()
    pipeline = Pipeline(app, log, clock)
    live = Live(pipeline)
    pipeline.watchers.append(live)
    version = ModelVersion(
        predictor="fraud", version=1, action="promoted", reason="", now=NOON, artifact=str(models["fraud"][0])
    )
    log.append(MODELS, [encode(version)])
    for n in range(60):
        clock.move_to(clock.now() + SECOND)
        log.append(
            "payment", [b'{"id": "n%d", "card": "c%d", "amount": %d, "at": %d}' % (n, n % 3, n % 19 - 9, clock.now())]
        )
        log.append("chargeback", [b'{"id": "n%d", "at": %d}' % (n - 2, clock.now())] if n % 4 == 0 else [b""])
        log.append("refund", [b""])
        pipeline.drain()
    pass_until(pipeline, clock, clock.now() + 60 * SECOND)
    again = Live(pipeline)
    again.rebuild()
    before, after = (each.quality["fraud"].report(clock.now()) for each in (live, again))
    weights = set(read(log, app, predictor, clock.now()).weight.tolist())
    assert weights == {1.0, 1 / 0.3}, "some were let through to see the truth"
    assert before.model.rows > 10
    assert after.model.brier == pytest.approx(before.model.brier, rel=1e-9)
    assert after.base.brier == pytest.approx(before.base.brier, rel=1e-9)


def test_a_model_that_rots_after_a_checkpoint_leaves_the_one_before_it(tmp_path):
    """Found by reading for it: a restart without a checkpoint let the version before answer, one with it nobody."""
    app = door(model=Model())
    models = make_models(app, tmp_path / "models")["open"]
    for saves in (False, True):
        clock, log = ManualClock(NOON), MemoryLog()
        checkpoints = FileCheckpoints(tmp_path / f"checkpoints-{saves}")
        pipeline = Pipeline(app, log, clock, checkpoints=checkpoints)
        for version in (1, 2):
            record = ModelVersion(
                predictor="open",
                version=version,
                action="promoted",
                reason="",
                now=NOON,
                artifact=str(models[version - 1]),
            )
            log.append(MODELS, [encode(record)])
            pipeline.turn()
        if saves:
            pipeline.save()
        kept = (models[1] / "model.json").read_bytes()
        (models[1] / "model.json").write_bytes(b"rotten")
        again = Pipeline(app, log, clock, checkpoints=checkpoints)
        again.recover()
        log.append("ring", [ring("Ann", NOON)])
        (block,) = again.turn().predictions
        assert (block.version, block.row(0).state) == (1, "ok")
        (models[1] / "model.json").write_bytes(kept)


def test_an_action_that_was_decided_and_not_read_again_yet_weighs_after_a_crash(tmp_path):
    """Seeds 527, 666, 847. Decided in one commit and read with the next, it was forgotten by a restart in between."""
    app = APPS["payments"]()
    models = make_models(app, tmp_path)
    clock, log = ManualClock(NOON), MemoryLog()
    pipeline = Pipeline(app, log, clock)
    live = Live(pipeline)
    pipeline.watchers.append(live)
    record = ModelVersion(
        predictor="fraud", version=1, action="promoted", reason="", now=NOON, artifact=str(models["fraud"][0])
    )
    log.append(MODELS, [encode(record)])
    pipeline.turn()
    held_out = 0
    for n in range(40):
        clock.move_to(clock.now() + SECOND)
        log.append("payment", [b'{"id": "n%d", "card": "c", "amount": 9, "at": %d}' % (n, clock.now())])
        held_out += sum(decision.propensity < 1 for decision in pipeline.turn().decisions)
        again = Live(pipeline)
        again.rebuild()
        weights = [
            {anchor: len(anchors[anchor].decisions) for anchor in anchors}
            for anchors in (each._joiners["fraud"]._anchors for each in (live, again))
        ]
        assert weights[0] == weights[1]
    assert held_out > 3


def test_when_a_clock_goes_back_the_page_stays_at_the_logs_time():
    """Seeds 3710, 6750. A row was ripe for who had looked before the clock went back, and for nobody else."""
    clock, log = ManualClock(NOON), MemoryLog()
    pipeline = Pipeline(door(model=Model()), log, clock)
    live = Live(pipeline)
    pipeline.watchers.append(live)
    log.append("ring", [ring("Ann", NOON)])
    pass_until(pipeline, clock, NOON + 600 * SECOND)
    assert live.rows("open") == 1
    back = Live(pipeline)
    back.rebuild()
    pipeline.clock = ManualClock(NOON)
    assert back.status().now == live.status().now == NOON + 600 * SECOND
    assert back.rows("open") == 1


def test_a_label_that_was_another_one_before_is_not_lost_when_turns_are_taken_in_together():
    """Seed 523. What a row was known as for a while, its baselines had known, too."""
    first = labels([1, 2], [("p1", "9b"), ("p2", "9b")], "final", [1.0, 0.0], time=bell(1))
    other = labels([3], [("p3", "9b")], "final", [1.0], time=bell(1))
    again = labels([2], [("p2", "9b")], "revised", [1.0], time=bell(1))
    empty = first.take(np.zeros(0, np.int64))
    found = joined_labels([empty, first, other, again, empty])
    assert [block.anchor.tolist() for block in found] == [[1, 2, 3], [2]]
    assert [block.value.tolist() for block in found] == [[1.0, 0.0, 1.0], [1.0]]
