"""The rows that a model is trained on: ripe, as served, and as known at one moment."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier

from katmatic.labels.weight import weight
from katmatic.log.codec import decode, decode_labels, decode_predictions
from katmatic.log.memory import MemoryLog
from katmatic.records import DECISIONS, LABELS, PREDICTIONS
from katmatic.training.dataset import TEXTS_LIMIT, judged, read
from tests.learning import DAY, MINUTE, RIPE, a_term, after, asked, decided, known, school, write

BELL = 50 * DAY
APP = school()
PREDICTOR = APP.predictors["absence"]


def rows_of(*, predictions=(), labels=(), decisions=(), now=BELL + DAY, app=APP):
    log = MemoryLog()
    write(log, predictions=predictions, labels=labels, decisions=decisions)
    return read(log, app, app.predictors["absence"], now)


def test_of_nothing_there_is_no_training_set():
    assert rows_of() is None
    assert rows_of(predictions=[asked([1], BELL)]) is None
    assert rows_of(labels=[known([1], BELL, 1.0)]) is None


def test_a_row_has_what_was_served_and_what_came_true():
    found = rows_of(
        predictions=[asked([1, 2], BELL, values=[[0.5, np.nan], [3, 4]], score=[0.1, 0.9])],
        labels=[known([2, 1], BELL, [1.0, 0.0])],
    )
    np.testing.assert_array_equal(found.values, [[0.5, np.nan], [3, 4]])
    assert (found.columns, found.anchor.tolist()) == (("rate", "seen"), [1, 2])
    assert (found.label.tolist(), found.score.tolist(), found.weight.tolist()) == ([0, 1], [0.1, 0.9], [1, 1])


def test_rows_are_in_the_order_of_the_moments_that_they_are_about():
    found = rows_of(
        predictions=[asked([5, 6], [BELL, BELL - DAY]), asked([7], BELL - 2 * DAY)],
        labels=[known([5, 6, 7], [BELL, BELL - DAY, BELL - 2 * DAY], 1.0)],
    )
    assert found.anchor.tolist() == [7, 6, 5]


def test_who_came_early_is_learnt_with_the_others_only():
    blocks = {
        "predictions": [asked([1, 2], BELL)],
        "labels": [known([1], BELL, 0.0, now=BELL - MINUTE), known([2], BELL, 1.0)],
    }
    assert rows_of(**blocks, now=BELL + RIPE - 1) is None
    assert rows_of(**blocks, now=BELL + RIPE).label.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("state", ["open", "censored"])
def test_an_open_or_a_censored_row_is_no_training_row(state):
    blocks = {"predictions": [asked([1, 2], BELL)], "labels": [known([1, 2], BELL, 1.0)]}
    gone = known([1], BELL, None, state=state, version=2)
    assert rows_of(predictions=blocks["predictions"], labels=[*blocks["labels"], gone]).anchor.tolist() == [2]


def test_a_row_whose_truth_an_action_kept_from_being_seen_is_no_training_row():
    found = rows_of(
        predictions=[asked([1, 2, 3], BELL)],
        labels=[known([1, 2, 3], BELL, 1.0)],
        decisions=[decided(1, censored=True), decided(2, propensity=0.1), decided(3, censored=True, predictor="other")],
    )
    assert (found.anchor.tolist(), found.weight.tolist()) == ([2, 3], [10.0, 1.0])


def test_a_revised_label_replaces_the_one_before():
    revised = known([1], BELL, 0.0, state="revised", version=2, now=BELL + DAY)
    found = rows_of(predictions=[asked([1], BELL)], labels=[known([1], BELL, 1.0), revised])
    assert found.label.tolist() == [0.0]


def test_what_became_known_later_is_not_known_now():
    revised = known([1], BELL, 0.0, state="revised", version=2, now=BELL + 2 * DAY)
    both = known([2, 3], BELL, 1.0, now=[BELL + RIPE, BELL + 3 * DAY])  # one block, two moments
    log = MemoryLog()
    write(log, predictions=[asked([1, 2, 3], BELL)], labels=[known([1], BELL, 1.0), both, revised])
    at = {now: read(log, APP, PREDICTOR, now) for now in (BELL + DAY, BELL + 2 * DAY, BELL + 3 * DAY)}
    assert [(found.anchor.tolist(), found.label.tolist()) for found in at.values()] == [
        ([1, 2], [1, 1]),
        ([1, 2], [0, 1]),
        ([1, 2, 3], [0, 1, 1]),
    ]


def test_a_question_that_was_asked_later_is_not_known_now():
    late = asked([1], BELL, at=BELL + 2 * DAY)
    log = MemoryLog()
    write(log, predictions=[asked([1], BELL), late], labels=[known([1], BELL, 1.0)])
    assert len(read(log, APP, PREDICTOR, BELL + DAY)) == 1
    assert len(read(log, APP, PREDICTOR, BELL + 2 * DAY)) == 2


def test_rows_from_before_a_feature_was_declared_are_left_out():
    old = asked([1], BELL, columns=("rate",))
    more = asked([2], BELL, columns=("seen", "gone", "rate"), values=[[1, 2, 3]])
    found = rows_of(predictions=[old, more, asked([3], BELL)], labels=[known([1, 2, 3], BELL, 1.0)])
    assert found.anchor.tolist() == [2, 3]
    np.testing.assert_array_equal(found.values, [[3, 1], [0, 0]])


def test_texts_are_numbers_of_a_table_the_most_frequent_first():
    app = school(HistGradientBoostingClassifier(), features={"mood": lambda event: event.mood, "one": lambda: 1.0})
    moods = ["glad", "sad", "glad", None, "calm"]
    found = rows_of(
        predictions=[asked(range(5), BELL, columns=("mood", "one"), texts={"mood": moods})],
        labels=[known(range(5), BELL, 1.0)],
        app=app,
    ).with_tables()
    assert found.tables == {"mood": ["glad", "calm", "sad"]}
    np.testing.assert_array_equal(found.matrix()[:, 0], [0, 2, 0, np.nan, 1])
    assert found.take(np.array([4, 1])).texts == {"mood": ["calm", "sad"]}


def test_rare_texts_are_told_apart_no_more():
    app = school(HistGradientBoostingClassifier(), features={"mood": lambda event: event.mood})
    anchors = range(TEXTS_LIMIT + 5)
    block = asked(anchors, BELL, columns=("mood",), texts={"mood": [f"mood {i:04}" for i in anchors]})
    found = rows_of(predictions=[block], labels=[known(anchors, BELL, 1.0)], app=app).with_tables()
    assert len(found.tables["mood"]) == TEXTS_LIMIT
    assert np.isnan(found.matrix()[:, 0]).sum() == 5


def test_the_same_log_gives_the_same_training_set():
    def digest(days, seed=1, **more):
        predictions, labels = a_term(days, seed=seed)
        return rows_of(predictions=predictions, labels=labels, now=after(100), **more).with_tables().digest()

    assert digest(20) == digest(20)
    others = {digest(20), digest(21), digest(20, seed=2), digest(20, decisions=[decided(3, propensity=0.5)])}
    assert len(others) == 4


# ------------------------------------------------------------------------------------------------------- and naively


def naively(log, now):
    """The same rows, one by one: dicts of what is newest."""
    truths, taken, rows = {}, {}, {}
    for _, value in log.scan(LABELS):
        block = decode_labels(value)
        for i, anchor in enumerate(block.anchor.tolist()):
            if block.label == "absence" and block.now[i] <= now:
                said = (
                    float(block.value[i]) if block.state[i] in (1, 2, 3) and block.value[i] == block.value[i] else None
                )
                if said != truths.get(anchor, (None, 0))[0]:
                    truths[anchor] = (said, int(block.now[i]))
    for _, value in log.scan(DECISIONS):
        each = decode(DECISIONS, value)
        if each.predictor == "absence" and each.now <= now:
            taken.setdefault(each.anchor, {})[each.action] = each
    for _, value in log.scan(PREDICTIONS):
        block = decode_predictions(value)
        for i, anchor in enumerate(block.anchor.tolist()):
            said, since = truths.get(anchor, (None, 0))
            weighs = weight(taken.get(anchor, {}).values())
            if said is not None and weighs > 0 and block.now[i] <= now and block.time[i] + RIPE <= now:
                score = -1.0 if block.score is None else float(block.score[i])
                mood = block.texts["mood"][i] if "mood" in block.texts else None
                row = (block.key[i], block.values[i].tolist(), said, since, weighs, score, mood)
                rows[int(block.at[i]), anchor] = row
    return sorted(rows.items())


steps = st.integers(0, 40)
anchors = st.integers(0, 6)
predicted = st.tuples(st.lists(anchors, min_size=1, max_size=4), steps, st.booleans())
versions = st.tuples(
    anchors, st.sampled_from([None, 0.0, 1.0]), st.sampled_from(["open", "provisional", "final"]), steps
)


@settings(max_examples=200, deadline=None)
@given(
    asks=st.lists(predicted, max_size=12),
    told=st.lists(versions, max_size=15),
    acts=st.lists(st.tuples(anchors, st.booleans(), st.sampled_from(["warn", "call"])), max_size=4),
    until=st.integers(0, 60),
)
def test_the_rows_are_those_of_a_naive_reading(asks, told, acts, until):
    log = MemoryLog()
    blocks = [
        asked(
            mine,
            BELL,
            at=BELL + at * MINUTE,
            values=[[anchor, at + i] for i, anchor in enumerate(mine)],
            score=[0.5] * len(mine) if scored else None,
            texts={"mood": [f"mood {anchor}" for anchor in mine]} if scored else None,
        )
        for mine, at, scored in ((list(dict.fromkeys(mine)), at, scored) for mine, at, scored in asks)
    ]
    labels = [known([a], BELL, value, state=state, now=BELL + at * MINUTE) for a, value, state, at in told]
    write(log, predictions=blocks, labels=labels, decisions=[decided(a, censored=c, action=n) for a, c, n in acts])
    now = BELL + until * MINUTE
    found, wanted = read(log, APP, PREDICTOR, now), naively(log, now)
    assert (found is None) == (not wanted)
    if found is not None:
        score = np.where(np.isnan(found.score), -1.0, found.score)
        moods = found.texts.get("mood", [None] * len(found))
        columns = (found.key, found.values.tolist(), found.label, found.label_now, found.weight, score, moods)
        rows = zip(*(c if isinstance(c, list) else c.tolist() for c in columns), strict=True)
        names = zip(found.at.tolist(), found.anchor.tolist(), strict=True)
        assert list(zip(names, rows, strict=True)) == wanted


# --------------------------------------------------------------------------------------------------------------- split

lives = st.lists(  # each anchor: its time, the moments at which it is asked, and when its label becomes known
    st.tuples(steps, st.lists(steps, min_size=1, max_size=3, unique=True), st.integers(0, 30)), min_size=1, max_size=30
)


@settings(max_examples=150, deadline=None)
@given(lives=lives, share=st.floats(0.05, 0.95), mark=st.integers(0, 60))
def test_a_row_of_the_future_never_trains(lives, share, mark):
    log, predictions, labels = MemoryLog(), [], []
    for anchor, (time, moments, wait) in enumerate(lives):
        about = [BELL + (time + moment) * MINUTE for moment in moments]
        predictions += [asked([anchor], BELL + time * MINUTE, at=at) for at in about]
        labels.append(known([anchor], BELL + time * MINUTE, 1.0, now=max(about) + wait * MINUTE))
    predictions.sort(key=lambda block: int(block.now[0]))
    labels.sort(key=lambda block: int(block.now[0]))
    write(log, predictions=predictions, labels=labels)
    rows = read(log, APP, PREDICTOR, BELL + 30 * DAY)

    asked_of = judged(rows, share, BELL + mark * MINUTE)
    if not len(asked_of):
        return  # every anchor began before the mark
    edge = int(asked_of.at.min())
    learnt = read(log, APP, PREDICTOR, edge - 1)
    assert edge >= BELL + mark * MINUTE
    if learnt is not None:
        assert learnt.at.max() < edge, "asked before the first that is judged was"
        assert learnt.label_now.max() < edge, "and known before"
        assert not set(learnt.anchor.tolist()) & set(asked_of.anchor.tolist()), "an anchor is on one side"


def test_the_newest_share_of_the_anchors_is_judged():
    predictions, labels = a_term(days=10)
    rows = rows_of(predictions=predictions, labels=labels, now=after(100))
    assert sorted({*judged(rows, 0.2, 0).anchor.tolist()}) == list(range(56, 70))


def test_what_the_champion_has_seen_judges_nobody():
    predictions, labels = a_term(days=10)
    rows = rows_of(predictions=predictions, labels=labels, now=after(100))
    assert judged(rows, 0.2, after(9)).at.tolist() == [after(9)] * 7
    assert len(judged(rows, 0.2, after(50))) == 0


def test_the_days_before_the_edge_are_not_learnt_from_those_who_came_alone():
    """Found by reading: rows that were known early, but not yet ripe at the edge, said "present" every time."""
    early = known([1], BELL, 0.0, now=BELL - MINUTE)
    late = known([2], BELL, 1.0)
    log = MemoryLog()
    later = asked([3], BELL + 5 * MINUTE)
    write(log, predictions=[asked([1, 2], BELL), later], labels=[early, late, known([3], BELL + 5 * MINUTE, 1.0)])
    rows = read(log, APP, PREDICTOR, BELL + DAY)
    edge = int(judged(rows, 0.3, 0).at.min())
    assert edge == BELL + 5 * MINUTE
    assert read(log, APP, PREDICTOR, edge - 1) is None
