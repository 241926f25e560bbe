"""The datasets of a recipe, loaded: which rows there are, and which of them are judged as what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from axolotl_ual.data.fingerprint import fingerprint

from .load import load_entry
from .places import locate_rows
from .recipe import Entry, Recipe
from .rows import Rows, Samples, read_samples, unreadable_rows
from .sample import Sample

if TYPE_CHECKING:
    from datasets import Dataset

T = TypeVar("T")
BoolArray = npt.NDArray[np.bool_]
OnUnreadable = Literal["error", "mean", "drop"]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row that is not judged.

    Attributes:
        place: its file, row and line, as far as they are known.
        key: where in the row.
        problem: what is wrong there.
    """

    place: str
    key: str
    problem: str

    def __str__(self) -> str:
        return f"{self.place}: `{self.key}` {self.problem}"


@dataclass(frozen=True, slots=True)
class Source:
    """One dataset of the recipe, loaded.

    Attributes:
        entry: of the recipe.
        table: the N rows that are written.
        samples: those of them that are judged, in order.
        judged: bool of shape (N,): which these are.
        fingerprint: of the data.
        rows_read: rows of the dataset: N, and those that were dropped.
        unreadable: rows that cannot be read, whether they are dropped or not.
    """

    entry: Entry
    table: Dataset
    samples: Samples
    judged: BoolArray
    fingerprint: str
    rows_read: int
    unreadable: list[Unreadable] = field(default_factory=list)


def load_sources(
    recipe: Recipe, limit: int | None, on_unreadable: OnUnreadable = "error"
) -> list[Source]:
    """Load every dataset of the recipe and check all of its rows.

    Args:
        recipe: the recipe.
        limit: the first rows only, of each dataset.
        on_unreadable: what becomes of rows that cannot be read.

    Raises:
        DataError: a dataset cannot be read, or rows are not what their type says.
    """
    sources = []
    for entry in recipe.entries:
        table = load_entry(entry, seed=recipe.seed)
        if limit is not None:
            table = table.select(range(min(limit, len(table))))
        sources.append(_source(recipe, entry, table, on_unreadable))
    return sources


def narrowed(source: Source, keep: BoolArray, changed: Mapping[int, Sample]) -> Source:
    """A source of which fewer rows are judged, or some as another sample.

    Args:
        source: as it was loaded.
        keep: bool of shape (N,): of the rows that were judged, those that still are.
        changed: samples that take the place of what was read, by row.
    """
    judged = source.judged & keep
    return replace(
        source, samples=source.samples.only(np.flatnonzero(judged), changed), judged=judged
    )


def selected(source: Source, rows: npt.NDArray[np.int64]) -> Source:
    """A source of some of its rows, none of them judged: for what their data become."""
    none = source.samples.only(np.zeros(0, dtype=np.int64))
    judged = np.zeros(len(rows), dtype=np.bool_)
    return replace(source, table=source.table.select(rows), samples=none, judged=judged)


def _source(recipe: Recipe, entry: Entry, table: Dataset, on_unreadable: OnUnreadable) -> Source:
    instead = "or set ual.annotate.on_unreadable to `mean` or `drop`"
    samples, numbers, named = sift(
        read_samples(table, entry, recipe), entry, on_unreadable == "error", instead
    )
    rows = len(table)
    judged = np.zeros(rows, dtype=np.bool_)
    judged[numbers] = True
    if named and on_unreadable == "drop":
        table = table.select(numbers)
        samples, judged = read_samples(table, entry, recipe), judged[numbers]
    digest = fingerprint(entry.raw, recipe.seed)
    return Source(entry, table, samples, judged, digest, rows, named)


def sift(
    rows: Rows[T], entry: Entry, stop: bool, instead: str
) -> tuple[Rows[T], npt.NDArray[np.int64], list[Unreadable]]:
    """The rows of a dataset that can be read.

    Args:
        rows: all of them.
        entry: of the dataset.
        stop: whether rows that cannot be read are an error.
        instead: what else the user can do than to mend them.

    Returns:
        Those that can be read, their numbers, and the others.

    Raises:
        DataError: there are others and `stop`, or none can be read.
    """
    bad = rows.unreadable()
    if bad and (stop or len(bad) == len(rows)):
        raise unreadable_rows(
            entry, bad, len(rows), instead=instead if len(bad) < len(rows) else ""
        )
    places = locate_rows(entry, list(bad))
    named = [Unreadable(places[row], bad[row].key, bad[row].problem) for row in bad]
    numbers = np.delete(np.arange(len(rows)), list(bad))
    return (rows.only(numbers) if bad else rows), numbers, named
