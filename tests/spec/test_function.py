"""Functions of the user's are known by the names of their arguments."""

from __future__ import annotations

import functools

import pytest

from katmatic.spec.function import arguments, takes_one
from tests.refusals import refused


def test_arguments_are_named_in_their_order():
    assert arguments("f", lambda event, now, mean_5d: None) == ("event", "now", "mean_5d")
    assert arguments("f", lambda: None) == ()
    assert arguments("f", functools.partial(lambda event, now: None, now=0)) == ("event", "now")


@pytest.mark.parametrize(
    ("function", "said"), [(lambda *rows: None, "*rows"), (lambda event, **rest: None, "**rest")], ids=["*", "**"]
)
def test_arguments_without_a_name_are_refused(function, said):
    with refused("f", found=f"the argument {said}", expected="named arguments", do="name each feature that it takes"):
        arguments("f", function)


def test_a_function_that_hides_its_arguments_is_refused():
    hidden = type("Hidden", (), {"__call__": None, "__signature__": "none"})()
    with refused("f", found=repr(hidden), expected="a function whose arguments have names", do="wrap it in a lambda"):
        arguments("f", hidden)


@pytest.mark.parametrize(
    "function",
    [lambda day: None, lambda day, zone=None: None, lambda *days: None, lambda day, /: None, print, str.upper],
    ids=range(6),
)
def test_a_function_of_one_argument_is_taken(function):
    takes_one("App.every", function, "the day")


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda: None, "nothing"),
        (lambda day, hour: None, "day, hour"),
        (lambda *, day: None, "day"),
        (lambda **options: None, "**options"),
    ],
    ids=range(4),
)
def test_a_function_of_none_or_two_is_refused(function, said):
    with refused(
        "App.every", found=f"a function of {said}", expected="a function of the day", do="let it take one argument"
    ):
        takes_one("App.every", function, "the day")


def test_what_cannot_be_called_is_refused():
    with refused("App.every", found="'daily'", expected="a function of the day", do="write lambda day: ..."):
        takes_one("App.every", "daily", "the day")
