"""Agreement of repeated scores of the same rows: one-way analysis of variance.

For N rows with k scores each:

    MSW = mean_i var_k(score_ik)                   spread of repeats, within rows
    MSB = k var_i(mean_k score_ik)                 spread of rows
    single = (MSB - MSW) / (MSB + (k - 1) MSW)     agreement of single scores
    mean   = (MSB - MSW) / MSB                     agreement of means of k scores

The intraclass correlations ICC(1, 1) and ICC(1, k) of Shrout and Fleiss (1979): the share of the
variance of single scores, or of the means, that comes from the rows. 1: repeats always agree. 0 or
less: a score says nothing about its row. The second follows from the first by Spearman-Brown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.floating[Any]]
_EQUAL = 1e-12
"""Variances below this are rounding errors of equal scores."""


@dataclass(frozen=True, slots=True)
class Repeats:
    """How far k scores of a row agree.

    Attributes:
        rows: N.
        repeats: k.
        within: standard deviation of the repeats of a row (root of the mean variance).
        between: standard deviation of the rows' means.
        single: agreement of single scores; NaN where no two scores differ.
        mean: agreement of means of k scores; NaN where no two means differ.
    """

    rows: int
    repeats: int
    within: float
    between: float
    single: float
    mean: float


def repeats_agree(mean_N: Scores, spread_N: Scores, repeats: int) -> Repeats | None:
    """Agreement of repeats; None below two rows.

    Args:
        mean_N: mean of the k scores of each row, finite.
        spread_N: their standard deviation (k - 1), finite.
        repeats: k, at least 2.
    """
    rows = int(mean_N.size)
    if rows < 2:
        return None
    msw = float(np.mean(spread_N.astype(np.float64) ** 2))
    between = float(np.std(mean_N.astype(np.float64), ddof=1))
    msb = repeats * between**2
    total = msb + (repeats - 1) * msw
    single = (msb - msw) / total if total > _EQUAL else float("nan")
    of_means = (msb - msw) / msb if msb > _EQUAL else float("nan")
    return Repeats(rows, repeats, msw**0.5, between, single, of_means)
