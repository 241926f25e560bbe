"""The rows that a recipe trains on, with their columns of ours, wherever those come from.

They are in the annotated copy, in the data themselves, or in the annotations of others that
`ual.annotations` joins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from axolotl_ual.data.annotated import locate
from axolotl_ual.data.shared import SharedAnnotations

from .load import load_entry
from .recipe import Entry, Recipe, read_entries

if TYPE_CHECKING:
    from datasets import Dataset


def annotated_tables(recipe: Recipe) -> list[tuple[Entry, Dataset]]:
    """Load the datasets of a recipe as training does, before they are tokenised.

    Args:
        recipe: whose annotated copy or pairs are there, whose datasets bring the columns, or that
            names the annotations of others.

    Returns:
        For each dataset the entry that reads it, and its rows; without those that
        `ual.annotations.on_missing: drop` leaves out.

    Raises:
        AnnotationError: there is no such copy, it is of other data, or nothing can be joined.
        DataError: the data cannot be read.
    """
    located = locate(recipe.raw, recipe.ual, str(recipe.path)).entries
    entries = read_entries({**recipe.raw, "datasets": located}, recipe.path)
    tables = [(entry, load_entry(entry, seed=recipe.seed)) for entry in entries]
    if recipe.ual.annotations is None:
        return tables
    shared = SharedAnnotations(recipe.ual.annotations, recipe.ual.smoothing.mean)
    return [(entry, shared.join(table, entry.path).dataset) for entry, table in tables]
