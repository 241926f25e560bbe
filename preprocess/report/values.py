"""The numbers of all rows as arrays: what every aggregate is taken over.

Texts stay on disk; a row takes 8 bytes, and 4 more for each number that it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from axolotl_ual.columns import PREFIX, STAGE, STAGES
from axolotl_ual.errors import DataError

from .folder import Folder, Part

FloatArray = npt.NDArray[np.float32]
BATCH: Final = 2048
"""Rows that are read at a time."""
NO_STAGE: Final = 255


@dataclass(slots=True)
class Values:
    """N rows, part after part.

    Attributes:
        part_N: uint16, place of the row's part.
        number_N: uint32, number of the row in its part, from 0.
        stage_N: uint8, place in `columns.STAGES`, or NO_STAGE.
        numbers: name of a column -> float32 of shape (N,), NaN where there is none.
    """

    part_N: npt.NDArray[np.uint16]
    number_N: npt.NDArray[np.uint32]
    stage_N: npt.NDArray[np.uint8]
    numbers: dict[str, FloatArray]

    @property
    def rows(self) -> int:
        """N."""
        return int(self.part_N.size)

    def get(self, name: str) -> FloatArray:
        """A column, all NaN where the files do not have it."""
        found = self.numbers.get(name)
        return np.full(self.rows, np.nan, dtype=np.float32) if found is None else found


def read_values(folder: Folder) -> Values:
    """Read our numeric columns and the stage of every row.

    Raises:
        DataError: a file cannot be read.
    """
    names = list(dict.fromkeys(name for part in folder.parts for name in number_columns(part)))
    rows = folder.rows
    values = Values(
        part_N=np.repeat(
            np.arange(len(folder.parts), dtype=np.uint16), [part.rows for part in folder.parts]
        ),
        number_N=np.concatenate([np.arange(part.rows, dtype=np.uint32) for part in folder.parts]),
        stage_N=np.full(rows, NO_STAGE, dtype=np.uint8),
        numbers={name: np.full(rows, np.nan, dtype=np.float32) for name in names},
    )
    start = 0
    for part in folder.parts:
        place = slice(start, start + part.rows)
        start = place.stop
        read = read_numbers(part.path, number_columns(part), part.rows)
        for name, array in read.items():
            values.numbers[name][place] = array
        if STAGE in part.schema.names:
            values.stage_N[place] = _stages(part)
    return values


def number_columns(part: Part) -> list[str]:
    """Our columns that hold numbers."""
    return [
        field.name
        for field in part.schema
        if field.name.startswith(PREFIX) and is_number(field.type)
    ]


def is_number(kind: pa.DataType) -> bool:
    """Whether a column of this type is read as float32."""
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def read_numbers(path: Path, names: list[str], rows: int) -> Mapping[str, FloatArray]:
    """Columns of a file as float32, null as NaN.

    Raises:
        DataError: the file cannot be read.
    """
    found = {name: np.full(rows, np.nan, dtype=np.float32) for name in names}
    if not names:
        return found
    start = 0
    with open_parquet(path) as file:
        for batch in file.iter_batches(batch_size=BATCH, columns=names):
            place = slice(start, start + batch.num_rows)
            start = place.stop
            for name in names:
                column = batch.column(name).cast(pa.float32(), safe=False)
                found[name][place] = column.to_numpy(zero_copy_only=False)
    return found


def _stages(part: Part) -> npt.NDArray[np.uint8]:
    codes = np.full(part.rows, NO_STAGE, dtype=np.uint8)
    start = 0
    with open_parquet(part.path) as file:
        for batch in file.iter_batches(batch_size=BATCH, columns=[STAGE]):
            names = batch.column(STAGE).cast(pa.string())
            place = slice(start, start + batch.num_rows)
            start = place.stop
            for code, name in enumerate(STAGES):
                codes[place][np.array(names.to_pylist(), dtype=object) == name] = code
    return codes


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a Parquet file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(
            f"{path}: cannot be read: {error}", "the folder is not whole; make it again"
        ) from None
