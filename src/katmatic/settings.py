"""Environment and katmatic.toml -> one frozen Settings."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from katmatic.errors import SettingsError

PREFIX = "KATMATIC_"
OF_THE_TESTS = {"KATMATIC_KAFKA", "KATMATIC_MAVEN"}  # where they find a broker; no settings of a pipeline


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How one pipeline runs. Each may stand in katmatic.toml, or in the environment as KATMATIC_ and its name."""

    data: str = ".katmatic"  # folder of the log, the checkpoints, the models and their registry
    log: str = ""  # kafka://host:port; empty: a file in the data folder
    host: str = "127.0.0.1"  # what the HTTP server binds to; anything but loopback needs a token
    port: int = 8000
    token: str = ""  # what callers show as `Authorization: Bearer ...`
    models: str = ""  # where trained models are put: a folder, s3:// or gs://; empty: the data folder's models
    registry: str = ""  # address of an MLflow tracking server; empty: SQLite in the data folder
    tick: float = 0.25  # seconds: how often time passes when nothing comes
    batch: int = 5_000  # records of one commit at most
    training: bool = True  # whether models are trained by themselves
    proof: bool = True  # whether served features are proved while the pipeline runs

    @property
    def artifacts(self) -> str:
        """Where trained models are put."""
        place = self.models or self.folder / "models"
        return str(place) if "://" in str(place) else str(Path(place).resolve())

    @property
    def folder(self) -> Path:
        """The data folder."""
        return Path(self.data)


def read(environment: Mapping[str, str], file: Path | None = None, **given: Any) -> Settings:
    """Settings from a file, overridden by the environment, overridden by what is `given` and not None.

    >>> read({"KATMATIC_PORT": "9000"}, data="here").port
    9000

    Raises SettingsError for names that do not exist and values of the wrong type.
    """
    values: dict[str, Any] = {}
    if file is not None and file.exists():
        try:
            values |= tomllib.loads(file.read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(str(file), found=str(error), expected="TOML", do="correct the line") from error
    known = {field.name: field for field in fields(Settings)}
    for name, text in environment.items():
        if name.startswith(PREFIX) and name not in OF_THE_TESTS:
            values[name.removeprefix(PREFIX).lower()] = text
    values |= {name: value for name, value in given.items() if value is not None}
    for name in values:
        if name not in known:
            raise SettingsError(
                f"setting {name}",
                found="no such setting",
                expected=f"one of {', '.join(sorted(known))}",
                do="correct it",
            )
    return Settings(**{name: _typed(name, known[name].type, value) for name, value in values.items()})


def _typed(name: str, kind: Any, value: Any) -> Any:
    wanted = {"str": str, "int": int, "float": float, "bool": bool}[str(kind)]
    try:
        if wanted is bool:
            return (
                value
                if isinstance(value, bool)
                else {"true": True, "1": True, "false": False, "0": False}[value.lower()]
            )
        if wanted is str and not isinstance(value, str):
            raise ValueError
        return wanted(value)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise SettingsError(
            f"setting {name}", found=repr(value), expected=f"a value of type {wanted.__name__}", do="correct it"
        ) from error
