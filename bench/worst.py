"""The worst cases beside the usual one, in the same run: what an event costs when history is as unkind as it can be.

The usual history is that of bench.engine. Beside it: one card that gets every payment, so that its windows hold
hundreds of thousands; the same with amounts that only fall (under `max`) or only rise (under `min`), so that what
leaves a window is always its extreme; a million cards; every payment late by up to the lateness, of many cards and of
one; one card of which every tenth record is a dispute, which is evidence for every payment of a day, or of a minute
while labels may be revised for a week; `distinct` over the one card, of twelve categories and of thousands of amounts;
and the question for the `top` of 100,000 items that the one card buys, as a ranking asks it while payments come in.

`ns` is the CPU time of a payment with its 15 features (of a question, for `top`), of the best of the rounds, which take
turns; `ratios` has it over that of the usual history; `equal` says whether a sample equals the naive count in every
bit.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import engine
from bench.report import report
from katmatic import App, Rank, future, past
from katmatic.clock import process_seconds
from katmatic.engine.plan import Plan, compile, micros
from katmatic.engine.step import State
from katmatic.measure import ZIPF, Dispute, Payment, features
from katmatic.spec.past import Past
from katmatic.state import kernel, loop

EVENTS = 2_000_000
SAMPLE, SAMPLE_LARGE = 60, 12  # of the one card each is a count of up to hundreds of thousands
ROUNDS = 3
CARDS_MANY = 1_000_000
LATENESS = engine.HOUR // 6
ITEMS = 100_000  # that a ranking chooses from
ASKED_EVERY = 10  # payments
K = 5
DAY = 86_400_000_000


@dataclass(frozen=True)
class Case:
    """A history, and the application that gets it."""

    given: dict[str, Any]
    app: App
    sample: int = SAMPLE


def cases(events: int) -> dict[str, Case]:
    """Every case by name; `usual` is the measure of the others."""
    usual = engine.history(events)
    random = np.random.default_rng(7)
    one = {**usual, "card": np.zeros(events, np.int64)}
    rising = np.round(np.arange(1, events + 1) * 0.01, 2)
    many = np.concatenate([random.permutation(CARDS_MANY), random.integers(0, CARDS_MANY, events)])[:events]
    late = {**usual, "time": usual["now"] - random.integers(0, LATENESS, events)}
    disputes = (np.arange(events) % 10 == 9).astype(np.int64)
    weight = 1 / np.arange(1, ITEMS + 1) ** ZIPF
    items = random.choice(ITEMS, events, p=weight / weight.sum())
    return {
        "usual": Case(usual, engine.app),
        "one_key": Case(one, engine.app, SAMPLE_LARGE),
        "falling_max": Case({**one, "amount": rising[::-1].copy()}, engine.app, SAMPLE_LARGE),
        "rising_min": Case({**one, "amount": rising}, with_min(), SAMPLE_LARGE),
        "million_keys": Case({**usual, "card": many}, engine.app),
        "all_late": Case(late, engine.app),
        "all_late_one_key": Case({**late, "card": one["card"]}, engine.app, SAMPLE_LARGE),
        "label_one_key": Case({**one, "stream": disputes}, with_label("1d"), SAMPLE_LARGE),
        "revised_one_key": Case({**one, "stream": disputes}, with_label("1m", revised="7d"), SAMPLE_LARGE),
        "distinct_one_key": Case(one, with_distinct(), SAMPLE_LARGE),
        "top_one_key": Case({**one, "category": items}, with_top(), SAMPLE_LARGE),
    }


def with_min() -> App:
    """The application of bench.engine with `min` for `max`."""
    return _app({name: _least(feature) if name.startswith("max") else feature for name, feature in features().items()})


def with_distinct() -> App:
    """How many categories and amounts differ over 1 h, 24 h and 7 d."""
    found: dict[str, Any] = {"amount": Payment.amount}
    for window in engine.WINDOWS:
        found[f"categories_{window}"] = past.distinct(Payment.category, window, by=Payment.card)
        found[f"amounts_{window}"] = past.distinct(Payment.amount, window, by=Payment.card)
        found[f"count_{window}"] = past.count(Payment, window, by=Payment.card)
    return _app(found)


def with_label(within: str, revised: str = "10m") -> App:
    """The application of bench.engine with a label that stays open, or may be revised, for longer."""
    return _app(features(), within=within, revised=revised)


def with_top() -> App:
    """The most frequent categories over 24 h and 7 d, as candidates of a ranking."""
    windows = [past.top(Payment.category, window, k=K, by=Payment.card) for window in ("24h", "7d")]
    return _app({"amount": Payment.amount}, rank=Rank(candidates=windows))


def _least(feature: Past) -> Past:
    assert feature.window is not None
    return past.min(Payment.amount, f"{micros(feature.window) // engine.HOUR}h", by=Payment.card)


def _app(asked: dict[str, Any], rank: Rank | None = None, within: str = "1m", revised: str = "10m") -> App:
    app = App("cards")
    app.source(Payment, lateness="10m", horizon="10m", duplicates="10m")
    app.source(Dispute, horizon=revised)
    label = future.any(Dispute, per=Payment, within=within)
    app.predict("score", label, features=asked, model=engine.Model(), rank=rank)
    return app


class Bench:
    """A case, round after round."""

    def __init__(self, case: Case) -> None:
        self.case, self.plan = case, compile(case.app)
        events = len(case.given["time"])
        wanted = np.unique(np.random.default_rng(3).integers(0, events, case.sample))
        self.wanted = wanted[case.given["stream"][wanted] == 0] if "stream" in case.given else wanted
        self.asked: list[tuple[int, int, Any]] = []  # after so many payments, at a moment: what `top` was
        self.seconds, self.seconds_asked, self.questions = np.inf, np.inf, 0
        self.rows: Any = None

    def round(self) -> None:
        """All payments once more."""
        state = State(self.plan)
        ranking = self.plan.questions[0].ranking
        asks = Asks(self.plan, state, self.case.given, ranking) if ranking >= 0 else None
        self.rows, seconds = engine.run(self.plan, state, self.case.given, self.wanted, asks)
        self.seconds = min(self.seconds, seconds)
        if asks is not None:
            self.asked, self.questions = asks.found, asks.questions
            self.seconds_asked = min(self.seconds_asked, asks.seconds)

    def ns(self) -> float:
        """Of a payment, or of a question between payments."""
        if self.questions:
            return 1e9 * self.seconds_asked / self.questions
        return 1e9 * self.seconds / len(self.case.given["time"])

    def equal(self) -> bool:
        """Whether what was sampled is what the naive count gives."""
        questions, given = self.plan.questions[0], self.case.given
        rows = [
            [naive(given, dict(questions.predictor.features), name, i) for name in questions.columns]
            for i in self.wanted.tolist()
        ]
        expected = np.array(rows, np.float64)
        windows = questions.predictor.rank.candidates if questions.predictor.rank else ()
        tops = [[top(given, window, stop, moment) for window in windows] for stop, moment, _ in self.asked]
        return bool(np.array_equal(self.rows, expected, equal_nan=True)) and tops == [names for *_, names in self.asked]


class Asks:
    """Questions for the `top` of a card, between chunks of payments, as they come from outside."""

    def __init__(self, plan: Plan, state: State, given: dict[str, Any], ranking: int) -> None:
        self.words, self.reals = state.store.words, state.store.reals
        self.plan, self.given, self.ranking = plan, given, ranking
        self.seconds, self.questions = 0.0, 0
        self.found: list[tuple[int, int, Any]] = []
        self._chunk = 0
        self._ask = loop.load()["ask"]
        self._at = [array.ctypes.data for array in (plan.tables, self.words, self.reals)]
        self._candidates = plan.questions[0].candidates
        self._names = engine.in_order(given["category"])[1]

    def __call__(self, first: int, stop: int) -> None:
        """After the payments before `stop`."""
        moment = int(self.given["now"][stop - 1]) + 1
        self.words[kernel.ANSWER_AT : kernel.ANSWER_AT + len(self.plan.spaces)] = 0
        began = process_seconds()
        for _ in range((stop - first) // ASKED_EVERY):
            moment += 1
            self._ask(*self._at, self.ranking, moment)
        self.seconds += process_seconds() - began
        self.questions += (stop - first) // ASKED_EVERY
        if self._chunk % 10 == 3 and len(self.found) < SAMPLE_LARGE:
            answers = self.reals[kernel.ANSWER_AT + kernel.SPACES_MOST :]
            tops = [answers[o.at : o.at + o.width].tolist() for o in self._candidates]
            names = [
                [self._names[int(code)] for code in codes if code == code]
                for o, codes in zip(self._candidates, tops, strict=True)
            ]
            self.found.append((stop, moment, names))
        self._chunk += 1


def naive(given: dict[str, Any], asked: dict[str, Any], name: str, i: int) -> float:
    """A feature of payment `i`, by looking at every payment before it."""
    feature = asked[name]
    if name == "amount":
        return float(given["amount"][i])
    if not isinstance(feature, Past):  # the ratio of bench.engine
        mean = naive(given, asked, "mean_24h", i)
        return given["amount"][i] / mean if mean else mean
    t = int(given["time"][i])
    mine = found(given, feature, i, t)
    times, amounts = given["time"][mine], given["amount"][mine]
    if feature.op == "count":
        return len(mine)
    if feature.op == "sum":
        return math.fsum(amounts)
    if feature.op == "distinct":
        return len(np.unique(given[str(feature.field)][mine]))
    if not len(mine):
        return float("nan")
    if feature.op == "mean":
        return exact_mean(amounts)
    if feature.op == "since":
        return (t - int(times.max())) / DAY
    return float({"min": amounts.min, "max": amounts.max}[feature.op]())


def found(given: dict[str, Any], window: Past, i: int, t: int, card: int | None = None) -> NDArray[np.int64]:
    """The payments before `i` that a window at `t` is about, of the keys of payment `i` or of a card."""
    inside = given["time"][:i] < t
    if "stream" in given:
        inside &= given["stream"][:i] == 0
    if window.window is not None:
        inside &= given["time"][:i] >= t - micros(window.window)
    for ref in window.by:
        inside &= given[ref.name][:i] == (given[ref.name][i] if card is None else card)
    return np.flatnonzero(inside)


def top(given: dict[str, Any], window: Past, stop: int, moment: int) -> list[Any]:
    """What was most frequent for the one card, of equal ones what came first."""
    column = given[str(window.field)]
    appeared = {value: place for place, value in reversed(list(enumerate(column[:stop].tolist())))}
    counted = Counter(column[found(given, window, stop, moment, 0)].tolist())
    return sorted(counted, key=lambda value: (-counted[value], appeared[value]))[:K]


def exact_mean(values: NDArray[np.float64]) -> float:
    """The mean of all, rounded once."""
    parts, exponents = np.frexp(values)
    least = int(exponents.min())
    whole = sum(
        int(part) << shift for part, shift in zip((parts * 2.0**53).tolist(), (exponents - least).tolist(), strict=True)
    )
    return float(Fraction(whole, len(values)) * Fraction(2) ** (least - 53))


def figures() -> dict[str, Any]:
    """The cost of every case, and its ratio to the usual one."""
    events = int(sys.argv[sys.argv.index("--events") + 1]) if "--events" in sys.argv else EVENTS
    only = sys.argv[sys.argv.index("--only") + 1].split(",") if "--only" in sys.argv else None
    benches = {name: Bench(case) for name, case in cases(events).items() if not only or name in ("usual", *only)}
    for _ in range(ROUNDS):
        for bench in benches.values():
            bench.round()
    ns = {name: bench.ns() for name, bench in benches.items()}
    return {
        "events": events,
        "ns": {name: round(found) for name, found in ns.items()},
        "ratios": {name: round(found / ns["usual"], 2) for name, found in ns.items() if name != "usual"},
        "equal": {name: bench.equal() for name, bench in benches.items()},
    }


if __name__ == "__main__":
    report(figures)
