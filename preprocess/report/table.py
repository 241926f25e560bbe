"""The table of rows as a page holds it: numbers of the shown rows, and their texts in blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from axolotl_ual.columns import (
    GAP,
    SMOOTHING,
    STAGES,
    UNCERTAINTY,
    UNCERTAINTY_CHOSEN,
    UNCERTAINTY_REJECTED,
)

from .bins import Values as Array
from .folder import Folder
from .names import (
    LENGTH,
    LENGTH_DIFFERENCE,
    REJECTED_LENGTH,
    TURNS,
    UNIT_INTERVAL,
    meaning_of,
    name_of,
)
from .pack import Blocks, pack_arrays, pack_blocks
from .paired import difference_of_lengths
from .rows import Texts
from .sample import Extreme, Priorities
from .values import Values

_FIRST: Final = {
    "annotations": (UNCERTAINTY, SMOOTHING),
    "pairs": (GAP, SMOOTHING, UNCERTAINTY_CHOSEN, UNCERTAINTY_REJECTED),
}
"""Columns in the order in which they are shown; all others follow."""
_SMALLER: Final = 0.95
"""Of the share of records that is kept when all are too large, for blocks that pack less well."""


@dataclass(frozen=True, slots=True)
class Table:
    """The rows that a page shows.

    Attributes:
        rows_T: int64 of shape (T,), places of the shown rows among all N, ascending.
        blocks: their records.
        columns: name -> float32 or int array of shape (T,).
    """

    rows_T: npt.NDArray[np.int64]
    blocks: Blocks
    columns: dict[str, npt.NDArray[Any]]

    def arrays(self) -> str:
        """All columns and where each row's record is, packed."""
        where = {"block": self.blocks.block, "place": self.blocks.place}
        return pack_arrays({**self.columns, **where})


def number_columns(folder: Folder, values: Values, texts: Texts) -> dict[str, Array]:
    """The numbers of a row, in the order in which they are shown."""
    first = [name for name in _FIRST[folder.kind] if name in values.numbers]
    names = [*first, *(name for name in values.numbers if name not in first)]
    columns: dict[str, Array] = {name: values.numbers[name] for name in names}
    columns[LENGTH] = texts.length_N
    if texts.rejected_N is not None:
        columns[REJECTED_LENGTH] = texts.rejected_N
        columns[LENGTH_DIFFERENCE] = difference_of_lengths(texts)
    columns[TURNS] = texts.turns_N
    return {name: array for name, array in columns.items() if np.isfinite(array).any()}


def make_table(
    folder: Folder,
    values: Values,
    texts: Texts,
    records: Mapping[int, bytes],
    priority_N: Priorities,
    budget: int,
) -> Table:
    """Pack as many of the records as fit, those of least priority first.

    Args:
        folder: of N rows.
        values: of them.
        texts: of them.
        records: place of a row -> its record.
        priority_N: the least is kept first.
        budget: characters of all blocks together.
    """
    rows = np.array(sorted(records), dtype=np.int64)
    blocks = pack_blocks([records[int(row)] for row in rows])
    while blocks.size > budget and rows.size > 1:
        number = max(1, int(rows.size * _SMALLER * budget / blocks.size))
        kept = np.argsort(priority_N[rows], kind="stable")[:number]
        rows = np.sort(rows[kept])
        blocks = pack_blocks([records[int(row)] for row in rows])
    numbers = number_columns(folder, values, texts)
    columns: dict[str, npt.NDArray[Any]] = {
        name: array[rows].astype(np.float32) for name, array in numbers.items()
    }
    columns["stage"] = values.stage_N[rows]
    columns["source"] = values.part_N[rows]
    columns["number"] = values.number_N[rows]
    return Table(rows, blocks, columns)


def describe_table(
    folder: Folder, values: Values, texts: Texts, table: Table, extremes: Sequence[Extreme]
) -> dict[str, Any]:
    """What the page's script has to know of the table beside the arrays."""
    pairs = folder.kind == "pairs"
    numbers = number_columns(folder, values, texts)
    place = {int(row): at for at, row in enumerate(table.rows_T)}
    return {
        "kind": folder.kind,
        "rows": int(table.rows_T.size),
        "total": values.rows,
        "noun": "pairs" if pairs else "rows",
        "stages": list(STAGES) if (values.stage_N < len(STAGES)).any() else [],
        "parts": [{"name": part.name, "label": part.label} for part in folder.parts],
        "numbers": [
            {
                "key": name,
                "label": name_of(name, pairs),
                "meaning": meaning_of(name, pairs),
                "digits": 0 if name in (LENGTH, REJECTED_LENGTH, LENGTH_DIFFERENCE, TURNS) else 4,
                "unit": texts.unit if name == LENGTH else "",
                "unit_interval": name in UNIT_INTERVAL,
            }
            for name in numbers
        ],
        "extremes": [
            {
                "name": extreme.name,
                "rows": [place[int(row)] for row in extreme.rows if int(row) in place],
            }
            for extreme in extremes
        ],
    }
