"""Differences between two arms that read the same prompts, and how sure they are.

A measure that is a mean over tokens (or rows) is a ratio of sums over rows i,

    theta = sum_i y_i / sum_i m_i           y_i: summed over the m_i tokens of row i

and a difference of two arms on the same rows is paired,

    delta = sum_i (a_i - b_i) / sum_i m_i

with the standard error clustered by prompt c (Liang and Zeger 1986; Miller 2024, "Adding error
bars to evals", arXiv 2411.00640), since rows of one prompt are not independent:

    SE^2 = C / (C - 1) * sum_c ( sum_{i in c} (a_i - b_i - delta * m_i) )^2 / (sum_i m_i)^2

The rival, an unpaired SE^2_a + SE^2_b, throws away that a hard prompt is hard for both.

Prompts tell how sure a comparison of these trained models is. Training once more gives another
model, so several seeds add the standard error of their mean; where both arms have the same seeds,
the seeds are paired too. The two add up, with Welch's and Satterthwaite's degrees of freedom:

    SE^2 = SE_p^2 + SE_s^2        df = SE^4 / sum_k (SE_k^4 / df_k)
    p = 2 P(T_df > |delta| / SE)

The smallest difference that this sample size would have shown with probability `power`, at level
`alpha`: (t_{1 - alpha/2} + t_{power}) * SE (Bloom 1995). Without it "no difference" means nothing.

Over a grid of comparisons, p-values are corrected by Holm's method (1979): sorted ascending, the
k-th of n is multiplied by n - k + 1, and none is below the one before it. It holds for dependent
comparisons, and is never weaker than Bonferroni's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]
IndexArray = npt.NDArray[np.integer[Any]]

ALPHA: Final = 0.05
POWER: Final = 0.8


@dataclass(frozen=True, slots=True)
class Spread:
    """One source of uncertainty about a difference.

    Attributes:
        error: standard error, at least 0.
        freedom: its degrees of freedom, at least 1.
    """

    error: float
    freedom: float


@dataclass(frozen=True, slots=True)
class TTest:
    """A difference against its standard error.

    Attributes:
        error: standard error of the difference.
        freedom: degrees of freedom; infinite where the error is 0.
        p: two-sided, of no difference at all.
        detectable: smallest difference that would have been shown with probability POWER; None
            where nothing varies, so that nothing tells.
    """

    error: float
    freedom: float
    p: float
    detectable: float | None


def cluster_sums(values: FloatArray, clusters: IndexArray, num_clusters: int) -> FloatArray:
    """Sums over the rows of each cluster.

    Args:
        values: (R, ...), by row.
        clusters: (R,) the cluster of each row, from 0 to num_clusters - 1.
        num_clusters: C.

    Returns:
        (C, ...) in float64.
    """
    summed = np.zeros((num_clusters, *values.shape[1:]))
    np.add.at(summed, clusters, values.astype(np.float64))
    return summed


def clustered_spread(difference: FloatArray, weight: FloatArray) -> Spread | None:
    """Clustered standard error of sum(difference) / sum(weight).

    Args:
        difference: (C,) sums of a_i - b_i by cluster.
        weight: (C,) sums of m_i by cluster, at least one above 0.

    Returns:
        None where there are fewer than two clusters with any weight.
    """
    used = weight > 0
    count = int(used.sum())
    if count < 2:
        return None
    total = float(weight.sum())
    delta = float(difference.sum()) / total
    residual = difference[used] - delta * weight[used]
    variance = count / (count - 1) * float(residual @ residual) / total**2
    return Spread(math.sqrt(variance), count - 1)


def seed_spread(first: Sequence[float], second: Sequence[float], paired: bool) -> list[Spread]:
    """Standard error of a difference of means over seeds.

    Args:
        first: a value for each seed of one arm.
        second: likewise of the other.
        paired: whether equal places are the same seed.

    Returns:
        One spread where paired, else one for each arm; an arm of one seed has none.
    """
    parts = [np.subtract(first, second)] if paired else [np.asarray(first), np.asarray(second)]
    return [
        Spread(float(part.std(ddof=1)) / math.sqrt(len(part)), len(part) - 1)
        for part in parts
        if len(part) > 1
    ]


def t_test(difference: float, spreads: Sequence[Spread]) -> TTest | None:
    """Test a difference against the sum of its spreads.

    Args:
        difference: delta.
        spreads: independent sources of uncertainty.

    Returns:
        None where there is no spread to test against.
    """
    if not spreads:
        return None
    variance = math.fsum(spread.error**2 for spread in spreads)
    if variance == 0.0:
        return TTest(0.0, math.inf, 1.0 if difference == 0.0 else 0.0, None)
    freedom = variance**2 / math.fsum(s.error**4 / s.freedom for s in spreads)
    error = math.sqrt(variance)
    from scipy import stats

    p = 2.0 * float(stats.t.sf(abs(difference) / error, freedom))
    quantiles = stats.t.ppf(1.0 - ALPHA / 2.0, freedom) + stats.t.ppf(POWER, freedom)
    return TTest(error, freedom, p, float(quantiles) * error)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's correction.

    Args:
        p: p-values in [0, 1], of all comparisons of a grid.

    Returns:
        Corrected p-values in the same order.
    """
    order = sorted(range(len(p)), key=lambda index: p[index])
    corrected = [0.0] * len(p)
    least = 0.0
    for rank, index in enumerate(order):
        least = max(least, min(1.0, (len(p) - rank) * p[index]))
        corrected[index] = least
    return corrected
