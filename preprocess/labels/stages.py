"""Stages of the curriculum: conservative, moderate, exploratory.

The stages of UDASA (arXiv 2507.17477) part samples by how clear they are. Boundaries are tertiles
of the data, or fixed thresholds. Equal values never straddle a boundary: a tertile's cut moves to
the nearest place where the sorted values change.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from axolotl_ual.columns import STAGES

StageCodes = npt.NDArray[np.int8]
MIDDLE = 1


def assign_stages(
    difficulty: npt.ArrayLike, thresholds: tuple[float, float] | None = None
) -> StageCodes:
    """Give each sample the index of its stage in `columns.STAGES`.

    Args:
        difficulty: shape (N,), real numbers; the smallest are conservative. For supervised
            samples this is the uncertainty, for pairs the negated gap. NaN: not known.
        thresholds: two ascending numbers; at or below the first is conservative, at or below the
            second moderate. None: tertiles.

    Returns:
        int8 of shape (N,). Where the difficulty is not known the stage is the middle one.
    """
    values = np.asarray(difficulty, dtype=np.float64)
    codes = np.full(values.shape, MIDDLE, dtype=np.int8)
    known = ~np.isnan(values)
    low, high = tertiles(values[known]) if thresholds is None else thresholds
    codes[known & (values <= low)] = 0
    codes[known & (values > high)] = 2
    return codes


def tertiles(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The largest value of the lower third, and of the lower two thirds.

    Returns:
        Two ascending numbers; minus infinity stands for an empty lower part.
    """
    ordered = np.sort(values)
    return _cut(ordered, 1), _cut(ordered, 2)


def _cut(ordered: npt.NDArray[np.float64], thirds: int) -> float:
    count = ordered.size
    if count == 0:
        return float("-inf")
    # A cut at c puts c values below it; c may only be where the value changes, or at an end.
    changes = np.flatnonzero(np.diff(ordered) > 0.0) + 1
    candidates = np.concatenate(([0], changes, [count]))
    cut = int(candidates[np.argmin(np.abs(candidates - count * thirds / 3))])
    return float(ordered[cut - 1]) if cut else float("-inf")


def stage_counts(codes: StageCodes) -> dict[str, int]:
    """Number of samples of each stage, by name, in the order of training."""
    counts = np.bincount(codes, minlength=len(STAGES))
    return {name: int(number) for name, number in zip(STAGES, counts, strict=True)}
