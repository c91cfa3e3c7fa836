"""Few records go another way than many, in and out of the kernel; both come to the same, bit for bit."""

from __future__ import annotations

import gc
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from katmatic import App, Event, Key, Served, Time, future, past
from katmatic.engine import outputs, rows, step
from katmatic.engine.outputs import FewLabels, FewPredictions
from katmatic.log.base import Batch, Slice
from katmatic.log.codec import decode_labels, decode_predictions, encode_labels, encode_predictions
from katmatic.memory import only_new
from katmatic.records import LabelBlock, PredictionBlock
from katmatic.state import forget, keys, scan
from tests.apps import NOON, SECOND
from tests.engine.running import Running
from tests.histories import APPS, histories

MADE = {name: make() for name, make in APPS.items()}
SOME = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


class Model:
    """Never asked."""

    def fit(self, x, y):
        """Nothing to learn."""

    def predict_proba(self, x):
        """Nothing to say."""


class Sale(Event):
    """Somebody buys something."""

    shop: Key
    buyer: Key
    price: float
    pieces: int | None = None
    is_online: bool = False
    by: Served = "card"
    at: Time


class Return(Event):
    """And brings it back."""

    buyer: Key
    at: Time


def sales():
    app = App("sales")
    app.source(Sale, lateness="1s", horizon="10s", duplicates="10m")
    app.source(Return, lateness="1s", horizon="10s")
    features = {
        "price": Sale.price,
        "pieces": Sale.pieces,
        "is_online": Sale.is_online,
        "count": past.count(Sale, "1m", by=Sale.buyer),
        "mean": past.mean(Sale.price, "1m", by=(Sale.shop, Sale.buyer)),
        "since": past.since(Sale, by=Sale.shop),
    }
    back = future.any(Return, per=Sale, within="2s")
    app.predict("back", back, features=features, model=Model())
    app.predict("dear", back, features={**features, "half": lambda price: price / 2}, model=Model())
    return app


def sale(i, at, more=""):
    return b'{"shop": "S%d", "buyer": "%s", "price": %d.25%s, "at": %d.%06d}' % (
        *(i % 3, f"B{i}".encode() * (1 + i % 5 * 20), i, more.encode()),
        *divmod(at, SECOND),
    )


def back(i, at):
    return b'{"buyer": "B%d", "at": %d.%06d}' % (i, *divmod(at, SECOND))


def turns(seed):
    """Batches as a log gives them: of few records, whose streams alternate, and now and then of many."""
    random = np.random.default_rng(seed)
    now, position, found = NOON, 0, []
    for sequence in range(60):
        now += int(random.integers(0, 3 * SECOND)) if sequence % 20 else 300 * SECOND
        slices = []
        for _ in range(random.integers(0, 4)):
            size = 70 if random.random() < 0.02 else int(random.integers(1, 5))
            if random.random() < 0.3:
                values = [back(int(random.integers(sequence, sequence + 50)), now - j) for j in range(size)]
                slices.append(Slice("return", position, values))
            else:
                more = random.choice(
                    ["", ', "pieces": 3', ', "pieces": null, "is_online": true', ', "note": "\\u00e9"']
                )
                values = [sale(int(random.integers(sequence, sequence + 50)), now - j, str(more)) for j in range(size)]
                if random.random() < 0.1:
                    values[-1] = [b"", b"{", values[0], sale(1, now - 7200 * SECOND)][random.integers(0, 4)]
                slices.append(Slice("sale", position, values))
            position += size
        found.append(Batch(sequence + 1, now, slices))
    return found


@pytest.fixture
def apart(monkeypatch):
    """A step as if there were never few records."""

    def call(running, batch):
        with monkeypatch.context() as patch:
            patch.setattr(rows, "FEW", -1)
            patch.setattr(step, "FEW", -1)
            return step.step(running.plan, running.state, batch)

    return call


def told(changes):
    """All that came out of a step, as bytes where these say it all."""
    return (
        [(encode_predictions(block), orders.tolist()) for block, orders in changes.predictions],
        [(encode_labels(block), orders.tolist()) for block, orders in changes.labels],
        *(changes.dead, changes.holds, changes.counts, changes.errors, changes.said, changes.held),
        [(columns.time.tolist(), columns.index.tolist()) for _, columns in changes.taken],
    )


def assert_looked_at(block):
    """Its columns are what its bytes say, in arrays of their types."""
    decoded = (
        decode_labels(encode_labels(block))
        if isinstance(block, LabelBlock)
        else decode_predictions(encode_predictions(block))
    )
    size = len(block)
    for each in fields(block):
        mine, theirs = getattr(block, each.name), getattr(decoded, each.name)
        if isinstance(theirs, np.ndarray):
            assert mine.dtype == theirs.dtype, each.name
            assert mine.tobytes() == theirs.tobytes(), each.name
            assert mine.shape == theirs.shape == (size, *theirs.shape[1:]), each.name
        else:
            assert mine == theirs, each.name


def test_blocks_that_follow_each_other_are_one(apart):
    """However each was made: the rows of all, in their order."""
    app, joined = sales(), 0
    few, many = Running(app), Running(app)
    made = {}
    for batch in turns(3):
        mine, theirs = step.step(few.plan, few.state, batch), apart(many, batch)
        for pair in zip(mine.predictions + mine.labels, theirs.predictions + theirs.labels, strict=True):
            first, other = (block for block, _ in pair)
            is_label = isinstance(first, LabelBlock)
            name, is_scored = (first.label if is_label else first.predictor), not is_label and batch.sequence % 2
            if is_scored:
                first, other = (each.answered(7, np.arange(len(each)) / 8) for each in (first, other))
            made.setdefault((is_label, name, is_scored), []).append((first, other))
    for pairs in made.values():
        for start in range(0, len(pairs), 5):
            mine, theirs = zip(*pairs[start : start + 5], strict=True)
            together, expected = (each[0].followed_by(each[1:]) for each in (mine, theirs))
            is_late = all(isinstance(block, FewLabels | FewPredictions) for block in mine)
            assert isinstance(together, FewLabels | FewPredictions) == is_late
            joined += is_late
            if isinstance(together, LabelBlock):
                assert together.anchors() == expected.anchors() == together.anchor.tolist()
                assert encode_labels(together) == encode_labels(expected)
            else:
                assert encode_predictions(together) == encode_predictions(expected)
            assert_looked_at(together)
            assert len(together) == sum(map(len, mine))
    assert joined > 5


def test_few_and_many_come_to_the_same(apart, monkeypatch):
    monkeypatch.setattr(forget, "LOOKED_AT", 8)  # numbers are taken back,
    monkeypatch.setattr(keys, "FORGOTTEN_FOR", SECOND)  # and given to new keys
    app, seen, again = sales(), set(), 0
    for seed in range(8):
        few, many = Running(app), Running(app)
        for batch in turns(seed):
            mine, theirs = step.step(few.plan, few.state, batch), apart(many, batch)
            assert told(mine) == told(theirs)
            seen.update(type(block) for block, _ in (*mine.predictions, *mine.labels))
            for block, _ in (*mine.predictions, *mine.labels):
                assert_looked_at(block)
                for position in block.anchor.tolist() if isinstance(block, PredictionBlock) else ():
                    assert mine.event(position) == theirs.event(position)
            assert not any(
                isinstance(block, FewLabels | FewPredictions) for block, _ in (*theirs.predictions, *theirs.labels)
            )
        again += few.state.store.keys._facts[scan.K_GARBAGE]
        assert few.state.dump() == many.state.dump()
    assert again > 0
    assert seen == {FewLabels, FewPredictions, PredictionBlock, LabelBlock}


@pytest.mark.parametrize("name", MADE)
def test_few_and_many_come_to_the_same_in_histories_that_go_wrong(apart, name):
    @SOME
    @given(histories(MADE[name]), st.integers(1, 3))
    def holds(history, size):
        few, many = Running(history.app), Running(history.app)
        for now, records in history.moments:
            for i in range(0, max(len(records), 1), size):
                few_batch, many_batch = few.batch(now, records[i : i + size]), many.batch(now, records[i : i + size])
                mine = step.step(few.plan, few.state, few_batch)
                theirs = apart(many, many_batch)
                assert told(mine) == told(theirs)
        assert few.state.store.pending == many.state.store.pending

    holds()


def test_keys_too_long_for_the_room_go_the_other_way(apart, monkeypatch):
    few, many = Running(sales()), Running(sales())
    value = b'{"shop": "%s", "buyer": "B", "price": 1, "at": %d}' % (b"S" * 14_000, NOON // SECOND)
    batch = Batch(1, NOON, [Slice("sale", 0, [value])])
    changes = step.step(few.plan, few.state, batch)
    assert told(changes) == told(apart(many, batch))
    long = Batch(2, NOON, [Slice("sale", 1, [value.replace(b"S" * 14_000, b"S" * outputs.KEY_BYTES * 100)])])
    assert told(step.step(few.plan, few.state, long)) == told(apart(many, long))
    assert {type(block) for block, _ in changes.predictions} <= {FewPredictions, PredictionBlock}


def test_a_block_that_was_changed_is_written_as_it_is():
    running = Running(sales())
    changes = running.apply([(NOON, [("sale", sale(1, NOON))])])
    ((block, _), _), ((labels, _),) = changes.predictions, changes.labels
    assert None not in (block.packed, labels.packed)
    changed = replace(block, values=block.values + 1)
    assert changed.packed is None
    assert len(changed) == 1
    assert decode_predictions(encode_predictions(changed)).values.tobytes() == changed.values.tobytes()
    assert decode_labels(encode_labels(replace(labels, now=labels.now + 1))).now.tolist() == [NOON + 1]
    answered = block.answered(3, np.array([0.5]))
    assert encode_predictions(answered) == encode_predictions(replace(block, version=3, score=np.array([0.5])))
    with pytest.raises(AttributeError, match="FewPredictions has no rown"):
        block.rown  # noqa: B018
    with pytest.raises(AttributeError, match="FewLabels has no rown"):
        labels.rown  # noqa: B018


@pytest.mark.parametrize("is_few", [True, False])
def test_what_a_step_gives_goes_without_the_collector_of_cycles(apart, is_few):
    """Found by measuring: all that a turn made waited for the collector, which halted the turns to come."""
    running = Running(sales())
    with only_new():
        for batch in turns(5):
            changes = step.step(running.plan, running.state, batch) if is_few else apart(running, batch)
            gc.collect()
            gc.disable()
            try:
                del changes
                assert gc.collect() == 0
            finally:
                gc.enable()
