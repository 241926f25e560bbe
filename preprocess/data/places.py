"""Where a row of a loaded dataset lies: its file, its row there, its line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from .json_files import Place, is_readable, read_rows
from .load import local_files
from .recipe import Entry


def locate_rows(entry: Entry, rows: Sequence[int]) -> dict[int, str]:
    """Name the places of rows, as far as they can be known.

    Args:
        entry: the dataset.
        rows: numbers from 0.

    Returns:
        A phrase for each row, for example `data.jsonl: row 12 (line 13)`.
    """
    if entry.raw.get("shards"):
        shard = f"shard {entry.raw.get('shards_idx') or 0}"
        return {row: f"row {row} of {shard}" for row in rows}
    places = {row: f"row {row}" for row in rows}
    wanted = set(rows)
    for row, place in enumerate(_places(entry, max(rows, default=-1) + 1)):
        if row in wanted:
            places[row] = str(place)
    return places


def _places(entry: Entry, number: int) -> Iterator[Place]:
    """Places of the first rows, up to the first file whose rows cannot be counted."""
    kind, files = local_files(entry)
    given = 0
    for path in files:
        if given >= number:
            return
        for place in _rows_of(path, kind, number - given, only=len(files) == 1):
            yield place
            given += 1
            if given >= number:
                return
        if not _is_countable(path, kind):
            return


def _is_countable(path: Path, kind: str) -> bool:
    return kind == "parquet" or (kind == "json" and is_readable(path))


def _rows_of(path: Path, kind: str, number: int, *, only: bool) -> Iterator[Place]:
    if kind == "json" and is_readable(path):
        return (place for place, _ in read_rows(path))
    if kind == "parquet":
        import pyarrow.parquet

        number = pyarrow.parquet.read_metadata(path).num_rows
    elif not only:
        number = 0
    return (Place(path, row, None) for row in range(number))
