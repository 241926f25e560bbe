"""Target margins of pairs by their gaps (gamma-PO, arXiv 2506.03690).

A pair with a wide gap r is to be told apart by more than one with a narrow gap. The target margins
g of N pairs share out a mean margin m,

    g_i = m N p_i,    p = argmin over the simplex of mean_i -log sigma(r_i - g_i) + tau KL(p, 1/N)

and DPO, which has no target margin, is shifted by delta_i = g_i - m (the authors' `gm-dpo`), whose
mean is 0. The paper takes r from the policy as it trains, over a queue of recent pairs, and takes
20 steps of mirror descent. Here r is the gap that the pairs carry, so that there is one solution
for the whole training set, whatever the batches and processes. Where the derivatives by p are
equal,

    log(g_i / m) + (m / tau) sigma(g_i - r_i) = -nu

and both sides of each pair's equation rise in g_i, as the mean of g falls in nu: two bisections.

Shape suffix: N pairs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_HALVINGS = 100


def target_margins(gap_N: npt.ArrayLike, mean: float, tau: float) -> Floats:
    """The shift of each pair, in units of the reward.

    Args:
        gap_N: r, at least one, finite.
        mean: m, above 0.
        tau: above 0; the smaller, the further the margins are apart.

    Returns:
        delta, float64 of shape (N,): zeros where all gaps are equal; the mean is 0, no value is
        below -m, and a wider gap never has a smaller one.
    """
    gaps_M, place_N, count_M = np.unique(
        np.asarray(gap_N, dtype=np.float64), return_inverse=True, return_counts=True
    )
    if gaps_M.size == 1:
        return np.zeros(place_N.shape)
    pull = mean / tau

    def margins(nu: float) -> Floats:
        # log(g / m) is between -nu - pull and -nu, for sigma is between 0 and 1.
        low_M, high_M = np.full(gaps_M.shape, -nu - pull), np.full(gaps_M.shape, -nu)
        for _ in range(_HALVINGS):
            middle_M = 0.5 * (low_M + high_M)
            above_M = middle_M + pull * _sigma(mean * np.exp(middle_M) - gaps_M) > -nu
            high_M, low_M = np.where(above_M, middle_M, high_M), np.where(above_M, low_M, middle_M)
        found: Floats = mean * np.exp(0.5 * (low_M + high_M))
        return found

    low, high = -pull, 0.0
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        if np.average(margins(middle), weights=count_M) > mean:
            low = middle
        else:
            high = middle
    delta_M = margins(0.5 * (low + high)) - mean
    shifts: Floats = delta_M[place_N]
    return shifts


def _sigma(values: Floats) -> Floats:
    result: Floats = np.exp(-np.logaddexp(0.0, -values))
    return result
