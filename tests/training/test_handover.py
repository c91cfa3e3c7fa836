"""Rows between two stages: what is read is what was written, bit for bit."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from katmatic.errors import ModelError
from katmatic.training.dataset import Dataset
from katmatic.training.handover import read_rows, write_rows


def rows(n):
    return Dataset(
        columns=("rate", "mood", "seen"),
        anchor=np.arange(n, dtype=np.int64) * 3,
        key=[(f"s{i}", "1a") for i in range(n)],
        at=np.arange(n, dtype=np.int64) + 10**15,
        values=np.column_stack([np.linspace(0, 1, n), np.full(n, np.nan), np.where(np.arange(n) % 2, np.nan, 0.1)]),
        texts={"mood": [("glad", None, 'so "so"', "")[i % 4] for i in range(n)]},
        label=np.arange(n) % 2.0,
        label_now=np.arange(n, dtype=np.int64),
        weight=np.ones(n),
        score=np.full(n, np.nan),
        tables={"mood": ["glad", ""]},
    )


@pytest.mark.parametrize("n", [0, 1, 7])
def test_rows_come_back_as_they_were(tmp_path, n):
    written = rows(n)
    write_rows(written, tmp_path / "rows.parquet")
    found = read_rows(tmp_path / "rows.parquet")
    assert found.digest() == written.digest()
    assert (found.texts, found.tables, found.key, found.columns) == (
        written.texts,
        written.tables,
        written.key,
        written.columns,
    )
    for name in ("label_now", "score"):
        np.testing.assert_array_equal(getattr(found, name), getattr(written, name))


def test_others_can_read_them(tmp_path):
    write_rows(rows(3), tmp_path / "rows.parquet")
    table = pq.read_table(tmp_path / "rows.parquet")
    assert table.column("feature.rate").to_pylist() == [0.0, 0.5, 1.0]
    assert table.column("key.0").to_pylist() == ["s0", "s1", "s2"]


@pytest.mark.parametrize("data", [b"", b"PAR1", b"no parquet at all"])
def test_what_is_no_such_file_is_refused(tmp_path, data):
    (tmp_path / "rows.parquet").write_bytes(data)
    with pytest.raises(ModelError, match="expected rows of a training"):
        read_rows(tmp_path / "rows.parquet")
    with pytest.raises(ModelError, match="expected rows of a training"):
        read_rows(tmp_path / "nothing.parquet")
