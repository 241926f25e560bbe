r"""Label smoothing of each sample from its uncertainty.

    eps_i = min(a * u_i, eps_max)        a >= 0 solved so that mean_i(eps_i) = alpha

The map of "Uncertainty Aware Learning for Language Model Alignment" (arXiv 2406.04854): truncated
and linear, with the mean that ordinary label smoothing would have. The paper gives alpha = 0.1 and
no value for the truncation; ours is a setting.

The solution is exact. Let d_0 >= d_1 >= ... be the sorted uncertainties. If the k largest are
truncated, then

    a_k = (n * alpha - k * eps_max) / (d_k + d_{k+1} + ... + d_{n-1})

and the right k is the smallest for which the largest untruncated value stays below the cap,
a_k * d_k <= eps_max: mean_i min(a * u_i, eps_max) grows with a, so there is only one solution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from axolotl_ual.errors import ConfigError

_SLACK = 1e-12
"""Relative rounding that the reachable mean is allowed to be off by."""


@dataclass(frozen=True, slots=True)
class SmoothingMap:
    """Uncertainty to label smoothing.

    Attributes:
        scale: the slope a, at least 0.
        max: the cap eps_max.
        decreasing: whether 1 - u takes the place of u.
    """

    scale: float
    max: float
    decreasing: bool = False

    def __call__(self, uncertainty: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Map uncertainties in [0, 1] to smoothing in [0, max]; NaN stays NaN."""
        values = np.asarray(uncertainty, dtype=np.float64)
        if self.decreasing:
            values = 1.0 - values
        return np.minimum(self.scale * values, self.max)


def solve_smoothing(
    uncertainty: npt.ArrayLike, mean: float, max: float, decreasing: bool = False
) -> SmoothingMap:
    """Find the map whose mean over the given samples is `mean`.

    Args:
        uncertainty: shape (N,), in [0, 1]; NaN marks samples without one, which do not count.
        mean: alpha, in [0, max].
        max: eps_max, in (0, 1).
        decreasing: give certain samples more smoothing (for ablations).

    Returns:
        The map, with a mean that is exact to rounding in double precision.

    Raises:
        ConfigError: no slope reaches the mean; the message says which mean is reachable.
        ValueError: an uncertainty outside [0, 1].
    """
    known = np.asarray(uncertainty, dtype=np.float64)
    known = known[~np.isnan(known)]
    if known.size and (known.min() < 0.0 or known.max() > 1.0):
        raise ValueError(f"uncertainty outside [0, 1]: {known.min():g} to {known.max():g}")
    if mean == 0.0 or known.size == 0:
        return SmoothingMap(0.0, max, decreasing)
    descending = np.sort(1.0 - known if decreasing else known)[::-1]
    return SmoothingMap(_slope(descending, mean, max), max, decreasing)


def _slope(descending: npt.NDArray[np.float64], mean: float, cap: float) -> float:
    count = descending.size
    positive = int(np.count_nonzero(descending > 0.0))
    reachable = positive * cap / count
    if mean > reachable * (1.0 + _SLACK):
        raise ConfigError(
            f"ual.smoothing.mean: {mean:g} cannot be reached: only {positive} of {count} samples "
            f"have an uncertainty above 0, and none may be smoothed by more than max: {cap:g}",
            f"set ual.smoothing.mean to {reachable:.6g} or less, raise ual.smoothing.max, or use "
            "an estimator that tells more samples apart",
        )
    values = descending[:positive]
    untruncated_sum = np.cumsum(values[::-1])[::-1]
    truncated = np.arange(positive)
    slopes = (count * mean - truncated * cap) / untruncated_sum
    fits = np.flatnonzero((slopes >= 0.0) & (slopes * values <= cap))
    if fits.size == 0:
        # The mean is the reachable one, up to rounding: every positive sample is at the cap.
        return float(cap / values[-1])
    return float(slopes[fits[0]])
