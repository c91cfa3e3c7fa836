"""What one stage of a training hands to the next: rows as Parquet, which others can read too, and facts as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from katmatic.errors import ModelError
from katmatic.training.dataset import Dataset
from katmatic.training.stages import Evaluated, Fitted, Prepared

FACTS = b"katmatic"  # in the metadata of a file: what its columns do not say
KEY, FEATURE = "key.", "feature."  # what the names of their columns begin with
PARTS = ("rows", "known", "asked")
Facts = TypeVar("Facts", bound=msgspec.Struct)


class Work:
    """A folder in which the stages of one training meet. Each writes its own files, whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def put_prepared(self, prepared: Prepared) -> None:
        """Keep a training set."""
        for part in PARTS:
            write_rows(getattr(prepared, part), self.folder / f"{part}.parquet")
        self._write("prepared.json", json.dumps({"now": prepared.now, "rows_sha256": prepared.rows.digest()}).encode())

    def prepared(self) -> Prepared:
        """The training set; ModelError if the stage before has not been, or another wrote it."""
        facts = json.loads(self._read("prepared.json", "dataset"))
        rows, known, asked = (read_rows(self.folder / f"{part}.parquet") for part in PARTS)
        if rows.digest() != facts["rows_sha256"]:
            raise ModelError(
                str(self.folder), found="other rows than were written", expected="those", do="run `dataset` again"
            )
        return Prepared(facts["now"], rows, known, asked)

    def put_fitted(self, fitted: Fitted) -> None:
        """Keep what was fitted, and where it is."""
        facts = {"folder": fitted.folder, "kind": fitted.kind, "answer": fitted.answer.tobytes().hex()}
        self._write("fitted.json", json.dumps(facts).encode())

    def fitted(self) -> Fitted:
        """What was fitted."""
        facts = json.loads(self._read("fitted.json", "fit"))
        return Fitted(facts["folder"], facts["kind"], np.frombuffer(bytes.fromhex(facts["answer"])))

    def put(self, facts: msgspec.Struct) -> None:
        """Keep facts under the name of their kind."""
        self._write(f"{type(facts).__name__.lower()}.json", msgspec.json.encode(facts))

    def get(self, kind: type[Facts], stage: str) -> Facts:
        """The facts of a kind, which a stage has kept."""
        return msgspec.json.decode(self._read(f"{kind.__name__.lower()}.json", stage), type=kind)

    def evaluated(self) -> Evaluated | None:
        """What was evaluated, if it was: evaluated again, it would be registered twice."""
        there = (self.folder / "evaluated.json").exists()
        return self.get(Evaluated, "evaluate") if there else None

    def _write(self, name: str, data: bytes) -> None:
        unfinished = self.folder / f".{name}"
        unfinished.write_bytes(data)
        unfinished.replace(self.folder / name)

    def _read(self, name: str, stage: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError as error:
            raise ModelError(
                str(self.folder), found=f"no {name}", expected=f"what the stage {stage!r} writes", do="run that first"
            ) from error


def write_rows(rows: Dataset, file: Path) -> None:
    """Write rows as Parquet: the columns of features by their names, and of the key."""
    pa, pq = _pyarrow()
    width = max(map(len, rows.key), default=0)
    columns: dict[str, Any] = {"anchor": rows.anchor, "at": rows.at}
    columns |= {f"{KEY}{i}": pa.array([key[i] for key in rows.key], pa.string()) for i in range(width)}
    for j, name in enumerate(rows.columns):
        columns[FEATURE + name] = _texts(pa, rows.texts[name]) if name in rows.texts else rows.values[:, j]
    columns |= {"label": rows.label, "label_now": rows.label_now, "weight": rows.weight, "score": rows.score}
    facts = {"columns": rows.columns, "texts": list(rows.texts), "tables": rows.tables, "width": width}
    table = pa.table(columns).replace_schema_metadata({FACTS: json.dumps(facts).encode()})
    unfinished = file.with_name(f".{file.name}")
    pq.write_table(table, unfinished, compression="zstd")
    unfinished.replace(file)


def read_rows(file: Path) -> Dataset:
    """The rows that were written, bit for bit. ModelError if there is no such file."""
    _, pq = _pyarrow()
    try:
        table = pq.read_table(file)
        facts = json.loads(table.schema.metadata[FACTS])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            str(file), found=f"{type(error).__name__}: {error}", expected="rows of a training", do="write them again"
        ) from error
    columns = {name: table.column(name) for name in table.column_names}
    numbers = {name: columns[name].to_numpy() for name in ("anchor", "at", "label", "label_now", "weight", "score")}
    n, texts = table.num_rows, set(facts["texts"])
    values = np.full((n, len(facts["columns"])), np.nan)
    for j, name in enumerate(facts["columns"]):
        if name not in texts:
            values[:, j] = columns[FEATURE + name].to_numpy()
    keys = [columns[f"{KEY}{i}"].to_pylist() for i in range(facts["width"])]
    return Dataset(
        columns=tuple(facts["columns"]),
        key=list(zip(*keys, strict=True)) if keys else [()] * n,
        values=values,
        texts={name: [json.loads(text) for text in columns[FEATURE + name].to_pylist()] for name in facts["texts"]},
        tables=facts["tables"],
        **numbers,
    )


def _texts(pa: Any, column: list[Any]) -> Any:
    """A column of texts, each as JSON: they come back as what they were."""
    return pa.array([json.dumps(value) for value in column], pa.string())


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ModelError(
            "the stages of a training",
            found="no pyarrow to write Parquet with",
            expected="it",
            do="install it: pip install 'katmatic[parquet]'",
        ) from error
    return pa, pq
