"""The three applications of `examples/`: each is accepted as it stands, is short, and says what it should."""

from __future__ import annotations

import ast
import importlib.util
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from katmatic.spec.event import schema
from katmatic.spec.past import Past

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = ("attendance", "fraud", "shop")


@pytest.fixture
def load(monkeypatch):
    """A function that imports an example afresh; its neighbours (`school`, `bank`) are found, and forgotten again."""
    monkeypatch.syspath_prepend(str(EXAMPLES))

    def loaded(name):
        spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, module.__name__, module)  # types are looked up there
        spec.loader.exec_module(module)
        return module

    yield loaded
    for neighbour in ("school", "bank"):
        sys.modules.pop(neighbour, None)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_about_sixty_lines(name):
    assert len((EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= 65


@pytest.mark.parametrize("name", NAMES)
def test_an_example_imports_only_katmatic_and_the_users_own_libraries(name):
    tree = ast.parse((EXAMPLES / f"{name}.py").read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert "katmatic" in imported
    assert {name.partition(".")[0] for name in imported} <= {"katmatic", "sklearn", "river", "school", "bank"}


def test_attendance(load, capsys):
    module = load("attendance")
    app, absence = module.app, module.absence
    assert (app.name, str(app.timezone)) == ("attendance", "Asia/Kathmandu")
    assert schema(module.CheckIn).topic == "attendance-topic"
    assert app.sources[module.CheckIn].lateness == timedelta(minutes=10)
    assert app.sources[module.CheckIn].silence == timedelta(minutes=2)
    assert (absence.label.op, absence.label.join) == ("none", ("student_id",))
    assert absence.lead == tuple(timedelta(minutes=minutes) for minutes in (120, 30, 0, -10))
    assert absence.retrain.every == "7d"
    assert [action.above for action in absence.actions] == [0.8]
    assert app.events == (module.Expected, module.CheckIn)

    monday = datetime(2025, 4, 21, tzinfo=app.timezone)
    expected = list(app.calendars[0].function(monday))
    assert [event.student_id for event in expected] == ["A123", "A124", "A125", "B201", "B202"]
    assert expected[0].bell.isoformat() == "2025-04-21T08:15:00+05:45"
    assert list(app.calendars[0].function(monday - timedelta(days=2))) == [], "nobody is expected on a Saturday"

    class Likely:
        probability, event = 0.8, expected[3]

    absence.actions[0].function(Likely)
    assert capsys.readouterr().out == "to the teacher of 1b: B201: 80% chance of being absent today\n"


def test_fraud(load, capsys):
    module = load("fraud")
    score = module.score
    assert score.label.join == ("payment",)
    assert score.label.provisional == timedelta(days=7)
    assert schema(module.Payment).id == "payment"
    assert score.promote.metric == "average_precision"
    assert score.deadline == timedelta(milliseconds=50)
    assert (score.actions[0].censors, score.actions[0].holdout) == (True, 0.01)

    class Prediction:
        event = module.Payment(
            payment="p1",
            card="c1",
            merchant="m1",
            country="NP",
            amount=5.0,
            at=datetime(2025, 4, 21, tzinfo=UTC),
        )

    score.actions[0].function(Prediction)
    assert capsys.readouterr().out == "declined p1\n"


def test_shop(load):
    module = load("shop")
    ranking = module.ranking
    assert ranking.label.join == ("shopper", "item", "category")
    assert [(window.field, window.k) for window in ranking.rank.candidates] == [("item", 200), ("item", 50)]
    assert ranking.rank.explore == 0.05
    assert all(isinstance(feature, Past) for feature in ranking.features.values())
    assert hasattr(ranking.model, "learn_one")
    assert set(module.app.events) == {module.Item, module.Impression, module.Click}
