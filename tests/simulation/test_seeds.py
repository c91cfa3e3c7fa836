"""Seeds: whole applications on a disk, a clock and sources that go wrong, live as if nothing had been."""

from __future__ import annotations

import json
import os

import pytest

from katmatic.testing.simulation.apps import APPS
from katmatic.testing.simulation.plants import PLANTS
from katmatic.testing.simulation.run import simulate, simulate_many
from katmatic.testing.simulation.script import draw, lengths

QUICK_SEEDS = 32
SEEDS = int(os.environ.get("SIMULATED_SEEDS", "1000"))
PLANTED_SEEDS = 1000  # each planted bug is found within so many

RARE = ("forgotten-tick",)  # plants that a few seeds in a hundred show


def test_a_few_dozen_seeds_live_as_if_nothing_had_been():
    outcomes = [simulate(seed) for seed in range(QUICK_SEEDS)]
    assert [(o.seed, o.difference) for o in outcomes if not o.is_well] == []
    assert {o.app for o in outcomes} == {make().name for make in APPS.values()}
    assert sum(o.lives for o in outcomes) > 2 * QUICK_SEEDS, "they die often"
    assert sum(o.is_gentle for o in outcomes) in range(QUICK_SEEDS // 4, 3 * QUICK_SEEDS // 4)


@pytest.mark.slow
def test_a_thousand_seeds_live_as_if_nothing_had_been():
    outcomes = list(simulate_many(range(SEEDS), None, jobs=os.cpu_count() or 1))
    assert [(o.seed, o.difference) for o in outcomes if not o.is_well] == []


def test_a_seed_draws_the_same_each_time_and_replays_alone():
    app = APPS["payments"]()
    assert draw(app, 5) == draw(app, 5)
    assert draw(app, 5) != draw(app, 13)
    assert simulate(42) == simulate(42)


def test_the_edges_of_what_is_declared_are_what_is_drawn():
    second = 1_000_000
    assert lengths(APPS["shop"]()) == [2 * second, 5 * second, 6 * second, 9 * second]


def test_all_that_can_go_wrong_is_drawn():
    scripts = [draw(APPS["attendance"](), seed) for seed in range(40)]
    drawn = {happening.what for script in scripts for happening in script.happenings}
    assert drawn == {
        "send", "post", "tick", "model", "crash", "save", "restart", "second", "spoil", "fails", "full",
        "jump", "slow", "outage",
    }  # fmt: skip
    assert {h.is_power for script in scripts for h in script.happenings if h.what == "crash"} == {True, False}
    assert {script.sends_blindly for script in scripts if not script.is_gentle} == {True, False}
    assert not any(script.sends_blindly for script in scripts if script.is_gentle)


@pytest.mark.parametrize(
    "plant", [pytest.param(name, marks=[pytest.mark.slow] * (name in RARE)) for name in PLANTS if name]
)
def test_a_planted_bug_is_found(plant):
    found = next(seed for seed in range(PLANTED_SEEDS) if not simulate(seed, plant=plant).is_well)
    assert simulate(found).is_well, "it was the planted one that was found"


def test_the_command_prints_what_failed_and_how_to_see_it_again(katmatic):
    code, printed, _ = katmatic("simulate", "--seeds", 2, "--jobs", 1, "--json")
    assert code == 0
    assert {key: json.loads(printed)[key] for key in ("seeds", "failures", "failed")} == {
        "seeds": 2, "failures": 0, "failed": [],
    }  # fmt: skip
    code, printed, said = katmatic("simulate", "--seed", 0, "--plant", "lost-commit", "--json")
    assert code == 1
    assert json.loads(printed)["failed"] == [0]
    assert "seed 0 (windows): " in said
    assert "again: katmatic simulate --seed 0" in said


def test_an_application_of_ones_own_lives_through_it(katmatic):
    code, printed, said = katmatic("simulate", "app.py", "--seeds", 3, "--jobs", 1, "--json")
    assert (code, json.loads(printed)["failures"]) == (0, 0), said
