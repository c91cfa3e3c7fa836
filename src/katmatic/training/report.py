"""What is told of a training: its parameters, its figures day by day beside the baselines, and plots of them."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from functools import partial
from types import CellType, CodeType, FunctionType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from katmatic.moment import to_datetime
from katmatic.registry.base import Run
from katmatic.spec.app import App, Predictor
from katmatic.training.dataset import Dataset

BINS = 10  # of the reliability plot

Floats = NDArray[np.float64]


def run(
    app: App,
    predictor: Predictor,
    rows: Dataset,
    known: Dataset,
    asked: Dataset,
    told: Mapping[str, Floats],
    *,
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
) -> Run:
    """The run of a training: `told` is what the model (named "model") and each baseline said of the rows `asked`."""
    series = {
        "by_day/squared_error" + ("" if name == "model" else f"/{name.replace(' ', '_')}"): by_day(app, asked, answer)
        for name, answer in told.items()
    }
    return Run(
        application=app.name,
        metrics=metrics,
        tags={**tags, "declaration": declaration(predictor)},
        params=_params(predictor, rows, known, asked),
        series=series,
        pictures=_pictures(predictor, asked, told["model"], series),
        columns={name: "string" if name in rows.tables else "double" for name in rows.columns},
    )


def declaration(predictor: Predictor) -> str:
    """SHA-256 of what was declared: label, features and model, with the code of the functions that stand in them."""
    parts = (predictor.label, predictor.anchor, predictor.model, predictor.features)
    return hashlib.sha256(repr(_spelled(parts)).encode()).hexdigest()


def _spelled(value: Any, *above: Any) -> Any:
    """What a declared value says, whichever process reads it and wherever it stands in the file."""
    if any(value is each for each in above):
        return "itself"
    spell = partial(_each, above=(*above, value))
    match value:
        case FunctionType():
            cells = [cell.cell_contents for cell in value.__closure__ or () if cell != CellType()]
            return spell((value.__code__, value.__defaults__, value.__kwdefaults__, cells))
        case CodeType():
            return spell((value.co_code, value.co_consts, value.co_names))
        case type():
            return value.__qualname__
        case dict():
            return spell(value.items())
        case set() | frozenset():  # their order is another in each process
            return sorted(map(repr, spell(value)))
        case tuple() | list():
            return spell(value)
    if is_dataclass(value):
        return spell(vars(value).items())
    if hasattr(value, "get_params"):
        return type(value).__name__, spell(value.get_params(deep=False).items())
    return _plain(value)


def _each(values: Iterable[Any], above: tuple[Any, ...]) -> list[Any]:
    return [_spelled(each, *above) for each in values]


def _plain(value: Any) -> str:
    """The text of a value, without where it lies in memory."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def by_day(app: App, asked: Dataset, answer: Floats) -> list[tuple[int, float]]:
    """The mean squared error of each day in the application's time zone, with the moment of its first row."""
    days = np.array([to_datetime(at).astimezone(app.timezone).toordinal() for at in asked.at.tolist()])
    error = (np.nan_to_num(answer, nan=0.5) - asked.label) ** 2
    found = []
    for day in np.unique(days).tolist():
        mine = days == day
        found.append((int(asked.at[mine].min()), float(np.average(error[mine], weights=asked.weight[mine]))))
    return found


def _params(predictor: Predictor, rows: Dataset, known: Dataset, asked: Dataset) -> dict[str, str]:
    model, retrain = predictor.model, predictor.retrain
    chosen = model.get_params() if hasattr(model, "get_params") else {}  # also those of the steps of a pipeline
    return {
        "model": type(model).__name__,
        **{f"model.{name}": _plain(value) for name, value in chosen.items()},
        "anchor": predictor.anchor.__name__,
        "features": ", ".join(rows.columns),
        "history": retrain.history or "all",
        "rows": str(len(rows)),
        "rows.learnt_for_judging": str(len(known)),
        "rows.judged": str(len(asked)),
        "log.first": str(int(rows.anchor.min())),
        "log.last": str(int(rows.anchor.max())),
        "from": to_datetime(int(rows.at.min())).isoformat(),
        "until": to_datetime(int(rows.at.max())).isoformat(),
    }


def _pictures(
    predictor: Predictor, asked: Dataset, answer: Floats, series: Mapping[str, list[tuple[int, float]]]
) -> dict[str, bytes]:
    """Plots, if the library for them is there (the extra `plots`)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from matplotlib.figure import Figure
    except ImportError:
        return {}
    found = {}
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for name, figures in series.items():
        named = name.removeprefix("by_day/squared_error").strip("/").replace("_", " ") or "model"
        axes.plot(
            np.array([at for at, _ in figures], "datetime64[us]"),
            [value for _, value in figures],
            marker="o",
            label=named,
        )
    axes.set(title=f"{predictor.name}: squared error by day", ylabel="mean squared error")
    axes.legend()
    figure.autofmt_xdate()
    found["by_day.png"] = _png(figure)
    if predictor.label.is_binary:
        figure = Figure(figsize=(5, 5), layout="constrained")
        axes = figure.subplots()
        place = np.clip((np.nan_to_num(answer, nan=0.5) * BINS).astype(int), 0, BINS - 1)
        filled = [b for b in range(BINS) if (place == b).any()]
        said = [float(answer[place == b].mean()) for b in filled]
        true = [float(asked.label[place == b].mean()) for b in filled]
        axes.plot([0, 1], [0, 1], linestyle="dotted", color="gray")
        axes.plot(said, true, marker="o")
        axes.set(title=f"{predictor.name}: said and true", xlabel="said", ylabel="true", xlim=(0, 1), ylim=(0, 1))
        found["reliability.png"] = _png(figure)
    return found


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
