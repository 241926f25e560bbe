"""Raw scores -> uncertainties in [0, 1], over one set of samples.

rank     (r_i - min r) / (max r - min r), r the average rank: equal scores share the mean of the
         ranks that they take up. Only the order of the scores matters, so an outlier moves nobody.
         Whatever the scores, the result is spread evenly over [0, 1].
minmax   (x_i - min x) / (max x - min x). Keeps distances; one outlier squeezes all the others.
clipped  minmax of the scores clipped to their 5th and 95th percentile (winsorised). Keeps distances
         among nine tenths of the samples, and an outlier moves nobody. Not the quantile transform,
         which is `rank`.
ratio    x_i / max x, of scores that are not negative. Keeps ratios, so that products of scores keep
         their order (`mix: product` of an ensemble); the least score need not become 0.

The first three give the least score 0 and the greatest 1. Where all scores are equal (one sample,
say) there is no order to tell, and every sample gets 0.5. NaN stays NaN and takes no rank.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]
Uncertainties = npt.NDArray[np.float32]
Mapping = Callable[[Scores], Uncertainties]

_TAIL: Final = 0.05
"""Share of the samples that `clipped` cuts off at each end."""


def average_ranks(scores: Scores) -> Scores:
    """Ranks from 1 to N of finite scores (N,); ties share the mean of their ranks."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    means: Scores = last - (counts - 1) / 2.0
    return means[inverse.reshape(-1)]


def rank(scores: Scores) -> Uncertainties:
    """Map scores (N,), finite or NaN, to float32 in [0, 1] by their average rank."""
    return _over_finite(scores, average_ranks)


def minmax(scores: Scores) -> Uncertainties:
    """Map scores (N,), finite or NaN, to float32 in [0, 1] linearly."""
    return _over_finite(scores, lambda finite: finite)


def clipped(scores: Scores) -> Uncertainties:
    """Map scores (N,), finite or NaN, to float32 in [0, 1] linearly between two percentiles."""
    return _over_finite(scores, _winsorise)


def ratio(scores: Scores) -> Uncertainties:
    """Map scores (N,), not negative or NaN, to float32 in [0, 1]: x / max x; 0 stays 0."""
    known = np.isfinite(scores)
    largest = scores[known].max(initial=0.0)
    mapped = np.full(len(scores), np.nan, dtype=np.float32)
    mapped[known] = scores[known] / largest if largest > 0 else 0.0
    return mapped


MAPPINGS: Final[dict[str, Mapping]] = {
    "rank": rank,
    "minmax": minmax,
    "clipped": clipped,
    "ratio": ratio,
}


def _winsorise(finite: Scores) -> Scores:
    # Order statistics, not interpolated: a range beyond the largest float stays finite.
    low, high = np.quantile(finite, [_TAIL, 1.0 - _TAIL], method="nearest")
    if low == high:
        # Nine tenths of the scores are one number: the rest lies below or above it.
        position: Scores = np.sign(finite - low)
        return position
    limited: Scores = np.clip(finite, low, high)
    return limited


def _over_finite(scores: Scores, position: Callable[[Scores], Scores]) -> Uncertainties:
    mapped = np.full(len(scores), np.nan, dtype=np.float32)
    known = np.isfinite(scores)
    if known.any():
        mapped[known] = _to_unit_interval(position(scores[known]))
    return mapped


def _to_unit_interval(values: Scores) -> Scores:
    low, high = values.min(), values.max()
    if low == high:
        return np.full_like(values, 0.5)
    with np.errstate(over="ignore"):
        width = high - low
    if not np.isfinite(width):
        # Halves: a range beyond the largest float. Of the smallest floats there are none.
        values, low, width = values / 2, low / 2, high / 2 - low / 2
    scaled: Scores = np.clip((values - low) / width, 0.0, 1.0)
    return scaled
