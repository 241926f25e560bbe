"""Which rows a page shows: the extremes, and as many others as fit, drawn by a fixed hash.

A page cannot hold a million texts. Each row has a priority: the extremes come first, then all
others in an order that a hash of their number decides, so that the same folder always shows the
same rows and each other row is as likely as the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

EXTREMES: Final = 50
"""Rows of each kind of extreme that are always shown."""

Floats = npt.NDArray[np.floating[Any]]
Indices = npt.NDArray[np.int64]
Priorities = npt.NDArray[np.uint64]
_SHIFT: Final = np.uint64(4)
"""Room for the extremes below all hashes."""


@dataclass(frozen=True, slots=True)
class Extreme:
    """The rows at one end of a quantity.

    Attributes:
        name: for addresses and JSON.
        title: for people.
        high: whether the greatest values come first.
        column: the quantity.
        rows: places of the rows, the most extreme first.
        values: what they have.
        tied: rows that have the same value as the first.
    """

    name: str
    title: str
    high: bool
    column: str
    rows: Indices
    values: Floats
    tied: int


def find_extreme(name: str, title: str, column: str, values_N: Floats, *, high: bool) -> Extreme:
    """The rows with the greatest or least values; among equal ones a hash decides."""
    known = np.flatnonzero(np.isfinite(values_N))
    wanted = -values_N[known] if high else values_N[known]
    if known.size > EXTREMES:
        limit = np.partition(wanted, EXTREMES - 1)[EXTREMES - 1]
        known, wanted = known[wanted <= limit], wanted[wanted <= limit]
    rows = known[np.lexsort((hashes(known), wanted))][:EXTREMES]
    tied = int(np.count_nonzero(values_N == values_N[rows[0]])) if rows.size else 0
    return Extreme(name, title, high, column, rows, values_N[rows], tied)


def hashes(numbers: npt.NDArray[np.integer[Any]]) -> Priorities:
    """SplitMix64's finaliser: the same on every platform."""
    z = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def priorities(rows: int, first: Sequence[Extreme]) -> Priorities:
    """Priority of each of N rows, the least is kept first: extremes, then by hash."""
    found = (hashes(np.arange(rows)) >> _SHIFT) + (np.uint64(1) << np.uint64(32))
    for extreme in first:
        found[extreme.rows] = np.arange(len(extreme.rows), dtype=np.uint64)
    return found
