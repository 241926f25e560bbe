"""Win rates of one model over another, with and without control for length.

A judge is shown two responses and says which it prefers: 1 where that is the model's, 0 where it is
the baseline's, 1/2 for a tie. Judges prefer what they read first, so each pair is shown in both
orders and the two preferences are averaged: a judge that always takes the first gives 1/2.

Judges prefer length too. AlpacaEval 2 (Dubois et al. 2024, "Length-controlled AlpacaEval", arXiv
2404.04475) asks what the win rate would be if both were as long: it fits

    P(model is preferred) = sigmoid( theta + phi * tanh(d) + psi * difficulty )

    d  the baseline's length less the model's, in characters, over its standard deviation

by logistic regression with an L1 penalty, whose strength five-fold cross-validation chooses, and
averages the predictions at d = 0. `difficulty` of a prompt, estimated over many models, is there
for AlpacaEval's own 805 prompts; a weakly weighted copy of the baseline made longer and shorter on
purpose (`gamed`) keeps phi from growing. Without both it is its `length_controlled_minimal`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]

_STRENGTHS: Final = np.logspace(-4, 4, 10)
"""Inverse strengths of the penalty that are tried."""
_FOLDS: Final = 5
_SEED: Final = 123
GAMED_WEIGHT: Final = 0.2
"""Weight of a gamed comparison beside one of the model's, shared by the two kinds of gaming."""


@dataclass(frozen=True, slots=True)
class Gamed:
    """Comparisons of the baseline with copies of itself that were made longer or shorter.

    Attributes:
        preference: (M,) for the copy.
        delta: (M,) standardised difference of lengths.
        difficulty: (M,) of the prompts.
    """

    preference: FloatArray
    delta: FloatArray
    difficulty: FloatArray


def both_orders(first: FloatArray, second: FloatArray) -> FloatArray:
    """Preferences for the model from both orders.

    Args:
        first: (N,) preference for what is shown first, where that is the model's response.
        second: (N,) preference for what is shown first, where that is the baseline's.

    Returns:
        (N,) in [0, 1]; NaN where an order has no preference.
    """
    return (first + (1.0 - second)) / 2.0


def length_controlled(
    preference: FloatArray,
    length: FloatArray,
    baseline_length: FloatArray,
    difficulty: FloatArray | None = None,
    gamed: Gamed | None = None,
) -> FloatArray:
    """Preferences as they would be between responses of equal length.

    Args:
        preference: (N,) for the model, in [0, 1], without NaN.
        length: (N,) characters of the model's responses.
        baseline_length: (N,) of the baseline's.
        difficulty: (N,) of the prompts, where it is known.
        gamed: regularisation towards the baseline; needs `difficulty`.

    Returns:
        (N,) predicted preferences; the length-controlled win rate is their mean.

    Raises:
        ValueError: there are fewer than five comparisons, or `gamed` comes without `difficulty`.
    """
    if len(preference) < _FOLDS:
        raise ValueError(f"{len(preference)} comparisons, and cross-validation needs {_FOLDS}")
    if gamed is not None and difficulty is None:
        raise ValueError("`gamed` needs the difficulty of the prompts")
    features = _features(_standardised(baseline_length - length), difficulty, 1.0)
    equal = _features(np.zeros(len(preference)), difficulty, 1.0)
    weight = np.ones(len(preference))
    if gamed is not None:
        more = _features(gamed.delta, gamed.difficulty, 0.0)
        features = np.concatenate([more, features])
        preference = np.concatenate([gamed.preference, preference])
        weight = np.concatenate([np.full(len(more), GAMED_WEIGHT / 2), weight])
    predicted: FloatArray = _fit(features, preference, weight).predict_proba(equal)[:, 1]
    return predicted


def _standardised(delta: FloatArray) -> FloatArray:
    """The difference of lengths over its standard deviation; zeros where all are equal."""
    spread = float(delta.std(ddof=1))
    return delta / spread if spread > 0 else np.zeros(len(delta))


def _features(delta: FloatArray, difficulty: FloatArray | None, own: float) -> FloatArray:
    """(N, F): tanh of the length, difficulty where it is known, and whether it is the model's."""
    columns = [np.tanh(delta), np.full(len(delta), own)]
    if difficulty is not None:
        columns.insert(1, difficulty)
    return np.column_stack(columns)


def _fit(features: FloatArray, preference: FloatArray, weight: FloatArray) -> Any:
    """The penalised regression, at the strength with the best held-out log-likelihood.

    A preference of p counts as a win of weight p and a loss of weight 1 - p.
    """
    from sklearn.model_selection import GroupKFold

    count = len(preference)
    doubled = np.concatenate([features, features])
    outcome = np.repeat([1, 0], count)
    weights = np.concatenate([preference, 1.0 - preference]) * np.tile(weight, 2)
    folds = list(GroupKFold(_FOLDS).split(doubled, groups=np.tile(np.arange(count), 2)))
    scores = [
        sum(
            _score(
                _regression(strength, doubled[train], outcome[train], weights[train]),
                doubled[test],
                np.tile(preference, 2)[test],
                np.tile(weight, 2)[test],
            )
            for train, test in folds
        )
        for strength in _STRENGTHS
    ]
    return _regression(float(_STRENGTHS[int(np.argmax(scores))]), doubled, outcome, weights)


def _regression(
    strength: float, features: FloatArray, outcome: npt.NDArray[Any], weight: FloatArray
) -> Any:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(
        C=strength, l1_ratio=1.0, solver="liblinear", fit_intercept=False, random_state=_SEED
    )
    return model.fit(features, outcome, sample_weight=weight)


def _score(model: Any, features: FloatArray, preference: FloatArray, weight: FloatArray) -> float:
    """Weighted mean log-likelihood of preferences."""
    predicted = np.clip(model.predict_proba(features)[:, 1], 1e-15, 1 - 1e-15)
    likelihood = preference * np.log(predicted) + (1 - preference) * np.log(1 - predicted)
    return float(np.mean(likelihood * weight))
