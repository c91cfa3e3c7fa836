"""The rules of docs/reference/semantics.md, one story each."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from katmatic import App, Event, Id, Key, Rank, Time, future, past
from katmatic.engine.ask import candidates
from katmatic.moment import to_micros
from katmatic.records import LabelVersion
from katmatic.testing.simulation.apps import Model, Regressor
from tests.engine.conftest import SECOND, decision, moment_of

TICK = 1 / SECOND  # seconds in a microsecond


class Payment(Event):
    card: Key
    amount: float | None = None
    shop: str = ""
    at: Time


class Transfer(Event):
    id: Id
    card: Key
    at: Time


class Dispute(Event):
    card: Key
    loss: float | None = None
    at: Time


class Closed(Event):
    card: Key
    at: Time


def pay(at: float, amount: float | None = None, card: str = "a", shop: str = "") -> tuple[type[Event], Any]:
    return Payment, {"card": card, "amount": amount, "shop": shop, "at": at}


def dispute(at: float, loss: float | None = None, card: str = "a") -> tuple[type[Event], Any]:
    return Dispute, {"card": card, "loss": loss, "at": at}


def closed(at: float, card: str = "a") -> tuple[type[Event], Any]:
    return Closed, {"card": card, "at": at}


def paying(features: dict[str, Any], *, lead: Any = (), **policy: Any) -> App:
    """Payments with these features; an identical one counts once within a microsecond."""
    app = App("paying")
    app.source(Payment, **{"duplicates": "0s", **policy})
    app.predict("fraud", future.any(Dispute, per=Payment, within="5s"), features=features, model=Model(), lead=lead)
    return app


def labelled(label: future.Label, *, lead: Any = (), **policies: dict[str, str]) -> App:
    """One label, and how each stream behaves."""
    app = App("labelled")
    for name, policy in policies.items():
        app.source({"payment": Payment, "dispute": Dispute, "closed": Closed}[name], **policy)
    model = Model() if label.is_binary else Regressor()
    app.predict("fraud", label, features={"amount": Payment.amount}, model=model, lead=lead)
    return app


# ------------------------------------------------------------------------------------------------------- past windows


def test_a_past_window_holds_its_beginning_but_not_its_end(story):
    told = story(paying({"spent": past.sum(Payment.amount, "10s", by=Payment.card)}))
    told.at(20, pay(0, 1), pay(TICK, 10), pay(10 - TICK, 100), pay(10, 1000))
    assert told.features(20, pay(10, 0)) == {"spent": 111}
    assert told.features(20, pay(10 + TICK, 0)) == {"spent": 1110}


def test_an_event_is_not_in_its_own_past_nor_in_that_of_another_of_the_same_time(story):
    told = story(paying({"seen": past.count(Payment, None, by=Payment.card)}))
    assert told.features(5, pay(5, 1)) == {"seen": 0}
    assert told.features(5, pay(5, 2)) == {"seen": 0}
    assert told.features(6, pay(6, 3)) == {"seen": 2}


def test_of_equal_times_the_last_is_what_arrived_later_and_the_first_what_arrived_earlier(story):
    told = story(paying({"last": past.last(Payment.amount), "first": past.first(Payment.shop, "9s")}))
    told.at(1, pay(1, 1, shop="x"))
    told.at(1, pay(1, 2, shop="y"))
    told.at(1, pay(1, 3, shop="z"))
    assert told.features(2, pay(2)) == {"last": 3, "first": "x"}


def test_of_equal_times_the_order_is_that_of_arrival_also_for_what_comes_late(story):
    told = story(paying({"last": past.last(Payment.amount), "first": past.first(Payment.amount, "9s")}))
    told.at(5, pay(1, 1), pay(3, 3), pay(1, 2), pay(3, 4), pay(4, 5), pay(3, 6))
    assert told.features(5, pay(2)) == {"last": 2, "first": 1}
    assert told.features(5, pay(4)) == {"last": 6, "first": 1}
    assert told.features(11, pay(10.5)) == {"last": 5, "first": 3}


def test_what_comes_late_is_in_later_windows_and_rewrites_no_earlier_one(story):
    told = story(paying({"spent": past.sum(Payment.amount, "10s", by=Payment.card)}))
    assert told.features(9, pay(9, 1)) == {"spent": 0}
    told.at(12, pay(4, 2), pay(11, 4))
    assert told.features(12, pay(12, 8)) == {"spent": 7}
    assert told.features(13, pay(8, 16)) == {"spent": 2}  # as of its own, earlier time
    assert told.features(15, pay(15, 0)) == {"spent": 29}


def test_of_nothing_counts_are_0_and_all_else_is_unknown(story):
    counts, others = ("sum", "distinct"), ("mean", "std", "min", "max", "last", "first")
    features = {op: getattr(past, op)(Payment.amount, "3s") for op in (*counts, *others)}
    features |= {
        "count": past.count(Payment, "3s"),
        "since": past.since(Payment),
        "ewm": past.ewm(Payment.amount, "1s"),
    }
    nothing = {**dict.fromkeys((*counts, "count"), 0), **dict.fromkeys((*others, "since", "ewm"))}
    told = story(paying(features))
    assert told.features(1, pay(1)) == nothing
    assert told.features(2, pay(2))["std"] is None
    alone = told.features(3, pay(3, 7)) | told.features(4, pay(4, 7))
    assert (alone["mean"], alone["std"]) == (7, None)  # a deviation takes two


def test_an_unknown_field_is_in_no_window_but_its_event_is_counted(story):
    features = {
        "count": past.count(Payment, "9s"),
        "mean": past.mean(Payment.amount, "9s"),
        "since": past.since(Payment),
    }
    told = story(paying(features | {"last": past.last(Payment.amount)}))
    told.at(1, pay(1, 6))
    told.at(2, pay(2, None))
    assert told.features(3, pay(3)) == {"count": 2, "mean": 6, "since": 1 / 86_400, "last": 6}


def test_a_condition_that_raises_is_false_and_counted(story):
    told = story(paying({"large": past.count(Payment, "9s", where=lambda payment: payment.amount > 5)}))
    told.at(1, pay(1, 9), pay(1, None), pay(1, 2))
    assert told.features(2, pay(2, 0)) == {"large": 1}
    assert told.errors == {"where": 1}


def test_keys_are_matched_by_the_names_of_their_fields(story):
    told = story(paying({"all": past.count(Payment, None), "same": past.count(Dispute, None, by=Payment.card)}))
    told.at(1, pay(1, card="a"), dispute(1, card="b"), dispute(1, 2, card="a"))
    assert told.features(2, pay(2, card="b")) == {"all": 1, "same": 1}
    assert told.features(2, pay(2, card="new")) == {"all": 1, "same": 0}


def test_ewm_halves_a_weight_per_halflife(story):
    told = story(paying({"ewm": past.ewm(Payment.amount, "2s", by=Payment.card)}))
    told.at(1, pay(1, 8))
    told.at(3, pay(3, 2))
    assert told.features(9, pay(9))["ewm"] == pytest.approx((8 * 0.5 + 2) / 1.5)


def test_a_sum_is_exact_when_large_values_have_left(story):
    features = {op: getattr(past, op)(Payment.amount, "4s") for op in ("sum", "mean", "std")}
    told = story(paying(features))
    for second, amount in enumerate((1e16, 0.1, 0.2, 0.3, -1e16, 0.4)):
        told.at(second, pay(second, amount))
    assert told.features(9, pay(8.5, 1))["sum"] == 0.4
    told.at(12, pay(10, 0.1), pay(11, 0.2), pay(12, 0.3))
    assert told.features(13, pay(13)) == {"sum": 0.6, "mean": 0.2, "std": pytest.approx(0.1)}


def test_candidates_are_the_most_frequent_and_of_equals_the_one_seen_first(story):
    class View(Event):
        shopper: Key
        item: Key
        at: Time

    app = App("shop")
    app.source(View, duplicates="0s")
    top = Rank(candidates=[past.top(View.item, "9s", k=3, by=View.shopper)])
    bought = future.any(View, per=View, within="5s")
    seen = {"seen": past.count(View, "9s", by=View.item)}
    app.predict("buy", bought, features=seen, model=Model(), rank=top)
    told = story(app)
    for second, item in enumerate(("pen", "ink", "cup", "hat", "hat", "cup")):
        told.at(second, (View, {"shopper": "s", "item": item, "at": second}))
    given = {"shopper": "s", "item": "any", "at": moment_of(6)}
    assert candidates(told.plan, told.state, told.plan.questions[0], given, moment_of(6)) == ["cup", "hat", "pen"]


# ---------------------------------------------------------------------------------------------------------- functions


def test_a_function_over_the_unknown_is_unknown_and_any_other_error_marks_the_row(story):
    features = {
        "amount": Payment.amount,
        "mean": past.mean(Payment.amount, "9s"),
        "ratio": lambda amount, mean: amount / mean,
        "twice": lambda ratio: ratio * 2,
    }
    told = story(paying(features))
    first = told.at(1, pay(1, 0.0))[-1]
    assert (first.features["ratio"], first.features["twice"], first.state) == (None, None, "learning")
    second = told.at(2, pay(2, 3.0))[-1]  # 3 / 0
    assert (second.features["ratio"], second.features["twice"], second.state) == (None, None, "error")
    third = told.at(3, pay(3, 3.0))[-1]
    assert (third.features["ratio"], third.features["twice"], third.state) == (2, 4, "learning")
    assert told.errors == {"fraud": 1}


def test_what_functions_give_is_a_text_a_number_or_unknown_however_rows_are_put_together(story):
    given = {"number": 10**400, "list": [], "nan": float("nan"), "text": "text", "true": True, "none": None, "7": 7}
    features = {"of": lambda event: given[event.shop], "again": lambda of: f"{of!r}"}
    together, alone = story(paying(features)), story(paying(features))
    together.at(1, *(pay(1, i, shop=name) for i, name in enumerate(given)))
    for i, name in enumerate(given):
        alone.at(1, pay(1, i, shop=name))
    values = [row.features["of"] for row in together.outcomes if not isinstance(row, LabelVersion)]
    assert values == [None, None, None, "text", 1, None, 7]
    assert together.outcomes == alone.outcomes
    assert together.errors == alone.errors == {"fraud": 2}


# ------------------------------------------------------------------------------------------------------------ arrival


def test_late_by_the_allowed_amount_is_in_time_and_a_microsecond_more_is_late(story):
    told = story(paying({"seen": past.count(Payment, None)}, lateness="3s"))
    told.at(10, pay(10), pay(7), pay(7 - TICK))
    assert told.counts["applied"] == 2
    assert told.counts["late"] == 1
    assert told.features(11, pay(11)) == {"seen": 3}  # late is not lost


def test_an_event_published_ahead_makes_no_other_late(story):
    told = story(paying({"seen": past.count(Payment, None)}, lateness="1s", ahead="60s"))
    told.at(10, pay(60), pay(9.5), pay(9))
    assert told.fates == {"events": 3, "applied": 3}


@pytest.mark.parametrize(
    ("at", "is_dead"),
    [(40, False), (40 - TICK, True), (105, False), (105 + TICK, True)],
    ids=["at the horizon", "behind the horizon", "as far ahead as may be", "too far ahead"],
)
def test_beyond_the_horizon_or_too_far_ahead_is_a_dead_letter(story, at, is_dead):
    told = story(paying({"seen": past.count(Payment, None)}, horizon="60s", ahead="5s"))
    told.at(100, pay(at))
    assert told.counts["dead"] == is_dead
    assert told.counts["applied"] == (not is_dead)


def test_a_time_before_1970_is_a_dead_letter(story):
    told = story(paying({"seen": past.count(Payment, None)}, horizon="1000y"))
    told.at(0, (Payment, b'{"card": "a", "at": -1}'))
    assert told.fates == {"events": 1, "dead": 1}


def test_a_dead_letter_is_kept_whole_with_its_reason_and_has_no_other_effect(story):
    app = paying({"seen": past.count(Payment, None)})
    told = story(app)
    changes = told.apply([(moment_of(1), [("payment", b'{"card": "a", "amount": "12,50", "at": 0}')])])
    told.told.append((moment_of(1), [("payment", b'{"card": "a", "amount": "12,50", "at": 0}')]))
    letter = changes.dead[0]
    assert letter.payload == b'{"card": "a", "amount": "12,50", "at": 0}'
    assert (letter.topic, letter.position, letter.now) == ("payment", 0, moment_of(1))
    assert (letter.where, letter.found[:14]) == ("payment $.amount", "Expected `floa")
    assert told.features(2, pay(2)) == {"seen": 0}
    assert told.outcomes[0].anchor == 1  # it has its position all the same


def test_the_same_content_counts_once_within_the_declared_time(story):
    told = story(paying({"seen": past.count(Payment, None)}, duplicates="5s"))
    told.at(10, pay(9, 1), pay(9, 1), pay(9, 2))
    told.at(15, pay(9, 1))
    assert told.fates == {"events": 4, "applied": 2, "duplicate": 2}
    told.at(15 + TICK, pay(9, 1))
    assert told.counts["duplicate"] == 2


def test_a_duplicate_does_not_lengthen_the_time_in_which_it_is_one(story):
    told = story(paying({"seen": past.count(Payment, None)}, duplicates="5s"))
    told.at(10, pay(9))
    told.at(14, pay(9))
    told.at(16, pay(9))
    assert told.fates == {"events": 3, "applied": 2, "duplicate": 1}


def test_the_same_identity_counts_once_whatever_else_it_says(story):
    app = App("transfers")
    seen = {"seen": past.count(Transfer, None)}
    app.predict("fraud", future.any(Dispute, per=Transfer, within="5s"), features=seen, model=Model())
    told = story(app)
    told.at(1, (Transfer, {"id": "7", "card": "a", "at": 1}), (Transfer, {"id": 7, "card": "b", "at": 0.5}))
    assert told.fates == {"events": 2, "applied": 1, "duplicate": 1}


def test_every_event_has_one_fate(story):
    told = story(paying({"seen": past.count(Payment, None)}, lateness="1s", duplicates="9s"))
    told.at(9, pay(9), pay(9), pay(3), (Payment, b""), (Payment, b"{"), pay(4, card=""))
    assert told.fates == {"events": 5, "applied": 1, "duplicate": 1, "late": 1, "dead": 2, "heartbeats": 1}


# ------------------------------------------------------------------------------------------------------------- labels


def test_a_label_window_holds_its_beginning_but_not_its_end(story):
    for at, counts in ((2, True), (2 - TICK, False), (6 - TICK, True), (6, False)):
        told = story(labelled(future.any(Dispute, per=Payment, within=("2s", "6s"))))
        told.at(0, pay(0))
        told.labels(5.9, dispute(at, 1) if at < 6 else dispute(at, 2))
        assert told.labels(60) == ([] if counts else [("FINAL", 0)]), at


def test_evidence_settles_at_once_and_further_evidence_changes_nothing(story):
    told = story(labelled(future.any(Dispute, per=Payment, within="5s")))
    assert told.labels(0, pay(0)) == [("OPEN", None)]
    assert told.labels(3, dispute(2)) == [("FINAL", 1)]
    assert told.outcomes[-1].evidence == moment_of(2)
    assert told.labels(4, dispute(1)) == []
    assert told.labels(60) == []


def test_silence_settles_when_the_window_and_the_lateness_have_passed(story):
    told = story(labelled(future.none(Dispute, per=Payment, within="5s"), dispute={"lateness": "2s"}))
    told.at(0, pay(0))
    assert told.labels(7 - TICK) == []
    assert told.labels(7) == [("FINAL", 1)]
    assert told.outcomes[-1].evidence is None


def test_a_label_is_final_before_a_record_of_that_moment_is_applied(story):
    told = story(labelled(future.any(Dispute, per=Payment, within="5s")))
    told.at(0, pay(0))
    assert told.labels(5, dispute(4)) == [("FINAL", 0), ("REVISED", 1)]


def test_a_negative_counts_provisionally_until_something_else_is_heard(story):
    told = story(labelled(future.any(Dispute, per=Payment, within="5s", provisional="2s")))
    told.at(0, pay(0))
    assert told.labels(2) == [("PROVISIONAL", 0)]
    assert told.labels(3, dispute(3)) == [("REVISED", 1)]
    assert told.labels(60) == []


def test_a_provisional_label_becomes_final_when_nothing_was_heard(story):
    told = story(labelled(future.none(Dispute, per=Payment, within="5s", provisional="2s")))
    told.at(0, pay(0))
    assert told.labels(60) == [("PROVISIONAL", 1), ("FINAL", 1)]


def test_evidence_after_the_final_answer_revises_it(story):
    told = story(labelled(future.count(Dispute, per=Payment, within="5s")))
    told.at(0, pay(0))
    assert told.labels(1, dispute(1)) == []  # a count is taken when its time has come
    assert told.labels(5) == [("FINAL", 1)]
    assert told.labels(6, dispute(2)) == [("REVISED", 2)]
    assert [row.version for row in told.outcomes if isinstance(row, LabelVersion)] == [0, 1, 2]


def test_a_version_is_written_only_when_something_changes(story):
    told = story(labelled(future.sum(Dispute.loss, per=Payment, within="5s")))
    told.at(0, pay(0))
    told.at(9, dispute(1, 5))
    assert told.labels(9, dispute(2, 0)) == []
    assert told.labels(9, dispute(2, None)) == []
    assert told.labels(9, dispute(2, -2)) == [("REVISED", 3)]


@pytest.mark.parametrize("op", ["mean", "last"])
def test_a_mean_of_nothing_is_censored_and_comes_back_with_evidence(story, op):
    told = story(labelled(getattr(future, op)(Dispute.loss, per=Payment, within="5s")))
    told.at(0, pay(0))
    assert told.labels(6, dispute(1, None)) == [("CENSORED", None)]
    assert told.labels(7, dispute(2, 4)) == [("REVISED", 4)]
    assert told.labels(7, dispute(1, 8)) == ([("REVISED", 6)] if op == "mean" else [])  # the last is that of second 2


def test_evidence_that_came_before_its_anchor_counts_at_once(story):
    told = story(labelled(future.none(Dispute, per=Payment, within=("-2s", "5s"))))
    told.at(8, dispute(8))
    assert told.labels(9, pay(10)) == [("OPEN", None), ("FINAL", 0)]
    assert told.outcomes[1].evidence == moment_of(8)
    assert told.labels(9, pay(10 + TICK)) == [("OPEN", None)]


def test_an_anchor_is_no_evidence_about_itself_but_about_others(story):
    told = story(labelled(future.count(Payment, per=Payment, within=("-5s", "5s")), payment={"duplicates": "0s"}))
    told.at(1, pay(1, 1))
    told.at(1, pay(1, 2))
    assert told.labels(60) == [("FINAL", 1), ("FINAL", 1)]


def test_what_makes_a_label_void_does_so_for_good(story):
    told = story(labelled(future.any(Dispute, per=Payment, within="5s", unless=Closed)))
    told.at(0, pay(0))
    assert told.labels(1, dispute(1), closed(2)) == [("FINAL", 1), ("CENSORED", None)]
    assert told.outcomes[-1].evidence == moment_of(2)
    assert told.labels(3, dispute(3), closed(3)) == []


def test_what_makes_void_may_come_before_the_anchor_too(story):
    told = story(labelled(future.any(Dispute, per=Payment, within=("-3s", "5s"), unless=Closed)))
    told.at(1, dispute(1), closed(1.5), closed(1.2))
    assert told.labels(2, pay(2)) == [("OPEN", None), ("CENSORED", None)]
    assert told.outcomes[-2].evidence == moment_of(1.2)


def test_what_is_censored_already_gets_no_second_version_when_it_becomes_void(story):
    told = story(labelled(future.mean(Dispute.loss, per=Payment, within="5s", unless=Closed)))
    told.at(0, pay(0))
    assert told.labels(5) == [("CENSORED", None)]
    assert told.labels(6, closed(4)) == []
    assert told.labels(6, dispute(4, 1)) == []  # it is void


# ------------------------------------------------------------------------------------------------------------ silence


def held_app() -> App:
    label = future.none(Dispute, per=Payment, within="5s", unless=Closed)
    return labelled(label, dispute={"silence": "3s", "lateness": "1s"}, closed={"silence": "10s"})


def test_a_silent_source_holds_labels_until_it_was_heard_and_the_lateness_has_passed(story):
    told = story(held_app())
    told.at(0, dispute(0, card="z"), closed(0, card="z"), pay(0))
    assert told.labels(6) == []
    assert told.holds == ["dispute"]
    assert told.labels(8, dispute(7, card="z")) == []
    assert told.labels(9 - TICK) == []
    assert told.labels(9) == [("FINAL", 1)]


def test_late_evidence_of_the_source_that_was_silent_still_counts(story):
    told = story(held_app())
    told.at(0, dispute(0, card="z"), closed(0, card="z"), pay(0))
    told.at(6)
    assert told.labels(8, dispute(4)) == [("FINAL", 0)]
    assert told.labels(60) == []


def test_a_source_is_alive_if_heard_exactly_as_long_ago_as_its_silence(story):
    told = story(held_app())
    told.at(0, closed(0, card="z"), pay(0))
    told.at(3, dispute(3, card="z"))
    assert told.labels(6) == [("FINAL", 1)]
    assert told.holds == []


def test_all_silent_sources_must_be_heard_and_each_is_told_once(story):
    told = story(held_app())
    told.at(0, pay(0), pay(0, card="b"))  # none of the two was ever heard
    told.at(6)
    assert told.holds == ["dispute", "closed"]
    assert told.labels(8, dispute(8, card="z")) == []
    assert told.labels(9, closed(9, card="z"), dispute(9, 1, card="z")) == []
    assert told.labels(10) == [("FINAL", 1), ("FINAL", 1)]
    assert told.holds == ["dispute", "closed"]


def test_what_was_held_is_checked_anew(story):
    told = story(held_app())
    told.at(0, closed(0, card="z"), pay(0))
    told.at(6)
    told.at(7, (Dispute, b""), (Closed, b""))
    assert told.labels(10.5) == []  # silent again when it falls due at 8, for that is seen only now
    assert told.holds == ["dispute", "dispute"]


def test_a_heartbeat_is_no_event_but_keeps_its_source_alive(story):
    told = story(held_app())
    told.at(0, (Closed, b""), pay(0))
    told.at(4, (Dispute, b""))
    assert told.labels(6) == [("FINAL", 1)]
    assert told.fates == {"events": 1, "applied": 1, "heartbeats": 2}


def test_dead_letters_and_duplicates_keep_no_source_alive(story):
    told = story(held_app())
    told.at(0, (Closed, b""), dispute(0, card="z"), pay(0))
    told.at(5, dispute(0, card="z"), (Dispute, b"{"))
    assert told.labels(6) == []
    assert told.holds == ["dispute"]


# ---------------------------------------------------------------------------------------------------------- decisions


def test_a_decision_that_censors_takes_the_label_out_and_one_held_out_does_not(story):
    told = story(labelled(future.any(Dispute, per=Payment, within="5s", provisional="1s")))
    told.at(0, pay(0, card="a"), pay(0, card="b"))
    told.at(1)
    assert told.labels(2, decision("fraud", 0, "a"), decision("fraud", 1, "b", censored=False)) == [("CENSORED", None)]
    assert told.labels(3, dispute(3, card="a"), dispute(3, card="b")) == [("REVISED", 1)]


def test_a_label_is_forgotten_when_no_event_can_change_it(story):
    label = future.any(Dispute, per=Payment, within="5s")
    told = story(labelled(label, dispute={"horizon": "10s"}))
    told.at(0, pay(0, card="a"), pay(0, card="b"))
    assert told.labels(15 - TICK, decision("fraud", 0, "a")) == [("FINAL", 0), ("FINAL", 0), ("CENSORED", None)]
    assert told.labels(15, decision("fraud", 1, "b")) == []


def test_what_is_held_does_not_keep_a_label_from_being_forgotten_once_it_is_settled(story):
    label = future.any(Dispute, per=Payment, within="5s", unless=Closed)
    told = story(labelled(label, dispute={"horizon": "10s"}, closed={"silence": "1s", "horizon": "10s"}))
    told.at(0, pay(0))
    told.at(6)
    assert told.labels(7, dispute(2)) == [("FINAL", 1)]
    assert told.labels(15, decision("fraud", 0, "a")) == []


# ----------------------------------------------------------------------------------------------------- past of labels


def test_the_largest_of_many_labels_follows_their_revisions(story):
    lost = future.sum(Dispute.loss, per=Payment, within="5s")
    app = App("labelled")
    app.source(Payment, duplicates="0s")
    app.source(Dispute, horizon="5000s", duplicates="0s")
    windows = {"largest": past.max(lost, "2000s", by=Payment.card), "least": past.min(lost, None, by=Payment.card)}
    windows["ewm"] = past.ewm(lost, "100s", by=Payment.card)
    app.predict("loss", lost, features=windows, model=Regressor())
    told = story(app)
    for i in range(200):
        told.at(10 * i, pay(10 * i))
        told.at(10 * i + 1, dispute(10 * i + 1, 200.0 - i))
    assert told.features(2200, pay(2200))["largest"] == 180.0  # of the one at 200
    told.at(2201, dispute(502, 1000.0))
    assert told.features(2202, pay(2202))["largest"] == 1150.0
    told.at(2203, dispute(503, -1200.0))
    found = told.features(2204, pay(2204))
    assert (found["largest"], found["least"]) == (179.0, -50.0)


def test_the_past_of_a_label_takes_what_is_known_then(story):
    label = future.any(Dispute, per=Payment, within="5s", provisional="2s", unless=Closed)
    app = App("rates")
    rate = {"rate": past.mean(label, "60s", by=Payment.card), "known": past.count(label, "60s", by=Payment.card)}
    app.predict("fraud", label, features=rate, model=Model())
    told = story(app)
    assert told.features(0, pay(0)) == {"rate": None, "known": 0}
    assert told.features(1, pay(1)) == {"rate": None, "known": 0}  # the first is open
    assert told.features(2, pay(2)) == {"rate": 0, "known": 1}  # now it counts provisionally
    assert told.features(3, dispute(0.5), pay(3)) == {"rate": 0.5, "known": 2}  # revised; the second is provisional
    assert told.features(4, closed(1.5), pay(4)) == {"rate": 0, "known": 1}  # both are void; the third is provisional


def test_the_past_of_a_label_has_conditions_on_the_anchor(story):
    label = future.count(Dispute, per=Payment, within="2s")
    app = App("conditions")
    app.source(Payment, duplicates="0s")
    large = past.sum(label, None, by=Payment.card, where=lambda payment: payment.amount > 5)
    app.predict("loss", label, features={"large": large, "all": past.sum(label, None)}, model=Regressor())
    told = story(app)
    told.at(0, pay(0, 9), pay(0, 1), pay(0, 7))
    told.at(1, dispute(1))
    assert told.features(3, pay(3, 0)) == {"large": 2, "all": 3}


def test_a_label_that_becomes_void_long_after_it_left_a_window_moves_no_other(story):
    label = future.sum(Dispute.loss, per=Payment, within="1s", unless=Closed)
    app = App("void")
    features = {op: getattr(past, op)(label, "6s", by=Payment.card) for op in ("sum", "max", "count", "first")}
    app.predict("loss", label, features=features, model=Regressor())
    told = story(app)
    for at, loss in ((0, 1), (10, 8), (12, 4), (14, 2)):
        told.at(at, pay(at), dispute(at, loss))
    assert told.features(15, pay(15)) == {"sum": 14, "max": 8, "count": 3, "first": 8}
    assert told.labels(15, closed(0.5)) == [("CENSORED", None)]
    assert told.features(16, pay(16)) == {"sum": 14, "max": 8, "count": 4, "first": 8}
    assert told.features(17, pay(17)) == {"sum": 6, "max": 4, "count": 4, "first": 4}
    assert told.features(19, pay(19)) == {"sum": 2, "max": 2, "count": 4, "first": 2}


def test_the_different_values_of_a_label_may_be_any_numbers(story):
    label = future.sum(Dispute.loss, per=Payment, within="2s")
    app = App("values")
    app.source(Payment, duplicates="0s")
    app.predict("loss", label, features={"values": past.distinct(label, None, by=Payment.card)}, model=Regressor())
    told = story(app)
    for i, loss in enumerate((0.25, 0.75, -3.0, 1e300, 0.25, 0.0, -0.0)):
        told.at(10 * i, pay(10 * i))
        told.at(10 * i + 1, dispute(10 * i + 1, loss))
    assert told.features(100, pay(100)) == {"values": 5}


# -------------------------------------------------------------------------------------------------------------- leads


def test_each_lead_is_asked_at_its_own_moment_about_what_is_known_then(story):
    features = {"seen": past.count(Dispute, "60s", by=Payment.card)}
    label = future.any(Dispute, per=Payment, within="5s")
    app = App("leads")
    app.predict("fraud", label, features=features, model=Model(), lead=("4s", "1s", "-2s"))
    told = story(app)
    assert told.asked(0, pay(10)) == []
    assert told.asked(6) == [("fraud", 6)]
    told.at(8, dispute(8), dispute(9.5))  # one is announced
    assert told.asked(9) == [("fraud", 9)]
    assert told.outcomes[-1].features == {"seen": 1}
    assert told.outcomes[-1].lead == SECOND
    assert told.asked(20) == [("fraud", 12)]
    assert told.outcomes[-2].features == {"seen": 2}  # before the label became final at 15, at the same tick


def test_a_moment_before_the_arrival_of_its_anchor_is_asked_when_that_arrives(story):
    told = story(paying({"spent": past.sum(Payment.amount, "9s")}, lead=("1s", "4s", "0s")))
    told.at(5, pay(5, 1))
    told.at(7, pay(7, 2))
    assert told.asked(9, pay(10, 4)) == [("fraud", 6), ("fraud", 9)]
    assert [row.features["spent"] for row in told.outcomes[-2:]] == [1, 3]


def test_what_is_known_already_is_not_asked(story):
    told = story(labelled(future.any(Dispute, per=Payment, within=("-9s", "5s")), lead=("5s", "0s")))
    assert told.asked(1, pay(10), pay(10, card="b"), dispute(4)) == []
    assert told.asked(20) == [("fraud", 5), ("fraud", 10)]
    assert {row.key for row in told.outcomes if not isinstance(row, LabelVersion)} == {("b",)}


def test_a_provisional_answer_is_asked_still(story):
    told = story(labelled(future.any(Dispute, per=Payment, within="5s", provisional="1s"), lead=("-2s",)))
    told.at(0, pay(0))
    assert told.asked(2) == [("fraud", 2)]


def test_after_a_gap_in_the_log_each_moment_has_its_own_windows(story):
    label = future.none(Dispute, per=Payment, within="2s")
    app = App("gap")
    app.source(Payment, horizon="5s", ahead="100s")
    app.source(Dispute, horizon="5s")
    rate = {"rate": past.count(label, "10s", by=Payment.card)}
    app.predict("fraud", label, features=rate, model=Model(), lead="0s")
    told = story(app)
    told.at(0, *(pay(second) for second in (1, 3, 5, 7, 9, 11, 90)))
    found = [row.features["rate"] for row in told.at(10_000) if not isinstance(row, LabelVersion)]
    assert found == [0, 1, 2, 3, 4, 5, 0]


def test_an_anchor_is_kept_for_the_leads_of_all_its_labels(story):
    app = App("labels")
    features = {"amount": Payment.amount}
    soon, later = (future.any(Dispute, per=Payment, within=within) for within in ("5s", "50s"))
    app.predict("soon", soon, features=features, model=Model(), lead="2s")
    app.predict("later", later, features=features, model=Model(), lead="-20s")
    told = story(app)
    told.at(0, pay(10, 7))
    assert told.asked(8) == [("soon", 8)]
    assert told.asked(30) == [("later", 30)]
    assert told.outcomes[-1].features == {"amount": 7}
    assert not told.state.store.pending


def test_the_anchor_of_a_prediction_made_later_is_at_hand(story):
    told = story(paying({"seen": past.count(Payment, None)}, lead="-2s"))
    told.at(1, pay(1, 7))
    told.state.dump()
    told.at(3)
    assert told.anchors[0].amount == 7


# --------------------------------------------------------------------------------------------------------- time zones


@pytest.mark.parametrize(
    ("zone", "local", "utc"),
    [
        ("Asia/Kathmandu", "2025-04-21 08:02:00", datetime(2025, 4, 21, 2, 17, tzinfo=UTC)),
        ("Europe/London", "2025-03-30 00:59:59", datetime(2025, 3, 30, 0, 59, 59, tzinfo=UTC)),
        ("Europe/London", "2025-03-30 02:00:00", datetime(2025, 3, 30, 1, 0, tzinfo=UTC)),
        ("Europe/London", "2025-10-26 01:30:00", datetime(2025, 10, 26, 0, 30, tzinfo=UTC)),  # the first of the two
        ("Europe/London", "2025-10-26 02:00:00", datetime(2025, 10, 26, 2, 0, tzinfo=UTC)),
    ],
)
def test_functions_see_the_zone_of_the_application_and_windows_count_real_time(story, zone, local, utc):
    app = App("zones", timezone=zone)
    label = future.any(Dispute, per=Payment, within="1d")
    features = {
        "hour": lambda event: event.at.hour,
        "clock": lambda now: now.hour,
        "hours": past.count(Payment, "24h", by=Payment.card),
    }
    app.predict("fraud", label, features=features, model=Model())
    told = story(app)
    now = to_micros(utc)
    hours = [
        ("payment", msgspec.json.encode({"card": "a", "at": (now - h * 3600 * SECOND) // SECOND})) for h in range(1, 26)
    ]
    told.told.append((now, [*hours, ("payment", msgspec.json.encode({"card": "a", "at": local}))]))
    told.apply([told.told[-1]])
    last = [row for row in told.outcomes if not isinstance(row, LabelVersion)][-1]
    hour = int(local[11:13])
    assert last.time == now
    assert last.features == {"hour": hour, "clock": hour, "hours": 24}
    assert told.anchors[25].at.isoformat(" ")[:19] == local
