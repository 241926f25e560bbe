"""Calibration from sums over bins, so that it can be resampled and drawn.

Every prediction of the next token has a confidence, the probability of its most likely token, and
is correct where that token follows. Sorted into B bins,

    ECE = sum_b (n_b / N) * |acc_b - conf_b|                 Naeini et al. 2015, Guo et al. 2017
    RMS = sqrt( sum_b (n_b / N) * (acc_b - conf_b)^2 )       Hendrycks et al. 2019

Bins of equal width part [0, 1] into (b / B, (b + 1) / B]; most stay almost empty where most
predictions are sure. Bins of equal mass hold as many predictions each; equal confidences are never
parted, so that a bin may hold more than its share. The reliability diagram draws acc_b over
conf_b.

The Brier score looks at the whole distribution (Brier 1950), sum_v (p_v - [v = y])^2 in [0, 2]: 0
for a sure and right prediction, 2 for a sure and wrong one.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]
IndexArray = npt.NDArray[np.integer[Any]]
Scheme = Literal["width", "mass"]
SCHEMES: Final[tuple[Scheme, ...]] = ("width", "mass")


def bin_edges(confidence: FloatArray, num_bins: int, scheme: Scheme) -> FloatArray:
    """Inner edges of the bins; a bin holds (lower, upper].

    Args:
        confidence: (N,) in [0, 1]; at least one for bins of equal mass.
        num_bins: B, at least 1.
        scheme: equal width or equal mass.

    Returns:
        Ascending edges: B - 1, or fewer where equal confidences fill more than a bin.
    """
    if scheme == "width":
        return np.arange(1, num_bins) / num_bins
    ordered = np.sort(confidence.astype(np.float64))
    last = (np.arange(1, num_bins) * len(ordered)) // num_bins - 1
    edges = np.unique(ordered[last[last >= 0]])
    inner: FloatArray = edges[edges < ordered[-1]]
    return inner


def assign_bins(confidence: FloatArray, edges: FloatArray) -> IndexArray:
    """The bin of each prediction, from 0 to len(edges)."""
    return np.searchsorted(edges, confidence, side="left")


def bin_sums(
    row: IndexArray, values: FloatArray, bins: IndexArray, num_rows: int, num_bins: int
) -> FloatArray:
    """Sums of values by row and bin.

    Args:
        row: (N,) the row of each prediction.
        values: (N,)
        bins: (N,) its bin.
        num_rows: R.
        num_bins: B.

    Returns:
        (R, B) in float64.
    """
    place = row.astype(np.int64) * num_bins + bins
    sums = np.zeros(num_rows * num_bins)
    np.add.at(sums, place, values.astype(np.float64))
    return sums.reshape(num_rows, num_bins)


def calibration_error(
    confidence: FloatArray, correct: npt.NDArray[np.bool_], num_bins: int, scheme: Scheme
) -> float:
    """ECE of predictions.

    Args:
        confidence: (N,) in [0, 1].
        correct: (N,).
        num_bins: B, at least 1.
        scheme: equal width or equal mass; the two are different measures, so name the one shown.

    Returns:
        In [0, 1]; NaN where there is no prediction.
    """
    if not len(confidence):
        return float("nan")
    edges = bin_edges(confidence, num_bins, scheme)
    bins, row = assign_bins(confidence, edges), np.zeros(len(confidence), dtype=np.int64)
    gap = correct.astype(np.float64) - confidence.astype(np.float64)
    count, gaps = (
        bin_sums(row, values, bins, 1, len(edges) + 1) for values in (np.ones(len(gap)), gap)
    )
    return float(expected_error(count, gaps)[0])


def expected_error(count: FloatArray, gap: FloatArray) -> FloatArray:
    """ECE.

    Args:
        count: (..., B) predictions by bin.
        gap: (..., B) sums of correct - confidence by bin.

    Returns:
        (...) in [0, 1]; NaN where there is no prediction.
    """
    return _ratio(np.abs(gap).sum(axis=-1), count.sum(axis=-1))


def rms_error(count: FloatArray, gap: FloatArray) -> FloatArray:
    """RMS calibration error; arguments and result as for `expected_error`."""
    squared = gap**2 / np.maximum(count, np.finfo(np.float64).tiny)
    return np.sqrt(_ratio(squared.sum(axis=-1), count.sum(axis=-1)))


def _ratio(above: FloatArray, below: FloatArray) -> FloatArray:
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), np.nan)
