"""Functions of the user's: what they take, by the names of their arguments."""

from __future__ import annotations

import inspect
from typing import Any

from katmatic.errors import DeclarationError


def arguments(where: str, function: Any) -> tuple[str, ...]:
    """The names of a function's arguments: each says what it takes."""
    found = _parameters(where, function)
    for parameter in found:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise DeclarationError(
                where,
                found=f"the argument {parameter}",
                expected="named arguments",
                do="name each feature that it takes",
            )
    return tuple(parameter.name for parameter in found)


def takes_one(where: str, function: Any, what: str) -> None:
    """Refuse what cannot be called with one argument, `what`."""
    if not callable(function):
        raise DeclarationError(
            where, found=repr(function), expected=f"a function of {what}", do=f"write lambda {what.split()[-1]}: ..."
        )
    found = _parameters(where, function)
    needed = [p for p in found if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    given = [p for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]
    if len(needed) > 1 or not given or (needed and needed[0] is not given[0]):
        raise DeclarationError(
            where,
            found=f"a function of {', '.join(str(p) for p in found) or 'nothing'}",
            expected=f"a function of {what}",
            do="let it take one argument",
        )


def _parameters(where: str, function: Any) -> tuple[inspect.Parameter, ...]:
    try:
        return tuple(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise DeclarationError(
            where, found=repr(function), expected="a function whose arguments have names", do="wrap it in a lambda"
        ) from error
