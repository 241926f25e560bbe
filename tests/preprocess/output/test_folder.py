from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from axolotl_ual.columns import Manifest, ManifestFile, ManifestSource
from axolotl_ual.errors import DataError
from axolotl_ual.preprocess.output.folder import (
    float_column,
    replace_folder,
    write_manifest,
    write_parquet,
)


def nested_table() -> datasets.Dataset:
    rows = [
        {
            "messages": [{"role": "user", "content": f"q{i}"}],
            "n": i,
            "maybe": None if i % 2 else "x",
        }
        for i in range(7)
    ]
    return datasets.Dataset.from_list(rows)


def manifest() -> Manifest:
    file = ManifestFile(path="train.parquet", rows=1, sha256="0" * 64)
    return Manifest(
        package_version="1",
        versions={},
        created="2026-01-01T00:00:00+00:00",
        estimator={"name": "perplexity"},
        settings={},
        sources=[ManifestSource(entry={"path": "p"}, fingerprint="f", rows=1, file=file)],
        counts={"rows": 1},
    )


def test_original_columns_come_first_and_unchanged(tmp_path: Path) -> None:
    table = nested_table()
    column = float_column(np.array([0.1, np.nan, 0.3, 0.4, 0.5, 0.6, 0.7]))
    file = write_parquet(tmp_path / "train.parquet", table, {"ual_uncertainty": column})
    read = datasets.Dataset.from_parquet(str(tmp_path / "train.parquet"))
    assert read.column_names == ["messages", "n", "maybe", "ual_uncertainty"]
    assert read.remove_columns("ual_uncertainty").to_list() == table.to_list()
    assert {k: read.features[k] for k in table.features} == dict(table.features)
    assert read.features["ual_uncertainty"] == datasets.Value("float32")
    assert read["ual_uncertainty"][1] is None
    assert file.rows == 7


def test_fields_that_are_null_in_every_message(tmp_path: Path) -> None:
    """pyarrow cannot cast a list of structs with such a field, not even to its own type."""
    said = {"role": "user", "content": "q", "name": None, "tool_calls": None}
    table = datasets.Dataset.from_list([{"messages": [said], "tools": None} for _ in range(3)])
    keep = np.array([True, False, True])
    write_parquet(tmp_path / "a.parquet", table, {"x": pa.array(["a", "b", "c"])}, keep)
    written = pq.read_table(tmp_path / "a.parquet")
    assert written.to_pylist() == [
        {"messages": [said], "tools": None, "x": letter} for letter in ("a", "c")
    ]


def test_rows_of_a_shuffled_view_stay_with_their_columns(tmp_path: Path) -> None:
    table = nested_table().shuffle(seed=3)
    column = pa.array(np.array(table["n"], dtype=np.float32))
    write_parquet(tmp_path / "a.parquet", table, {"ual_uncertainty": column})
    read = datasets.Dataset.from_parquet(str(tmp_path / "a.parquet"))
    assert read["n"] == table["n"]
    assert read["ual_uncertainty"] == [float(n) for n in table["n"]]


def test_dropped_rows_are_left_out(tmp_path: Path) -> None:
    keep = np.array([True, False, True, True, False, True, True])
    column = pa.array(np.arange(7, dtype=np.float32))
    file = write_parquet(tmp_path / "a.parquet", nested_table(), {"ual_uncertainty": column}, keep)
    read = datasets.Dataset.from_parquet(str(tmp_path / "a.parquet"))
    assert read["n"] == [0, 2, 3, 5, 6] == [int(x) for x in read["ual_uncertainty"]]
    assert file.rows == 5


def test_an_exception_leaves_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with replace_folder(target) as folder:
        write_manifest(folder, manifest())
    before = (target / "manifest.json").read_bytes()
    with pytest.raises(RuntimeError), replace_folder(target) as folder:
        (folder / "train.parquet").write_bytes(b"half")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (target / "manifest.json").read_bytes() == before


def test_a_finished_folder_takes_the_place_of_the_old(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    for number in range(2):
        with replace_folder(target) as folder:
            (folder / f"{number}.txt").write_text("")
            write_manifest(folder, manifest())
    assert sorted(path.name for path in target.iterdir()) == ["1.txt", "manifest.json"]
    assert Manifest.read(target) == manifest()


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match=r"none is a manifest\.json"), replace_folder(tmp_path):
        pass
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(DataError, match="must be a folder"), replace_folder(tmp_path / "out"):
        pass
