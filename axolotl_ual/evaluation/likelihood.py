"""Negative log-likelihood of held-out responses, and how sure its mean is.

    NLL = (1 / T) * sum_i sum_t -log p(y_it | x_i, y_i,<t)         nats per token

over all T tokens of all responses: token-weighted, as the training loss is. The rival, a mean of
the means of rows, weighs a token of a short response more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]
IndexArray = npt.NDArray[np.int64]


def mean_nll(nll: Sequence[FloatArray]) -> float:
    """Mean over all tokens.

    Args:
        nll: for each response, the negative log-likelihoods (T_i,) of its tokens in nats.

    Raises:
        ValueError: there is no token.
    """
    if not any(len(values) for values in nll):
        raise ValueError("there is no token to take the mean over")
    return float(np.concatenate(list(nll)).astype(np.float64).mean())


def bootstrap_interval(
    statistic: Callable[[IndexArray], float],
    num_rows: int,
    *,
    seed: int,
    resamples: int = 500,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of a statistic under resampling of rows (Efron 1979).

    Rows, not tokens, are drawn with replacement: tokens of one response are not independent.

    Args:
        statistic: called with the indices (num_rows,) of a resample.
        num_rows: rows to draw from, at least 1.
        seed: equal seeds draw equal resamples, so that two statistics can be compared in pairs.
        resamples: how many are drawn.
        level: probability that the interval covers, in (0, 1).
    """
    rng = np.random.default_rng(seed)
    values = [statistic(rng.integers(0, num_rows, num_rows)) for _ in range(resamples)]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
