"""A prediction meets its truth, in whatever order the two come."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from katmatic.labels.join import Joiner, as_declared
from katmatic.records import Example
from tests.learning import DAY, MINUTE, RIPE, asked, decided, known

BELL = 50 * DAY


def fed(joiner, kind, record):
    """The examples that a joiner gives for one record."""
    if kind == "asked":
        return joiner.predictions(record)
    return joiner.labels(record) if kind == "known" else joiner.decisions([record])


def newest(joined, records):
    """What is known in the end: the newest of each row, without those that were taken back."""
    rows = {}
    for kind, record in records:
        rows.update({(example.anchor, example.at): example for example in fed(joined, kind, record)})
    return {name: row for name, row in rows.items() if row.label == row.label}


STATES = ["open", "provisional", "final", "revised", "censored"]
versions = st.tuples(st.integers(0, 4), st.sampled_from(STATES), st.sampled_from([0.0, 1.0])).map(
    lambda row: (row[0], row[1], None if row[1] in ("open", "censored") else row[2])
)
choices = st.tuples(
    st.integers(0, 4), st.sampled_from(["warn", "decline"]), st.sampled_from(["let by", "held back", "told"])
)


@settings(max_examples=150, deadline=None)
@given(
    questions=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=6, unique=True),
    truths=st.lists(versions, max_size=8),
    choices=st.lists(choices, max_size=4, unique_by=lambda choice: choice[:2]),
    shuffle=st.randoms(use_true_random=False),
)
def test_the_order_in_which_the_topics_are_read_changes_nothing(questions, truths, choices, shuffle):
    odds = {"let by": {"propensity": 0.1}, "held back": {"censored": True}, "told": {}}
    predictions = [
        (
            "asked",
            asked([anchor], BELL, at=BELL - lead * MINUTE, score=[lead / 4]),
        )
        for anchor, lead in questions
    ]
    labels = [
        ("known", known([anchor], BELL, value, state=state, version=i, now=BELL + i))
        for i, (anchor, state, value) in enumerate(truths)
    ]
    decisions = [("decided", decided(anchor, action=action, **odds[kind])) for anchor, action, kind in choices]
    expected = newest(Joiner(), [*decisions, *labels, *predictions])

    piles, mixed = [predictions[:], labels[:], decisions[:]], []
    while any(piles):
        mixed.append(shuffle.choice([pile for pile in piles if pile]).pop(0))
    assert newest(Joiner(), mixed) == expected


def test_an_example_is_what_was_said_and_what_came_true():
    joiner = Joiner()
    assert joiner.predictions(asked([3, 4], BELL, score=[0.9, 0.2])) == []
    (found,) = joiner.labels(known([4], BELL, 1.0))
    assert found == Example(4, ("pupil 4",), BELL, BELL, 1.0, BELL + RIPE, 0.2, 1.0)
    (learning,) = [*joiner.predictions(asked([5], BELL)), *joiner.labels(known([5], BELL, 1.0))]
    assert np.isnan(learning.score), "there was no model yet"


def test_a_revised_label_replaces_the_one_before():
    joiner = Joiner()
    joiner.predictions(asked([3], BELL))
    assert [found.label for found in joiner.labels(known([3], BELL, 1.0, state="provisional"))] == [1.0]
    assert joiner.labels(known([3], BELL, 1.0, state="final", version=2)) == [], "nothing new"
    (found,) = joiner.labels(known([3], BELL, 0.0, state="revised", version=3, now=BELL + DAY))
    assert (found.label, found.label_now) == (0.0, BELL + DAY)


def test_a_label_that_became_void_takes_its_rows_back():
    joiner = Joiner()
    joiner.predictions(asked([3], BELL))
    joiner.labels(known([3], BELL, 1.0))
    (found,) = joiner.labels(known([3], BELL, None, state="censored", version=2))
    assert np.isnan(found.label)


def test_all_leads_of_an_anchor_meet_its_truth():
    joiner = Joiner()
    for lead in (120, 30, 0):
        joiner.predictions(asked([3], BELL, at=BELL - lead * MINUTE))
    found = joiner.labels(known([3], BELL, 1.0))
    assert [example.at for example in found] == [BELL - lead * MINUTE for lead in (120, 30, 0)]


def test_a_row_that_was_let_by_stands_for_those_that_were_not():
    joiner = Joiner()
    joiner.predictions(asked([3, 4], BELL))
    joiner.decisions([decided(3, propensity=0.01), decided(4, censored=True)])
    assert [found.weight for found in joiner.labels(known([3, 4], BELL, 1.0))] == [100.0, 0.0]


@pytest.mark.parametrize("turned", [False, True])
def test_a_row_that_one_of_two_actions_held_back_weighs_nothing(turned):
    joiner = Joiner()
    joiner.predictions(asked([3], BELL))
    taken = [decided(3, action="decline", censored=True), decided(3, action="call", propensity=0.5)]
    joiner.decisions(taken[::-1] if turned else taken)
    assert [found.weight for found in joiner.labels(known([3], BELL, 1.0))] == [0.0]


def test_rows_from_before_a_feature_was_declared_do_not_know_it():
    old = asked([3], BELL, values=[[0.25]], columns=("rate",))
    other = asked([4], BELL, values=[[7, 8, 9]], columns=("gone", "seen", "rate"))
    found = [as_declared(block, ("rate", "seen")) for block in (old, other)]
    assert {block.columns for block in found} == {("rate", "seen")}
    np.testing.assert_array_equal(np.concatenate([block.values for block in found]), [[0.25, np.nan], [9, 8]])


def test_the_oldest_anchors_are_forgotten():
    joiner = Joiner(limit=10)
    for anchor in range(100):
        joiner.predictions(asked([anchor], BELL))
        joiner.decisions([decided(1000 + anchor)])
    assert len(joiner._anchors) <= 10
    assert joiner.labels(known([3], BELL, 1.0)) == []
    assert len(joiner.labels(known([99], BELL, 1.0))) == 1
