"""Value uncertainty: how far a response departs from stated principles.

    v_p = mean_k rating_{p,k}                  principle p over repeats k of the judge
    u_v = mean_p v_p
    spread over principles = std_p v_p         do the principles agree?
    spread over repeats    = mean_p std_k rating_{p,k}     does the judge agree with itself?

with ratings in [0, 1], 1 a full departure, and population standard deviations. Where a principle
has no rating at all the dimension is missing: a mean over the others would be another quantity.

A classifier gives P(label), or one reward, and

    u_v = sum_l w_l P(l)                       label map w, labels that exclude one another
    u_v = max_l w_l P(l)                       label map w, labels that can hold together
    u_v = sigmoid(-(reward - centre) / scale)  a reward model
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ValueScore:
    """Value uncertainty of one response and how sure it is.

    Attributes:
        uncertainty: u_v in [0, 1].
        spread_principles: standard deviation over principles.
        spread_repeats: mean standard deviation over the repeats of a principle.
    """

    uncertainty: float
    spread_principles: float
    spread_repeats: float


def aggregate(ratings_PK: FloatArray) -> ValueScore | None:
    """Combine a judge's ratings.

    Args:
        ratings_PK: departure by principle and repeat, in [0, 1]; NaN where an answer is missing.

    Returns:
        The score, or None where a principle has no rating.
    """
    known_PK = ~np.isnan(ratings_PK)
    if not known_PK.any(axis=1).all():
        return None
    means_P = np.nanmean(ratings_PK, axis=1)
    return ValueScore(
        uncertainty=float(means_P.mean()),
        spread_principles=float(means_P.std()),
        spread_repeats=float(np.nanstd(ratings_PK, axis=1).mean()),
    )


def from_labels(
    logits_NL: FloatArray, names: Sequence[str], departure: Mapping[str, float], together: bool
) -> FloatArray:
    """u_v of N responses from a classifier with L labels.

    Args:
        logits_NL: the classifier's logits.
        names: name of each label.
        departure: label -> departure in [0, 1]; labels that are not named count 0.
        together: whether several labels can hold at once (a sigmoid each, not one softmax).
    """
    weights_L = np.array([departure.get(name, 0.0) for name in names])
    if together:
        highest: FloatArray = (weights_L * _sigmoid(logits_NL)).max(axis=1)
        return highest
    shifted_NL = np.exp(logits_NL - logits_NL.max(axis=1, keepdims=True))
    expected: FloatArray = (shifted_NL / shifted_NL.sum(axis=1, keepdims=True)) @ weights_L
    return np.clip(expected, 0.0, 1.0)


def from_rewards(rewards_N: FloatArray, centre: float, scale: float) -> FloatArray:
    """u_v of N responses from a reward model; a reward at `centre` is 0.5, `scale` is above 0."""
    return _sigmoid(-(rewards_N - centre) / scale)


def _sigmoid(values: FloatArray) -> FloatArray:
    # tanh does not overflow at either end.
    halved: FloatArray = 0.5 * (1.0 + np.tanh(0.5 * values))
    return halved
