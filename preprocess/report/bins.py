"""Bins, and what lies in them: histograms, quantiles by group, quantiles along a quantity.

Bins are [e_0, e_1), [e_1, e_2), ..., the last one closed. Edges are multiples of 1, 2 or 5 times a
power of ten, rounded to float32 like the values: a value written as 0.58 lies at the edge 0.58
and not just below it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Values = npt.NDArray[np.floating[Any]]

BINS: Final = 50
"""Bins aimed at; the least nice step that gives no more."""
QUANTILES: Final = (0.05, 0.25, 0.5, 0.75, 0.95)
_ALL: Final = (0.0, *QUANTILES, 1.0)
_NARROW: Final = 0.5
"""Quantities in [0, 1] are shown over all of it unless they take up less."""
_EQUAL: Final = 1e-6
"""Values whose range is this part of their size are one value in float32."""
_TINY: Final = 1e-12
"""Below this a range is nothing."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What is known of a quantity over N rows.

    Attributes:
        rows: those that have a value.
        missing: those that have none.
        mean: of the values, in double precision; NaN where there is none, as all below.
        sd: standard deviation (n - 1); NaN below two values.
        quantiles: least, 5 %, 25 %, 50 %, 75 %, 95 %, greatest.
        distinct: number of different values.
    """

    rows: int
    missing: int
    mean: float
    sd: float
    quantiles: tuple[float, ...]
    distinct: int

    @property
    def least(self) -> float:
        """The smallest value."""
        return self.quantiles[0]

    @property
    def median(self) -> float:
        """The median."""
        return self.quantiles[3]

    @property
    def greatest(self) -> float:
        """The largest value."""
        return self.quantiles[-1]


@dataclass(frozen=True, slots=True)
class Groups:
    """A quantity within groups of rows.

    Attributes:
        rows: int64 of shape (G,), rows that have a value.
        mean: shape (G,), NaN where a group is empty, as below.
        quantiles: shape (G, 5), at QUANTILES.
    """

    rows: IntArray
    mean: FloatArray
    quantiles: FloatArray


def summarise(values: Values) -> Summary:
    """Mean, spread and quantiles (linear between order statistics) of finite values."""
    known = np.sort(values[np.isfinite(values)])
    rows, missing = int(known.size), int(values.size - known.size)
    if not rows:
        return Summary(0, missing, np.nan, np.nan, (np.nan,) * 7, 0)
    mean = float(known.mean(dtype=np.float64))
    sd = float(known.std(ddof=1, dtype=np.float64)) if rows > 1 else np.nan
    distinct = 1 + int(np.count_nonzero(known[1:] != known[:-1]))
    return Summary(rows, missing, mean, sd, tuple(sorted_quantiles(known, _ALL)), distinct)


def sorted_quantiles(ordered: Values, at: Sequence[float]) -> list[float]:
    """Quantiles of ascending values, linear between order statistics, without a copy of them."""
    places = np.array(at) * (ordered.size - 1)
    low = np.floor(places).astype(np.int64)
    high = np.minimum(low + 1, ordered.size - 1)
    below, above = ordered[low].astype(np.float64), ordered[high].astype(np.float64)
    found: list[float] = (below + (above - below) * (places - low)).tolist()
    return found


def nice_step(width: float, most: int = BINS) -> float:
    """The smallest of 1, 2, 5 times a power of ten that cuts a width into at most `most` steps."""
    raw = width / most
    power = 10.0 ** np.floor(np.log10(raw))
    return float(next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9)))


def nice_edges(least: float, greatest: float, unit: bool = False, most: int = BINS) -> FloatArray:
    """Edges of bins that hold all values from `least` to `greatest`.

    Args:
        least: finite.
        greatest: finite, at least `least`.
        unit: the quantity lies in [0, 1] by definition; shown whole unless values are close
            together.
        most: bins at most.

    Returns:
        At least two ascending edges, representable in float32.
    """
    if unit and greatest - least >= _NARROW and least >= 0.0 and greatest <= 1.0:
        least, greatest = 0.0, 1.0
    whole = unit and (least, greatest) == (0.0, 1.0)
    size = max(abs(least), abs(greatest))
    width = greatest - least
    if width <= max(_EQUAL * size, _TINY):
        width = max(0.1 * size, 0.01)
    # One bin is left for the shift of both ends to multiples of the step.
    step = nice_step(width, most if whole else most - 1)
    # Decimal digits of the step, so that 3 * 0.1 is 0.3.
    digits = int(max(0, -np.floor(np.log10(step))))
    first, last = round(least / step), round(greatest / step)
    first -= _edge(first, step, digits) > float(np.float32(least))
    last += _edge(last, step, digits) < float(np.float32(greatest))
    places = range(first, max(last, first + 1) + 1)
    return np.array([_edge(place, step, digits) for place in places])


def _edge(place: int, step: float, digits: int) -> float:
    return float(np.float32(round(place * step, digits)))


def length_edges(greatest: float) -> FloatArray:
    """Edges for lengths from 0 on, two to each doubling, whole numbers: 0, 1, 2, 3, 4, 6, 8, ..."""
    exponents = np.arange(0, 2 * np.log2(max(greatest, 2.0)) + 3)
    edges = np.unique(np.round(2.0 ** (exponents / 2)))
    return np.concatenate(([0.0], edges[: int(np.searchsorted(edges, greatest, "right")) + 1]))


def place(values: Values, edges: FloatArray) -> IntArray:
    """Bin of each value, -1 where it is NaN or outside."""
    wide = values.astype(np.float64)
    found: IntArray = np.searchsorted(edges, wide, side="right").astype(np.int64) - 1
    found[wide == edges[-1]] = edges.size - 2
    found[~np.isfinite(wide) | (found >= edges.size - 1)] = -1
    return found


def histogram(values: Values, edges: FloatArray) -> IntArray:
    """Number of values in each bin."""
    found = place(values, edges)
    counts: IntArray = np.bincount(found[found >= 0], minlength=edges.size - 1).astype(np.int64)
    return counts


def table(rows: IntArray, columns: IntArray, shape: tuple[int, int]) -> IntArray:
    """Number of pairs of places (row, column); a place below 0 does not count."""
    known = (rows >= 0) & (columns >= 0)
    flat = rows[known] * shape[1] + columns[known]
    counts: IntArray = np.bincount(flat, minlength=shape[0] * shape[1]).astype(np.int64)
    return counts.reshape(shape)


def by_group(values: Values, groups: IntArray, number: int) -> Groups:
    """Quantiles of values within each group.

    Args:
        values: shape (N,), NaN where there is none.
        groups: shape (N,), in [0, number); below 0: in no group.
        number: G.
    """
    known = np.isfinite(values) & (groups >= 0)
    kept, group = values[known], groups[known]
    order = np.lexsort((kept, group))
    kept = kept[order]
    rows: IntArray = np.bincount(group, minlength=number).astype(np.int64)
    ends = np.cumsum(rows)
    mean = np.full(number, np.nan)
    quantiles = np.full((number, len(QUANTILES)), np.nan)
    for g in np.flatnonzero(rows):
        inside = kept[ends[g] - rows[g] : ends[g]]
        mean[g] = inside.mean(dtype=np.float64)
        quantiles[g] = sorted_quantiles(inside, QUANTILES)
    return Groups(rows, mean, quantiles)


def trimmed(counts: Sequence[int] | IntArray) -> slice:
    """The part of a list of counts without the zeros at both ends."""
    (filled,) = np.nonzero(np.asarray(counts))
    return slice(int(filled[0]), int(filled[-1]) + 1) if filled.size else slice(0, 0)
