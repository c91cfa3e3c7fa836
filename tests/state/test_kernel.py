"""What no story reaches: growth of rings, tables, queues and outputs far past their first size."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from katmatic import App, Event, Key, Rank, Time, future, past
from katmatic.engine.plan import compile
from katmatic.engine.step import State
from katmatic.records import LabelState
from katmatic.state import kernel, loop
from katmatic.testing.simulation.apps import Model

SECOND = 1_000_000
HOUR = 3600 * SECOND
BEGIN = 1_700_000_000 * SECOND
ASKED = ("count", "sum", "max", "min", "last", "first", "count_all", "max_all")


class Payment(Event):
    card: Key
    amount: float
    at: Time


class Dispute(Event):
    card: Key
    at: Time


def make(*, horizon: str = "1h", duplicates: str = "0s") -> App:
    app = App("cards")
    app.source(Payment, horizon=horizon, duplicates=duplicates, ahead="1h")
    app.source(Dispute, horizon="1s")
    features: dict[str, Any] = {"count": past.count(Payment, "1h", by=Payment.card)}
    for op in ("sum", "max", "min", "last", "first"):
        features[op] = getattr(past, op)(Payment.amount, "1h", by=Payment.card)
    features["count_all"] = past.count(Payment, None, by=Payment.card)
    features["max_all"] = past.max(Payment.amount, None, by=Payment.card)
    app.predict("fraud", future.any(Dispute, per=Payment, within="1m"), features=features, model=Model())
    return app


class Cards:
    """The kernel fed with payments as arrays; times and moments in seconds since it began."""

    def __init__(self, app: App) -> None:
        self.plan = compile(app)
        self.state = State(self.plan)
        self.position = self.pauses = 0
        self.past: list[tuple[Any, Any, Any]] = []

    def pay(self, now: Any, time: Any, card: Any, amount: Any, identity: Any = None) -> tuple[Any, Any, Any]:
        """Features (n, F), label versions (n, 8) and fates of payments."""
        words, reals = self.state.store.words, self.state.store.reals
        n = len(time)
        at, now = BEGIN + np.asarray(np.asarray(time) * SECOND, np.int64), BEGIN + np.asarray(now, np.int64) * SECOND
        self.state.store.keys.numbers(0, map(str, range(max(card, default=-1) + 1)))
        rows = kernel.Rows(
            kind=np.full(n, kernel.EVENT),
            stream=np.zeros(n, np.int64),
            time=at,
            now=np.broadcast_to(now, n).copy(),
            pos=np.arange(self.position, self.position + n),
            identity=np.arange(self.position, self.position + n) if identity is None else np.asarray(identity),
            keys=np.asarray(card, np.int64)[:, None].copy(),
            values=np.asarray(amount, np.float64)[:, None].copy(),
            masks=np.ones((n, 1), np.uint8),
            fate=np.empty(n, np.uint8),
        )
        self.past.append((at, np.asarray(card), np.asarray(amount, np.float64)))
        self.position += n
        found, labels, following, width = [], [], 0, self.plan.widths[2]
        while following >= 0:
            self.pauses += following > 0
            following = loop.run(self.plan.tables, words, reals, rows, following, int(np.max(now)))
            asked, told = int(words[kernel.N_PREDICTIONS]), int(words[kernel.N_LABELS])
            answers = reals[kernel.OUT_FEATURES_AT : kernel.OUT_FEATURES_AT + asked * width]
            found.append(answers.reshape(asked, width).copy())
            versions = words[kernel.OUT_LABELS_AT : kernel.OUT_LABELS_AT + 8 * told]
            labels.append(versions.reshape(told, 8).copy())
        return np.concatenate(found), np.concatenate(labels), rows.fate

    def reload(self) -> None:
        data = self.state.dump()
        self.state = State(self.plan)
        self.state.load(data)

    def naive(self, position: int) -> dict[str, float]:
        """The features of a payment, by looking at every one before it."""
        time, card, amount = (np.concatenate(parts) for parts in zip(*self.past, strict=True))
        mine = np.flatnonzero((card[:position] == card[position]) & (time[:position] < time[position]))
        mine = mine[np.argsort(time[mine], kind="stable")]
        hour = amount[mine[time[mine] >= time[position] - HOUR]]
        known = {"max": hour.max(), "min": hour.min(), "last": hour[-1], "first": hour[0]} if len(hour) else {}
        ever = {"max_all": amount[mine].max()} if len(mine) else {}
        return {"count": len(hour), "sum": float(hour.sum()), "count_all": len(mine), **known, **ever}

    def check(self, features: Any, positions: Any) -> None:
        """Features of the payments at these positions are what looking at each gives."""
        assert self.plan.questions[0].columns == ASKED
        for position in positions:
            wanted = self.naive(int(position))
            found = dict(zip(ASKED, features[position].tolist(), strict=True))
            for name in ASKED:
                assert found[name] == pytest.approx(wanted.get(name, np.nan), rel=1e-12, nan_ok=True), (position, name)


def test_a_hundred_thousand_keys_have_a_past_each():
    random = np.random.default_rng(1)
    n, cards = 300_000, Cards(make())
    time = np.sort(random.integers(0, 3 * 3600, n))
    card = np.concatenate([random.permutation(100_000), random.integers(0, 100_000, n - 100_000)])
    amount = random.integers(-1000, 1000, n)
    half = n // 2
    first, _, _ = cards.pay(time[:half], time[:half], card[:half], amount[:half])
    cards.reload()
    second, _, _ = cards.pay(time[half:], time[half:], card[half:], amount[half:])
    cards.check(np.concatenate([first, second]), random.integers(0, n, 60))


def test_one_key_that_gets_every_event_has_exact_windows_of_many_thousand():
    random = np.random.default_rng(2)
    n, cards = 60_000, Cards(make())
    now = np.sort(random.integers(0, 5 * 3600, n))
    late = np.where(random.random(n) < 0.05, random.integers(0, 3600, n), 0)
    features, _, _ = cards.pay(now, np.maximum(now - late, 0), np.zeros(n, int), random.integers(0, 10**6, n))
    assert features[:, 0].max() > 10_000
    cards.check(features, [*random.integers(0, n, 40), *random.choice(np.flatnonzero(late), 40)])


def test_a_window_that_empties_begins_anew():
    cards = Cards(make())
    n = 10_000
    cards.pay(0, np.linspace(0, 0.9, n), np.zeros(n, int), np.arange(n, dtype=float))
    features, _, _ = cards.pay([7200, 7200, 7201], [7200, 7200, 7201], [0, 0, 0], [5.0, 3.0, 1.0])
    for i, row in enumerate(features):
        wanted = cards.naive(n + i)
        assert {name: row[j] for j, name in enumerate(ASKED) if name in wanted} == wanted


def test_extremes_are_right_while_they_leave_one_after_the_other():
    cards = Cards(make())
    n = 8_000
    falling = np.arange(n, 0, -1, dtype=float)
    features, _, _ = cards.pay(np.arange(n), np.arange(n), np.zeros(n, int), falling)
    assert np.array_equal(features[3601:, 2], falling[1 : n - 3600])
    assert np.array_equal(features[1:, 3], falling[:-1])


@pytest.mark.parametrize("order", ["falling", "rising", "random", "equal"])
def test_extremes_of_long_rings_are_what_looking_at_each_gives(order):
    random = np.random.default_rng(5)
    n, cards = 6_000, Cards(make())
    now = np.sort(random.integers(0, 4 * 3600, n))
    late = np.where(random.random(n) < 0.2, random.integers(0, 1800, n), 0)
    amount = random.integers(0, 50, n) + {"falling": -np.arange(n), "rising": np.arange(n)}.get(order, np.zeros(n))
    if order == "equal":
        amount = np.ones(n)
    elif order == "random":
        amount[random.random(n) < 0.1] = np.nan
    time = np.maximum(now - late, 0)
    half = n // 2
    first, _, _ = cards.pay(now[:half], time[:half], np.zeros(half, int), amount[:half])
    cards.reload()
    second, _, _ = cards.pay(now[half:], time[half:], np.zeros(n - half, int), amount[half:])
    features, (least, largest) = np.concatenate([first, second]), (ASKED.index("min"), ASKED.index("max"))
    for position in random.integers(1, n, 300).tolist():
        known = [
            amount[i]
            for i in range(position)
            if time[position] - 3600 <= time[i] < time[position] and amount[i] == amount[i]
        ]
        wanted = [min(known), max(known)] if known else [np.nan, np.nan]
        assert np.array_equal(features[position, [least, largest]], wanted, equal_nan=True)


def test_extremes_are_right_where_the_end_of_a_ring_meets_its_beginning():
    random = np.random.default_rng(6)
    n, cards = 6_000, Cards(make())
    now = np.arange(n) * 30  # 240 events are kept, in a ring for 256
    time = np.maximum(now - np.where(random.random(n) < 0.02, random.integers(0, 300, n), 0), 0)
    features, _, _ = cards.pay(now, time, np.zeros(n, int), random.integers(0, 10**6, n))
    cards.check(features, range(0, n, 3))


@pytest.mark.parametrize("bursts", [False, True])
def test_windows_of_one_key_are_exact_however_far_its_questions_go_back_and_forth(bursts):
    random = np.random.default_rng(7)
    app, n = App("cards"), 5_000
    app.source(Payment, horizon="1h", duplicates="0s", ahead="1h")
    app.source(Dispute, horizon="1s")
    ops, windows = ("sum", "mean", "min", "max"), {"1m": 60, "10m": 600, "2h": 7200}
    features: dict[str, Any] = {"count": past.count(Payment, "10m", by=Payment.card)}
    features |= {f"{op}_{w}": getattr(past, op)(Payment.amount, w, by=Payment.card) for w in windows for op in ops}
    app.predict("fraud", future.any(Dispute, per=Payment, within="1m"), features=features, model=Model())
    cards = Cards(app)
    now = np.sort(random.integers(0, 4 * 3600, n))
    if bursts:  # with a pause in between, in which short windows get empty
        now = now // 1800 * 1800 + now % 1800 // 6
    time = np.maximum(now - random.integers(0, 1800, n), 0)  # no two come in order
    amount = np.round(random.lognormal(3, 3, n), 2)
    amount[random.random(n) < 0.2] = np.nan
    found, _, _ = cards.pay(now, time, np.zeros(n, int), amount)
    for position in random.integers(0, n, 400).tolist():
        row = dict(zip(cards.plan.questions[0].columns, found[position].tolist(), strict=True))
        ages, known = time[position] - time[:position], amount[:position]
        assert row["count"] == np.count_nonzero((ages > 0) & (ages <= 600))
        for name, span in windows.items():
            mine = known[(ages > 0) & (ages <= span) & (known == known)]
            total = math.fsum(mine)
            wanted = [mine.min(), mine.max()] if len(mine) else [np.nan, np.nan]
            assert row[f"sum_{name}"] == total
            assert row[f"mean_{name}"] == pytest.approx(total / len(mine) if len(mine) else np.nan, nan_ok=True)
            assert np.array_equal([row[f"min_{name}"], row[f"max_{name}"]], wanted, equal_nan=True)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 30, 64, 101])
def test_values_that_are_added_in_lanes_are_those_that_are_added_one_by_one(count):
    random, stride, places, ring = np.random.default_rng(count), 3, 128, kernel.SCRATCH
    for start in (0, 50, 100, 127):
        value = np.round(random.lognormal(0, 9, count), 2) * random.choice([-1, 1], count)
        value[random.random(count) < random.choice([0.0, 0.2, 1.0])] = np.nan
        reals = np.full(ring + stride * places, 1e300)
        reals[ring + (start + np.arange(count)) % places * stride] = value
        number, *parts, least, most = kernel._add_together(reals, ring, stride, start, places - 1, 0, count)
        known = value[value == value]
        extremes = [known.min(), known.max()] if len(known) else [np.nan, np.nan]
        assert (number, math.fsum(parts)) == (len(known), math.fsum(known))
        assert np.array_equal([least, most], extremes, equal_nan=True)


class Counted(dict[int, int]):
    """Words that say how often they were read."""

    reads = 0

    def __getitem__(self, at: int) -> int:
        self.reads += 1
        return self.get(at, 0)


def linked(words: Counted, times: list[int], order: list[int]) -> dict[int, int]:
    """A list whose last anchor lies at 1; the address of each anchor by its position, which join in this order."""
    places = {pos: 100 * (pos + 1) for pos in order}
    for pos in order:
        words[places[pos] + kernel.AN_POS], words[places[pos] + kernel.AN_TIME] = pos, times[pos]
        kernel._link(words, 1, places[pos])
    return places


def test_anchors_after_a_moment_are_found_whatever_their_order():
    random = np.random.default_rng(9)
    for _ in range(200):
        n, words = int(random.integers(1, 12)), Counted()
        times = random.integers(0, 10, n).tolist()
        places = linked(words, times, random.permutation(n).tolist())
        gone = random.permutation(n)[: int(random.integers(0, n))].tolist()
        for pos in gone:
            kernel._unlink(words, 1, places[pos])
        left = [pos for pos in range(n) if pos not in gone]
        for t in range(-1, 11):
            anchor = kernel._first_after(words, 1, t)
            found = []
            while anchor != 0:
                found.append(words[anchor + kernel.AN_POS])
                anchor = words[anchor + kernel.AN_NEXT] if anchor != words[1] else 0
            assert found == left[len(left) - len(found) :]
            assert {pos for pos in left if times[pos] > t} <= set(found)


def test_evidence_looks_at_no_more_anchors_than_are_as_late():
    """Found by measuring: a dispute looked at all labels of its card that could still be revised."""
    words, n = Counted(), 10_000
    linked(words, list(range(n)), list(range(n)))
    words.reads = 0
    assert words[kernel._first_after(words, 1, n - 11) + kernel.AN_POS] == n - 10
    assert words.reads < 50


class Sale(Event):
    card: Key
    item: Key
    at: Time


def test_values_of_one_key_are_counted_as_they_come_and_go():
    app = App("sales")
    app.source(Sale, horizon="1h", duplicates="0s", ahead="1h")
    label = future.none(Sale, per=Sale, within="1m")
    asked = {f"in_{w}": past.distinct(Sale.item, w, by=Sale.card) for w in ("10m", "1h", None)}
    tops = [past.top(Sale.item, window, k=6, by=Sale.card) for window in ("10m", None)]
    app.predict("next", label, features=asked, model=Model(), rank=Rank(candidates=tops))
    plan, random = compile(app), np.random.default_rng(7)
    state, n, part = State(plan), 6_000, 500
    now = np.sort(random.integers(0, 3 * 3600, n))
    time = np.maximum(now - np.where(random.random(n) < 0.3, random.integers(0, 1800, n), 0), 0)
    item = np.where(np.arange(n) % 1000 < 500, random.integers(0, 30, n), random.integers(0, 400, n)).astype(float)
    key = [state.store.keys.numbers(space, ["one"])[0] for space in range(len(plan.spaces))]
    keys = np.tile(np.array(key), (n, 1))
    for first in range(0, n, part):
        if first == n // 2:
            data = state.dump()
            state = State(plan)
            state.load(data)
        rows = slice(first, first + part)
        words, reals = state.store.words, state.store.reals
        batch = kernel.Rows(
            kind=np.full(part, kernel.EVENT),
            stream=np.zeros(part, np.int64),
            time=BEGIN + time[rows] * SECOND,
            now=BEGIN + now[rows] * SECOND,
            pos=np.arange(first, first + part),
            identity=np.arange(first, first + part),
            keys=keys[rows],
            values=item[rows, None].copy(),
            masks=np.ones((part, 1), np.uint8),
            fate=np.empty(part, np.uint8),
        )
        assert loop.run(plan.tables, words, reals, batch, 0, int(batch.now[-1])) < 0
        answers = reals[kernel.OUT_FEATURES_AT :][: part * plan.widths[2]].reshape(part, -1)
        for i in range(first, first + part, 20):
            ages = np.where(time[:i] < time[i], time[i] - time[:i], np.inf)
            differ = [len(np.unique(item[:i][ages <= span])) for span in (600, 3600, 10**9)]
            assert answers[i - first, :3].tolist() == differ
        for moment in (int(now[first + part - 1]) + 1, int(now[first + part - 1]) - 1000):
            words[kernel.ANSWER_AT : kernel.ANSWER_AT + len(key)] = key
            loop.ask(plan.tables, words, reals, 1, BEGIN + moment * SECOND)
            found = reals[kernel.ANSWER_AT + kernel.SPACES_MOST :][:12]
            for begin, span in ((0, 600), (6, 10**9)):
                known = item[: first + part][
                    (time[: first + part] < moment) & (time[: first + part] >= moment - span)
                ].tolist()
                most = sorted(set(known), key=lambda code: (-known.count(code), code))[:6]
                assert [x for x in found[begin : begin + 6].tolist() if x == x] == most


def test_labels_of_one_key_become_what_the_first_evidence_in_their_window_says():
    random, n = np.random.default_rng(8), 4_000
    app = App("cards")
    app.source(Payment, horizon="1h", duplicates="0s", ahead="1h")
    app.source(Dispute, lateness="10m", horizon="1h", duplicates="0s", ahead="1h")
    label = future.any(Dispute, per=Payment, within="20m")
    app.predict("fraud", label, features={"count": past.count(Payment, "1h", by=Payment.card)}, model=Model())
    plan = compile(app)
    store = State(plan).store
    now = np.sort(random.integers(0, 40 * 3600, n))
    time = np.maximum(now - np.where(random.random(n) < 0.2, random.integers(0, 1800, n), 0), 0)
    disputed = random.random(n) < 0.1
    rows = kernel.Rows(
        kind=np.full(n, kernel.EVENT),
        stream=np.where(disputed, plan.by_topic["dispute"], plan.by_topic["payment"]),
        time=BEGIN + time * SECOND,
        now=BEGIN + now * SECOND,
        pos=np.arange(n),
        identity=np.arange(n),
        keys=np.tile(np.array(store.keys.numbers(0, ["one"])), (n, 1)),
        values=np.ones((n, 1)),
        masks=np.ones((n, 1), np.uint8),
        fate=np.empty(n, np.uint8),
    )
    until = int(rows.now[-1]) + 2 * HOUR
    assert loop.run(plan.tables, store.words, store.reals, rows, 0, until) < 0
    told = int(store.words[kernel.N_LABELS])
    versions = store.words[kernel.OUT_LABELS_AT :][: 8 * told].reshape(told, 8)
    values = store.reals[kernel.OUT_LABEL_VALUES_AT :][:told]
    found: dict[int, list[Any]] = {}
    for version, value in zip(versions.tolist(), values.tolist(), strict=True):
        found.setdefault(version[2], []).append((LabelState(version[5]), value, version[7]))
    assert [*found] == np.flatnonzero(~disputed).tolist()
    for i, history in found.items():
        inside = np.flatnonzero(disputed & (time >= time[i]) & (time < time[i] + 1200))
        before = sorted(time[inside[inside < i]].tolist())
        first = [*before, *time[inside[inside > i]].tolist()][:1]
        assert history[0][0] == LabelState.OPEN
        if first:
            assert (history[-1][1], history[-1][2]) == (1.0, BEGIN + first[0] * SECOND)
            assert [state for state, *_ in history[1:]] in (
                [LabelState.FINAL],
                [LabelState.FINAL, LabelState.REVISED],
            )
        else:
            assert [(state, value) for state, value, _ in history[1:]] == [(LabelState.FINAL, 0.0)]
    lists = kernel.CELLS_AT + int(plan.tables[plan.tables[kernel.L_LOCAL]])  # of the only key
    assert store.words[lists : lists + 2].tolist() == [0, 0]  # all are forgotten


def test_identities_are_known_far_past_the_first_table_and_only_for_their_time():
    cards = Cards(make(duplicates="10s"))
    n = 50_000
    random = np.random.default_rng(3)
    identity = random.integers(-(2**62), 2**62, n)
    once = {"time": np.zeros(n), "card": np.zeros(n, int), "amount": np.zeros(n), "identity": identity}
    assert not (cards.pay(0, **once)[2] == kernel.DUPLICATE).any()
    cards.reload()
    assert (cards.pay(10, **once)[2] == kernel.DUPLICATE).all()
    assert not (cards.pay(11, **once)[2] == kernel.DUPLICATE).any()
    half = {name: column[: n // 2] for name, column in once.items()}
    assert (cards.pay(20, **half)[2] == kernel.DUPLICATE).all()
    assert (cards.pay(21, **once)[2] == kernel.DUPLICATE).all()
    assert not (cards.pay(42, **once)[2] == kernel.DUPLICATE).any()


def test_identities_that_come_again_while_tables_grow_and_change_are_told_by_their_time():
    cards, random = Cards(make(duplicates="100s")), np.random.default_rng(5)
    applied: dict[int, int] = {}
    for now in range(0, 2000, 7):
        n = int(random.choice([0, 3, 40, 900]))
        few = random.integers(1, 10_000, n)
        fates = cards.pay(now, np.full(n, now), np.zeros(n, int), np.zeros(n), few)[2] if n else []
        for identity, fate in zip(few.tolist(), fates, strict=True):
            is_duplicate = now - applied.get(identity, -1000) <= 100
            assert (fate == kernel.DUPLICATE) == is_duplicate, (now, identity)
            if not is_duplicate:
                applied[identity] = now
        if now % 70 == 0:
            cards.reload()


@pytest.mark.slow
def test_no_event_waits_for_a_table_of_identities():
    """Found by measuring: tables that were moved into larger ones at once halted all events for 0.1 s."""
    cards = Cards(make(duplicates="10s"))
    words = cards.state.store.words
    most = 0
    for i in range(6000):
        used = int(words[kernel.USED])
        before = words[:used].copy()
        cards.pay(i // 200, [0], [0], [0.0], [i + 1])
        most = max(most, int(np.count_nonzero(words[:used] != before)))
    largest = words[kernel.IDENTITIES_AT + kernel.OLD_CAP]
    assert largest == 8192
    assert most < 512


def test_what_waits_out_of_order_falls_due_in_order():
    cards = Cards(make())
    n = 20_000
    random = np.random.default_rng(4)
    cards.pay(0, random.integers(0, 3600, n), random.integers(0, 500, n), np.zeros(n))
    cards.reload()
    _, labels, _ = cards.pay([5000], [5000], [0], [0.0])
    final = labels[labels[:, 5] == LabelState.FINAL]
    due = final[:, 3] * n + final[:, 2]  # by the anchor's time, then its position
    assert len(final) == n
    assert (np.diff(due) > 0).all()


def test_a_step_pauses_until_its_outputs_were_taken_away():
    cards = Cards(make())
    n = kernel.OUTPUTS_FULL + 50_000
    features, labels, _ = cards.pay(np.arange(n) // 1000, np.arange(n) // 1000, np.arange(n) % 5000, np.ones(n))
    assert cards.pauses >= 1
    assert len(features) == n
    assert (labels[:, 5] == LabelState.OPEN).sum() == n
    cards.check(features, [0, kernel.OUTPUTS_FULL, kernel.OUTPUTS_FULL + 1, n - 1])


def test_more_keys_than_there_are_addresses_for_are_refused(monkeypatch):
    cards = Cards(make())
    cards.pay(0, [0], [0], [1.0])
    cards.state.store.check()
    monkeypatch.setattr(cards.state.store, "cells_per_key", (kernel.HEAP_AT - kernel.CELLS_AT) + 1)
    with pytest.raises(MemoryError, match="limit of keys, at 1"):
        cards.state.store.check()


def test_a_checkpoint_is_loaded_into_a_new_state_only():
    cards = Cards(make())
    cards.pay(0, [0], [0], [1.0])
    with pytest.raises(ValueError, match="new state only"):
        cards.state.load(cards.state.dump())
