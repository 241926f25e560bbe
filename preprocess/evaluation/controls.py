"""Data of the controls: the rows of the recipe with other columns of ours.

    sft         no smoothing, so that the loss is plain cross entropy; everything else is equal:
                seeds, order of the rows, averaging over tokens
    constant    the mean smoothing for every row
    shuffled    the same smoothings on other rows, by the seed of the run
    decreasing  certain rows smoothed more, with the same mean
    length      uncertainty is the rank of the response's length; smoothing and stage follow it

Null uncertainties are smoothed by the mean, as `on_missing: mean` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from axolotl_ual.columns import GAP, PREFIX, SENTENCES, SMOOTHING, STAGE, STAGES, UNCERTAINTY
from axolotl_ual.data.annotated import rewritten
from axolotl_ual.errors import DataError
from axolotl_ual.labels.ranks import rank
from axolotl_ual.labels.smoothing import solve_smoothing

from ..data.annotated_tables import annotated_tables
from ..data.recipe import Entry, Recipe
from ..data.rows import read_samples
from ..labels.stages import assign_stages
from ..output.folder import float_column, write_parquet
from .grid import PLAIN

if TYPE_CHECKING:
    from datasets import Dataset

Floats = npt.NDArray[np.float64]
Tables = list[tuple[Entry, "Dataset"]]


def write_control(control: str, recipe: Recipe, folder: Path, seed: int) -> list[dict[str, Any]]:
    """Write the rows that a control trains on.

    Args:
        control: one of DATA_CONTROLS.
        recipe: whose annotated rows or pairs are there.
        folder: of the files.
        seed: of the run; it decides how `shuffled` shuffles.

    Returns:
        The `datasets:` of the control's recipe.

    Raises:
        AnnotationError: the recipe's rows are not annotated.
        DataError: a column that the control needs is missing.
    """
    tables = annotated_tables(recipe)
    columns = _columns(control, recipe, tables, seed)
    folder.mkdir(parents=True, exist_ok=True)
    written, start = [], 0
    for number, (entry, table) in enumerate(tables):
        rows = slice(start, start + len(table))
        start = rows.stop
        path = folder / f"{number}.parquet"
        # A control is of whole rows: sentences of theirs would go before what it sets.
        dropped = {*columns, SENTENCES}
        rest = table.remove_columns([name for name in table.column_names if name in dropped])
        write_parquet(path, rest, {name: array[rows] for name, array in columns.items()})
        written.append(rewritten(entry.raw, path))
    return written


def _columns(control: str, recipe: Recipe, tables: Tables, seed: int) -> dict[str, pa.Array]:
    """The columns that take the place of those of the same name, over all tables."""
    smoothing = _numbers(tables, SMOOTHING)
    if control == PLAIN:
        return {SMOOTHING: float_column(np.zeros_like(smoothing))}
    if control == "constant":
        return {SMOOTHING: float_column(np.full_like(smoothing, smoothing.mean()))}
    if control == "shuffled":
        return {SMOOTHING: float_column(np.random.default_rng(seed).permutation(smoothing))}
    if control == "decreasing":
        uncertainty = _uncertainty(recipe, tables)
        return {SMOOTHING: float_column(_smooth(recipe, uncertainty, smoothing.mean(), True))}
    uncertainty = rank(_lengths(recipe, tables)).astype(np.float64)
    columns = {
        SMOOTHING: float_column(_smooth(recipe, uncertainty, smoothing.mean(), False)),
        STAGE: pa.array(np.array(STAGES)[assign_stages(uncertainty.astype(np.float32), None)]),
    }
    if not recipe.raw.get("rl"):
        columns[UNCERTAINTY] = float_column(uncertainty)
    return columns


def _smooth(recipe: Recipe, uncertainty: Floats, mean: float, decreasing: bool) -> Floats:
    """Smoothing with the same mean as the recipe's rows have."""
    pairs = recipe.ual.pairs if recipe.raw.get("rl") else None
    cap = recipe.ual.smoothing.max if pairs is None else pairs.smoothing.max
    smoothing = solve_smoothing(uncertainty, float(mean), cap, decreasing=decreasing)(uncertainty)
    return np.where(np.isnan(smoothing), mean, smoothing)


def _uncertainty(recipe: Recipe, tables: Tables) -> Floats:
    if recipe.raw.get("rl"):
        return 1.0 - _numbers(tables, GAP)
    return _numbers(tables, UNCERTAINTY)


def _numbers(tables: Tables, name: str) -> Floats:
    parts = []
    for entry, table in tables:
        if name not in table.column_names:
            raise DataError(
                f"{entry.label}: has no column `{name}`, which this control is made from",
                "annotate the data with `axolotl-ual annotate`, or take the control out",
            )
        parts.append(np.array([np.nan if v is None else v for v in table[name]], dtype=np.float64))
    return np.concatenate(parts)


def _lengths(recipe: Recipe, tables: Tables) -> Floats:
    """Characters of each response."""
    lengths: list[int] = []
    for entry, table in tables:
        if recipe.raw.get("rl"):
            lengths += [len(_content(chosen)) for chosen in table["chosen"]]
            continue
        rest = table.remove_columns([n for n in table.column_names if n.startswith(PREFIX)])
        lengths += [
            sum(len(turn.text) for turn in sample.turns if turn.trained)
            for sample in read_samples(rest, entry, recipe)
        ]
    return np.array(lengths, dtype=np.float64)


def _content(chosen: Any) -> str:
    if isinstance(chosen, Sequence) and not isinstance(chosen, str):
        chosen = chosen[-1]
    return str(chosen["content"] if isinstance(chosen, dict) else chosen)
