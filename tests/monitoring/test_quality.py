"""Live accuracy: right figures, fair baselines, days in the app's zone."""

from __future__ import annotations

import random
from collections import Counter
from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from katmatic.monitoring import quality as module
from katmatic.monitoring.quality import PRIOR, Quality, _Rate, _Rows, auc, binary_scores, calibration, number_scores
from tests.monitoring.blocks import MINUTE, bell, examples, school

RIPE = 25 * MINUTE  # 15 minutes of the window and 10 of lateness


def fed(days, *, pupils=40, seed=0, app=None):
    """So many days of pupils who differ, answered by somebody who knows them."""
    app = app or school()
    rng = np.random.default_rng(seed)
    quality = Quality(app, app.predictors["absence"])
    rates = rng.beta(0.7, 4, pupils)
    for day in range(1, days + 1):
        absent = (rng.random(pupils) < rates).astype(float)
        keys = [(f"p{i}", "9b") for i in range(pupils)]
        quality.examples(
            examples(
                range(day * pupils, (day + 1) * pupils), keys, absent, rates, time=bell(day), label_now=bell(day) + RIPE
            )
        )
    return quality


def test_who_knows_the_truth_beats_the_baselines():
    report = fed(28).report()
    assert report.is_above_baselines
    assert report.model.auc > report.rule.auc > report.base.auc
    assert report.model.rows == report.rule.rows == report.base.rows == 40 * 27, "the first day has no baseline"
    assert [day.day for day in report.days] == [date(2025, 4, d) for d in range(2, 29)]
    assert sum(found.rows for found in report.bins) == report.model.rows


def test_a_decline_shows_in_the_newest_answers_long_before_it_does_in_all(monkeypatch):
    quality = fed(20)
    keys = [(f"p{i}", "9b") for i in range(40)]
    present, wrong = np.zeros(40), np.full(40, 0.9)
    for day in (21, 22):
        anchors = range(day * 40, (day + 1) * 40)
        quality.examples(examples(anchors, keys, present, wrong, time=bell(day), label_now=bell(day) + RIPE))
    now = bell(22) + RIPE
    newest = quality.since(bell(21), now)
    assert (newest.model.rows, newest.is_above_baselines) == (80, False)
    assert newest.model.brier > 3 * quality.report(now).model.brier
    assert quality.since(now, now).model.rows == 0
    monkeypatch.setattr(module, "NEWEST_LIMIT", 50)
    assert quality.since(0, now).model.rows == 50
    assert quality.since(0, now).model.brier == pytest.approx(0.81), "the newest of them"


def test_nothing_is_known_of_nothing():
    app = school()
    report = Quality(app, app.predictors["absence"]).report()
    assert (report.model.rows, report.model.auc, report.days, report.bins) == (0, None, (), ())
    assert report.is_above_baselines is None


def test_those_who_are_known_early_wait_for_the_others():
    quality = fed(10)
    before = quality.report()
    came = examples([9000], [("p0", "9b")], [0.0], [0.9], time=bell(11), label_now=bell(11) - MINUTE)
    quality.examples(came)
    assert quality.report(bell(11)) == before
    assert quality.report(bell(11) + RIPE).model.rows == before.model.rows + 1


def test_a_report_holds_nobody_up_and_is_not_kept_if_something_changed_meanwhile():
    quality = fed(5)
    late = examples([9000], [("p0", "9b")], [1.0], [0.9], time=bell(6), label_now=bell(6) + RIPE + 1)
    score, came = quality._scores, [late]

    def scores(rows):
        while came:
            quality.examples(came.pop())  # as another thread does
        return score(rows)

    quality._scores = scores
    before = quality.report(bell(5) + RIPE)
    after = quality.report()
    assert (before.model.rows, after.model.rows) == (160, 161)
    assert [day.model.rows for day in after.days] == [40, 40, 40, 40, 1]
    assert quality.report() is after


def test_a_baseline_knows_only_what_was_known():
    app = school()
    quality = Quality(app, app.predictors["absence"])
    key = [("p0", "9b")]
    quality.examples(examples([0], key, [1.0], [0.5], time=bell(1), label_now=bell(1) + RIPE))
    quality.examples(examples([1], key, [0.0], [0.5], time=bell(2), label_now=bell(2) + RIPE))
    (day,) = quality.report().days
    assert day.base.brier == 1.0, "the base rate was 1 of 1 when the second was asked"
    assert day.rule.brier == 1.0


def test_a_revised_label_replaces_the_old():
    quality = fed(5)
    rows = quality.report().model.rows
    pair = {"time": bell(6), "at": bell(6)}
    quality.examples(examples([7777], [("p0", "9b")], [1.0], [1.0], label_now=bell(6) + RIPE, **pair))
    assert quality.report().days[-1].model.brier == 0.0
    quality.examples(examples([7777], [("p0", "9b")], [0.0], [1.0], label_now=bell(7), **pair))
    report = quality.report()
    assert (report.days[-1].model.brier, report.model.rows) == (1.0, rows + 1)
    quality.examples(examples([7777], [("p0", "9b")], [np.nan], [1.0], label_now=bell(8), **pair))
    assert quality.report().model.rows == rows


def test_censored_and_unanswered_rows_do_not_count():
    quality = fed(5)
    rows = quality.report().model.rows
    late = {"time": bell(6), "label_now": bell(6) + RIPE}
    quality.examples(examples([7001], [("p0", "9b")], [1.0], [0.5], weight=[0.0], **late))
    quality.examples(examples([7002], [("p0", "9b")], [1.0], [np.nan], **late))
    quality.examples(examples([7003], [("p0", "9b")], [1.0], None, **late))
    assert quality.report().model.rows == rows


def test_it_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "ROWS_LIMIT", 100)
    quality = fed(20)
    report = quality.report()
    assert report.model.rows == 100
    assert len(report.days) == 19, "the days' figures stay when their rows go"
    monkeypatch.setattr(module, "RIPENING_LIMIT", 50)
    app = school()
    quality = Quality(app, app.predictors["absence"])
    for i in range(1000):
        quality.examples(examples([i], [("p", "9b")], [0.0], [0.1], time=bell(1), label_now=bell(1)))
    assert len(quality._ripening) <= 50


def test_the_newest_rows_are_kept_and_one_that_comes_again_takes_a_new_place():
    rng, limit = random.Random(3), 50
    rows, naive = _Rows(limit), []  # of the naive ones the newest last; None where one was taken out
    for _ in range(5_000):
        name = rng.randrange(80), rng.randrange(3)
        day = date(2025, 4, 1 + rng.randrange(5))
        known = next((one for one in naive if one is not None and one[0] == name), None)
        assert rows.take_out(name) == (known and known[1])
        naive = [None if one is known else one for one in naive]
        if rng.random() < 0.8:
            leaving = naive[0] if len(naive) == limit else None
            assert rows.leaving(1) == ({leaving[1]} if leaving else set())
            figures = tuple(rng.random() for _ in range(5))
            rows.put([(name, day, figures)])
            naive = [*naive, (name, day, figures)][-limit:]
    here = [one for one in naive if one is not None]
    assert 20 < len(here) < limit
    assert sorted(rows.all().tolist()) == sorted([*figures] for _, _, figures in here)
    assert rows.days == Counter(day for _, day, _ in here)
    for day in rows.days:
        assert sorted(rows.of(day).tolist()) == sorted([*figures] for _, its, figures in here if its == day)
    newest = [[*figures] for name, _, figures in here if name[1] >= 1][-7:]
    assert rows.since(1, 7).tolist() == newest


class Naive:
    """Every example is taken by itself, and what was known at a moment is counted again each time."""

    def __init__(self):
        self.waiting, self.known, self.learnt, self.rows, self.now = {}, {}, [], {}, 0

    def examples(self, found):
        for example in found:
            self.now = max(self.now, example.label_now)
            if (example.anchor, example.at) in self.waiting:
                self.ripen(example.label_now - 1)
            self.waiting[example.anchor, example.at] = example
        self.ripen(self.now - 1)

    def ripen(self, now):
        ripe = [name for name, example in self.waiting.items() if example.time + RIPE <= now]
        found = sorted((self.waiting.pop(name) for name in ripe), key=lambda one: (one.time, one.anchor, one.at))
        for one in found:
            old = self.known.get(one.anchor)
            if old == one.label or (old is None and np.isnan(one.label)):
                continue
            self.known[one.anchor] = one.label
            moment = max(one.label_now, one.time + RIPE)
            if old is not None and not np.isnan(old):
                self.learnt.append((moment, one.key[0], -1, -old))
            if not np.isnan(one.label):
                self.learnt.append((moment, one.key[0], 1, one.label))
        for one in found:
            self.rows.pop((one.anchor, one.at), None)
            before = [each for each in self.learnt if each[0] < one.at]
            number = sum(each[2] for each in before)
            if np.isnan([one.score, one.label]).any() or not one.weight or not number:
                continue
            base, own = sum(each[3] for each in before) / number, [each for each in before if each[1] == one.key[0]]
            rule = (sum(each[3] for each in own) + PRIOR * base) / (sum(each[2] for each in own) + PRIOR)
            self.rows[one.anchor, one.at] = one.label, one.score, base, rule, one.weight


@pytest.mark.slow
def test_random_histories_are_judged_as_one_by_one():
    """With revisions, voids, leads, weights; what is known before it is ripe, and what comes back long after."""
    app = school()
    for seed in range(30):
        rng = random.Random(seed)
        quality, naive, now = Quality(app, app.predictors["absence"]), Naive(), bell(1)
        for _ in range(120):
            now += rng.choice([0, MINUTE, 10 * MINUTE, 3 * 60 * MINUTE])
            names = {(rng.randrange(25), rng.choice([0, 0, 30])) for _ in range(rng.randrange(1, 8))}
            found = []
            for number, lead in names if rng.random() < 0.9 else [*names, *names]:
                anchor = number + 25 * ((now - bell(1)) // (240 * MINUTE))
                time = bell(1) + anchor * 9 * MINUTE
                label = rng.choice([0.0, 1.0, 1.0, np.nan] if rng.random() < 0.3 else [0.0, 1.0])
                score, weight = rng.choice([0.1, 0.5, 0.9, np.nan]), rng.choice([1.0, 1.0, 4.0, 0.0])
                pair = {"time": time, "at": time - lead * MINUTE, "label_now": now, "weight": [weight]}
                found += examples([anchor], [(f"p{anchor % 7}", "9b")], [label], [score], **pair)
            quality.examples(found)
            naive.examples(found)
            if rng.random() < 0.1:
                quality.report(now)
                naive.ripen(now)
        quality.report(now + RIPE)
        naive.ripen(now + RIPE)
        rows = sorted(naive.rows.values())
        np.testing.assert_allclose(sorted(quality._rows.all().tolist()), rows, rtol=0, atol=1e-12)
        assert len(rows) > 20


def test_a_rate_knows_the_newest_moments_exactly_and_of_long_ago_no_more_than_was_known(monkeypatch):
    monkeypatch.setattr(module, "STEPS_LIMIT", 16)
    rng, rate, naive = random.Random(4), _Rate(), []
    for i in range(3_000):
        moment = 10 * i + rng.randrange(10) if rng.random() < 0.97 else 10 * i - rng.randrange(100)
        change = moment, *rng.choice([(1, 0.0), (1, 1.0), (1, 1.0), (-1, -1.0)])
        rate.add([change])
        naive.append(change)
        assert len(rate.moments) == len(rate.sums) <= 3 * 16
        asked = 10 * i - rng.randrange(80)
        known = [each for each in naive if each[0] < asked]
        assert rate.before(asked) == (sum(number for _, number, _ in known), sum(total for _, _, total in known))
    for moment, (number, total) in zip(rate.moments, rate.sums, strict=True):
        known = [each for each in naive if each[0] <= moment]
        assert (number, total) == (sum(each[1] for each in known), sum(each[2] for each in known))
    assert rate.moments == sorted(set(rate.moments))
    assert rate.moments[0] < 200, "the beginning is known"
    gaps = np.diff(rate.moments[: rate._old])
    assert 4 < rate._old <= 16
    assert gaps.max() < 8 * np.median(gaps), "evenly"


def test_answers_are_judged_though_many_labels_become_known_before_theirs(monkeypatch):
    """At a high rate the baselines had forgotten what they knew when the question was asked."""
    monkeypatch.setattr(module, "STEPS_LIMIT", 16)
    app = school()
    quality = Quality(app, app.predictors["absence"])
    for i in range(500):
        time = bell(1) + i * MINUTE // 4  # of 25 minutes to be ripe: 100 others
        quality.examples(examples([i], [(f"p{i % 9}", "9b")], [i % 2], [0.5], time=time, label_now=time + RIPE))
    assert quality.report().model.rows == 500 - 100 - 1


@pytest.mark.parametrize(("rate", "share"), [(200, 1), (300, 2), (1000, 4), (2100, 16)])
def test_of_many_answers_a_second_an_even_sample_is_judged(monkeypatch, rate, share):
    monkeypatch.setattr(module, "JUDGED_LIMIT", module.JUDGED_LIMIT // 10)
    monkeypatch.setattr(module, "JUDGED_SPAN", module.JUDGED_SPAN // 10)
    app, spans, size = school(), 3, rate
    quality, together = (Quality(app, app.predictors["absence"]) for _ in range(2))
    rng = np.random.default_rng(0)
    chances = rng.random(spans * size)
    absent = (rng.random(spans * size) < chances).astype(float)
    rows = [
        example
        for i in range(spans * size)
        for example in examples(
            [i],
            [(f"p{i % 40}", "9b")],
            absent[i : i + 1],
            chances[i : i + 1],
            time=bell(1) + i * 1_000_000 // rate,
            label_now=bell(1) + RIPE + i * 1_000_000 // rate,
        )
    ]
    rows[:0] = examples(
        [10**6], [("p0", "9b")], [0.0], [0.5], time=bell(1) - 600 * MINUTE, label_now=bell(1) - 600 * MINUTE + RIPE
    )
    for start in range(0, len(rows), 50):
        quality.examples(rows[start : start + 50])
    together.examples(rows)
    report = quality.report()
    assert report == together.report()
    assert report.model.rows == pytest.approx(size + 2 * size / share, rel=0.1), "all of the first span"
    assert report.model.brier == pytest.approx(1 / 6, abs=0.02), "evenly"


def test_what_was_judged_once_is_judged_again_though_many_come():
    app = school()
    quality = Quality(app, app.predictors["absence"])
    second = 1_000_000

    def came(anchors, label, at):
        keys = [(f"p{anchor % 40}", "9b") for anchor in anchors]
        n = len(anchors)
        quality.examples(
            examples(anchors, keys, [label] * n, [0.5] * n, time=bell(1) + at, label_now=bell(1) + RIPE + at)
        )

    came(range(100), 0.0, 0)
    for i in range(1, 21):
        came(range(1000 * i, 1000 * i + 1000), 0.0, i * second)
    known = dict.fromkeys(range(100), 1.0)
    came(list(known), 1.0, 21 * second)
    quality.report()
    assert {anchor: quality._known.get(anchor) for anchor in known} == known


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])), min_size=1, max_size=30))
def test_the_area_equals_the_naive_one(rows):
    label = np.array([float(one) for one, _ in rows])
    chance = np.array([score for _, score in rows])
    pairs = [1.0 if p > n else 0.5 if p == n else 0.0 for p in chance[label == 1] for n in chance[label == 0]]
    assert auc(label, chance) == (pytest.approx(sum(pairs) / len(pairs)) if pairs else None)


def test_figures_by_hand():
    label, chance, weight = np.array([1.0, 0.0]), np.array([0.8, 0.4]), np.array([1.0, 3.0])
    found = binary_scores(label, chance, weight)
    assert found.brier == pytest.approx((0.04 + 3 * 0.16) / 4)
    assert found.log_loss == pytest.approx(-(np.log(0.8) + 3 * np.log(0.6)) / 4)
    assert (found.accuracy, found.auc) == (1.0, 1.0)
    assert binary_scores(np.array([1.0]), np.array([0.0]), np.ones(1)).log_loss < 14
    assert binary_scores(np.array([1.0]), np.array([0.0]), np.ones(1)).auc is None
    number = number_scores(np.array([1.0, 3.0]), np.array([1.0, 5.0]), np.ones(2))
    assert (number.rmse, number.mae) == (pytest.approx(2**0.5), 1.0)


def test_calibration_by_tenths():
    bins = calibration(np.array([0.0, 1.0, 1.0]), np.array([0.05, 0.07, 1.0]))
    assert [(b.low, b.rows, b.true) for b in bins] == [(0.0, 2, 0.5), (0.9, 1, 1.0)]
