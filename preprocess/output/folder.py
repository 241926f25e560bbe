"""The output folder: written beside its place, moved there when it is complete.

A run that fails or is killed leaves what was there before. The manifest is the last file that is
written, so a folder with a manifest is whole.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from axolotl_ual.columns import MANIFEST_FILE, Manifest, ManifestColumn, ManifestFile
from axolotl_ual.data.fingerprint import file_digest
from axolotl_ual.errors import DataError

from ..data.load import in_pieces

if TYPE_CHECKING:
    from datasets import Dataset

ROWS_PER_GROUP = 10_000


@contextmanager
def replace_folder(target: Path) -> Iterator[Path]:
    """Give a fresh folder to write to, and put it in the place of `target` at the end.

    On an exception the fresh folder is removed and `target` stays as it was.

    Raises:
        DataError: `target` is a file, or a folder that is neither empty nor an output of ours.
    """
    check_target(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.parent / f".{target.name}.partial-{os.getpid()}"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    try:
        yield fresh
        retired = target.parent / f".{target.name}.retired-{os.getpid()}"
        if target.exists():
            target.rename(retired)
        fresh.rename(target)
        shutil.rmtree(retired, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def check_target(target: Path) -> None:
    """Refuse a place where something else would be lost.

    Raises:
        DataError: see `replace_folder`.
    """
    if target.is_file():
        raise DataError(f"{target}: the output must be a folder, and this is a file")
    if target.is_dir() and any(target.iterdir()) and not (target / MANIFEST_FILE).exists():
        raise DataError(
            f"{target}: the output folder has files in it, and none is a {MANIFEST_FILE} of ours",
            "choose another folder as `output`, or empty this one",
        )


def write_parquet(
    path: Path,
    table: Dataset,
    columns: Mapping[str, pa.Array],
    keep: np.ndarray[Any, np.dtype[np.bool_]] | None = None,
) -> ManifestFile:
    """Write the rows of a dataset with further columns behind the original ones.

    Rows stream through in batches, so memory does not grow with the data.

    Args:
        path: the Parquet file.
        table: N rows.
        columns: arrays of N values by name, float32 or string.
        keep: bool of shape (N,): the rows to write; None: all.
    """
    from datasets import Features

    ours = pa.schema([(name, array.type) for name, array in columns.items()])
    features = Features({**table.features, **Features.from_arrow_schema(ours)})
    start = written = 0
    with pq.ParquetWriter(path, features.arrow_schema, compression="zstd") as writer:
        for piece in in_pieces(table.with_format("arrow"), ROWS_PER_GROUP):
            batch = piece[:]
            rows = slice(start, start + len(batch))
            start = rows.stop
            for name, array in columns.items():
                batch = batch.append_column(name, array[rows])
            if keep is not None:
                batch = batch.filter(pa.array(keep[rows]))
            writer.write_table(_as(batch, features.arrow_schema))
            written += len(batch)
    return ManifestFile(path=path.name, rows=written, sha256=file_digest(path))


def _as(batch: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table by a schema of the same columns.

    Columns of the right type are left alone: pyarrow cannot cast what holds a field that is null in
    all rows (a `name` of messages) inside a list, not even to its own type.
    """
    columns = [
        column if column.type == field.type else column.cast(field.type)
        for column, field in zip(batch.columns, schema, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def write_table(path: Path, columns: Sequence[tuple[ManifestColumn, pa.Array]]) -> ManifestFile:
    """Write columns as Parquet."""
    table = pa.table({column.name: array for column, array in columns})
    pq.write_table(table, path, compression="zstd", row_group_size=ROWS_PER_GROUP)
    return ManifestFile(
        path=path.name,
        rows=table.num_rows,
        sha256=file_digest(path),
        columns=[column for column, _ in columns],
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` so that it is either whole or absent."""
    text = manifest.model_dump_json(indent=2) + "\n"
    partial = folder / f".{MANIFEST_FILE}.partial"
    partial.write_text(text, encoding="utf-8")
    partial.replace(folder / MANIFEST_FILE)


def float_column(values: np.ndarray[Any, np.dtype[np.floating[Any]]]) -> pa.Array:
    """A float32 column in which NaN becomes null."""
    return pa.array(values.astype(np.float32), from_pandas=True)
