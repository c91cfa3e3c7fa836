"""Every error we raise, in four parts: where it is, what was found, what was expected, what to do."""

from __future__ import annotations


class KatmaticError(Exception):
    """A message in four parts. The text reads `where: found F, expected E; do`.

    >>> str(KatmaticError("payments[3] $.amount", found='"12,50"', expected="a number", do="send a decimal point"))
    'payments[3] $.amount: found "12,50", expected a number; send a decimal point'
    """

    def __init__(self, where: str, *, found: str, expected: str, do: str) -> None:
        self.where, self.found, self.expected, self.do = where, found, expected, do
        super().__init__(f"{where}: found {found}, expected {expected}; {do}")

    def as_dict(self) -> dict[str, str]:
        """The four parts by name, for JSON answers and dead letters."""
        return {"where": self.where, "found": self.found, "expected": self.expected, "do": self.do}


class DeclarationError(KatmaticError):
    """The user's file says something that cannot mean anything; raised when it is imported."""


class InputError(KatmaticError):
    """An event or a request that cannot be read; it becomes a dead letter or an HTTP 4xx."""


class LogError(KatmaticError):
    """The log, or a checkpoint beside it, cannot be opened, read or written."""


class LogFull(LogError):
    """The log takes no more for now: what was handed in before must become durable first."""


class LogLost(LogError):
    """Another process owns the log now; whoever had it before can only stop."""


class ModelError(KatmaticError):
    """A model cannot be trained, loaded or asked."""


class PlaceError(KatmaticError):
    """A folder or a bucket cannot be reached, read or written."""


class RegistryError(KatmaticError):
    """The registry of models cannot be reached, read or written."""


class SettingsError(KatmaticError):
    """The environment or `katmatic.toml` holds something that we cannot use."""
