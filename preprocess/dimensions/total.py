"""Total uncertainty: the weighted mean of the dimensions that are on.

    u = sum_d w_d u_d / sum_d w_d          d in {semantic, factual, value}

A dimension that is off is simply not in the sum, so the others' weights are renormalised. A
dimension that is on, and has no value for a response, is a null: by default the response then has
no total and cannot be in a pair, because a mean over other dimensions does not compare with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

OnMissing = Literal["exclude", "renormalise"]


def total_uncertainty(
    dimensions: Mapping[str, FloatArray], weights: Mapping[str, float], on_missing: OnMissing
) -> FloatArray:
    """Combine dimensions into one uncertainty for each of N responses.

    Args:
        dimensions: name -> uncertainties of shape (N,) in [0, 1], NaN where one is missing.
        weights: name -> weight >= 0, for each of the dimensions; their sum is above 0.
        on_missing: exclude gives NaN where any dimension is missing; renormalise takes the mean
            over those that are there, and NaN only where none is.

    Returns:
        float64 of shape (N,), in [0, 1] or NaN.
    """
    names = [name for name in dimensions if weights[name] > 0]
    values_DN = np.stack([np.asarray(dimensions[name], dtype=np.float64) for name in names])
    weights_D1 = np.array([[weights[name]] for name in names], dtype=np.float64)
    known_DN = ~np.isnan(values_DN)
    mass_N = (weights_D1 * known_DN).sum(axis=0)
    summed_N = (weights_D1 * np.where(known_DN, values_DN, 0.0)).sum(axis=0)
    total = np.divide(summed_N, mass_N, out=np.full(mass_N.shape, np.nan), where=mass_N > 0)
    if on_missing == "exclude":
        total[~known_DN.all(axis=0)] = np.nan
    clipped: FloatArray = np.clip(total, 0.0, 1.0)
    return clipped


def shares(weights: Mapping[str, float], used: list[str]) -> dict[str, float]:
    """The renormalised weights of the dimensions in use, for the manifest."""
    mass = sum(weights[name] for name in used)
    return {name: weights[name] / mass for name in used}
