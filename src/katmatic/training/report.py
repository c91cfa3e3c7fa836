"""What is told of a training: its parameters, its figures day by day beside the baselines, and plots of them."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Mapping
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
    """SHA-256 of what was declared: the label, the features with the code of their functions, and the model."""
    parts = [repr(predictor.label), repr(predictor.anchor), repr(predictor.model)]
    for name, feature in predictor.features.items():
        code = getattr(feature, "__code__", None)
        parts += [name, repr(feature) if code is None else repr((code.co_code, code.co_consts, code.co_names))]
    return hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", repr(parts)).encode()).hexdigest()


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
    chosen = model.get_params(deep=False) if hasattr(model, "get_params") else {}
    return {
        "model": type(model).__name__,
        **{f"model.{name}": repr(value) for name, value in chosen.items() if name != "steps"},
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
