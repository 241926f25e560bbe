r"""Label smoothing of each sample from its uncertainty.

    eps_i = min(a * u_i, eps_max)        a >= 0 solved so that mean_i(eps_i) = alpha

The map of "Uncertainty Aware Learning for Language Model Alignment" (arXiv 2406.04854): truncated
and linear, with the mean that ordinary label smoothing would have. The paper gives alpha = 0.1 and
no value for the truncation; ours is a setting.

Let d_0 >= d_1 >= ... be the sorted uncertainties. With slope a = eps_max / d_k the k largest are
truncated and d_k has just reached the cap, and the sum of all smoothing is

    S_k = k * eps_max + a * (d_k + d_{k+1} + ... + d_{n-1})

which grows with k. The slope sought lies before the first k whose S_k reaches n * alpha; there the
sum is linear in a, so that a follows without a search. Where samples count by weights w_i, k is the
weight of the truncated ones, w_i d_i takes the place of d_i in the sum, and the whole weight that
of n. All terms of S_k are positive: uncertainties
of very different sizes cancel nothing. What the slope reaches is computed at the end, and where it
is not alpha (too few samples above 0, or so small that no finite slope lifts them) that is an error
that names the reachable mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from axolotl_ual.errors import ConfigError

_RELATIVE_ERROR: Final = 1e-9
"""Of the mean that a slope reaches, from rounding over millions of samples."""
_LARGEST_SLOPE: Final = float(np.finfo(np.float64).max)


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
    uncertainty: npt.ArrayLike,
    mean: float,
    max: float,
    decreasing: bool = False,
    weight: npt.ArrayLike | None = None,
) -> SmoothingMap:
    """Find the map whose mean over the given samples is `mean`.

    Args:
        uncertainty: shape (N,), in [0, 1]; NaN marks samples without one, which do not count.
        mean: alpha, in [0, max].
        max: eps_max, in (0, 1).
        decreasing: give certain samples more smoothing (for ablations).
        weight: shape (N,), above 0: what each sample counts in the mean; None: all the same.

    Returns:
        The map, with a mean that is exact to rounding in double precision.

    Raises:
        ConfigError: no slope reaches the mean; the message says which mean is reachable.
        ValueError: an uncertainty outside [0, 1].
    """
    values = np.asarray(uncertainty, dtype=np.float64)
    is_known = ~np.isnan(values)
    known = values[is_known]
    if known.size and (known.min() < 0.0 or known.max() > 1.0):
        raise ValueError(f"uncertainty outside [0, 1]: {known.min():g} to {known.max():g}")
    if mean == 0.0 or known.size == 0:
        return SmoothingMap(0.0, max, decreasing)
    given = None if weight is None else np.asarray(weight, dtype=np.float64)[is_known]
    counted = 1.0 - known if decreasing else known
    order = np.argsort(counted, kind="stable")[::-1]
    descending = counted[order]
    weights = np.ones(known.size) if given is None else given[order]
    solved = SmoothingMap(_slope(descending, weights, mean, max), max, decreasing)
    reached = float(np.average(solved(known), weights=given))
    if not math.isclose(reached, mean, rel_tol=_RELATIVE_ERROR):
        raise _unreachable(descending, mean, max, reached)
    return solved


def _slope(
    descending: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], mean: float, cap: float
) -> float:
    """The slope whose mean is `mean`, or the one that comes nearest."""
    values = descending[descending > 0.0]
    if not values.size:
        return 0.0
    own = weights[: values.size]
    tails = np.cumsum((own * values)[::-1])[::-1]
    with np.errstate(over="ignore"):
        slopes = np.minimum(cap / values, _LARGEST_SLOPE)
    truncated = np.concatenate([[0.0], np.cumsum(own)[:-1]])
    wanted = weights.sum() * mean
    reaching = np.flatnonzero(truncated * cap + slopes * tails >= wanted)
    if reaching.size == 0:
        return float(slopes[-1])
    k = int(reaching[0])
    least = slopes[k - 1] if k else 0.0
    with np.errstate(over="ignore"):
        slope = (wanted - truncated[k] * cap) / tails[k]
    return float(np.clip(slope, least, slopes[k]))


def _unreachable(
    descending: npt.NDArray[np.float64], mean: float, cap: float, reached: float
) -> ConfigError:
    positive = int(np.count_nonzero(descending > 0.0))
    smallest = "" if not positive else f" (the least of them {descending[positive - 1]:.3g})"
    return ConfigError(
        f"ual.smoothing.mean: {mean:g} cannot be reached: only {positive} of {descending.size} "
        f"samples have an uncertainty above 0{smallest}, and none may be smoothed by more than "
        f"max: {cap:g}",
        f"set ual.smoothing.mean to {reached:.10g} or less, raise ual.smoothing.max, or use an "
        "estimator that tells more samples apart",
    )
