"""Predicting a number in [0, 1] from features, and how well that does on rows it has not seen.

ridge       y = w x + b on standardised features, |w|^2 penalised; the penalty is the one of several
            with the least leave-one-out error
neighbours  mean of y over the ten nearest by cosine, each weighted by 1 / distance
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .agreement import rank_correlation

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Predict = Callable[[FloatArray], FloatArray]
Fit = Callable[[FloatArray, FloatArray], Predict]

FOLDS: Final = 5
_NEIGHBOURS: Final = 10
_PENALTIES: Final = np.logspace(-1, 5, 13)
_RESAMPLES: Final = 1000
_LEVEL: Final = 0.95


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How far predictions of rows that a fit has not seen agree with what was measured.

    Attributes:
        rank_correlation: Spearman's; NaN where either side is constant.
        interval: 95 % of bootstrap samples of the rows.
        error: root mean square.
        rows: number of them.
    """

    rank_correlation: float
    interval: tuple[float, float]
    error: float
    rows: int


def fit_ridge(features_ND: FloatArray, values_N: FloatArray) -> Predict:
    """Fit a linear model; predictions are limited to [0, 1]."""
    # Only what fits a regression pays for scikit-learn's import.
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), RidgeCV(_PENALTIES))
    return _limited(model.fit(features_ND, values_N))


def fit_neighbours(features_ND: FloatArray, values_N: FloatArray) -> Predict:
    """Keep all rows; a prediction is the weighted mean of the nearest."""
    from sklearn.neighbors import KNeighborsRegressor

    nearest = min(_NEIGHBOURS, len(values_N))
    model = KNeighborsRegressor(nearest, weights="distance", metric="cosine")
    return _limited(model.fit(features_ND, values_N))


REGRESSORS: Final[dict[str, Fit]] = {"ridge": fit_ridge, "neighbours": fit_neighbours}


def fidelity(
    features_ND: FloatArray, values_N: FloatArray, group_N: IntArray, fit: Fit, seed: int
) -> Fidelity:
    """Predict each row by a fit on the other folds, and compare.

    Args:
        features_ND: of the measured rows.
        values_N: what was measured, in [0, 1].
        group_N: rows of one group are in one fold.
        fit: the regressor.
        seed: of the bootstrap.
    """
    _, group_N = np.unique(group_N, return_inverse=True)
    fold_N = group_N.reshape(-1) % FOLDS
    predicted_N = np.full(len(values_N), np.nan)
    for fold in np.unique(fold_N):
        left_out = fold_N == fold
        predict = fit(features_ND[~left_out], values_N[~left_out])
        predicted_N[left_out] = predict(features_ND[left_out])
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(values_N), size=(_RESAMPLES, len(values_N)))
    resampled = [rank_correlation(predicted_N[d], values_N[d]) for d in draws]
    tail = (1 - _LEVEL) / 2
    low, high = (
        np.nanquantile(resampled, [tail, 1 - tail])
        if np.isfinite(resampled).any()
        else (
            np.nan,
            np.nan,
        )
    )
    return Fidelity(
        rank_correlation(predicted_N, values_N),
        (float(low), float(high)),
        float(np.sqrt(np.mean((predicted_N - values_N) ** 2))),
        len(values_N),
    )


def _limited(model: Any) -> Predict:
    def predict(features_ND: FloatArray) -> FloatArray:
        limited: FloatArray = np.clip(model.predict(features_ND), 0.0, 1.0)
        return limited

    return predict
