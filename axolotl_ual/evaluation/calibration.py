"""Calibration of next-token predictions.

    ECE = sum_b (n_b / N) * |accuracy_b - confidence_b|

over B bins of predictions sorted by confidence: the probability of the most likely token, which is
correct where it is the token that follows (Naeini et al. 2015, "Obtaining well calibrated
probabilities using Bayesian binning"; Guo et al. 2017, "On calibration of modern neural networks").

Bins have equal mass here: as many predictions in each, so that each is estimated as well as the
others. The rival, bins of equal width, leaves most bins almost empty where most predictions are
sure. With n_b predictions in a bin, chance alone gives it a gap of about sqrt(p (1 - p) / n_b), so
an ECE is seldom 0 on finite data and grows with the number of bins.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def expected_calibration_error(
    confidence: npt.NDArray[np.floating[Any]],
    correct: npt.NDArray[np.bool_],
    num_bins: int = 15,
) -> float:
    """Expected calibration error in [0, 1], over bins of equal mass.

    Args:
        confidence: (N,) in [0, 1]. Equal values may be parted by a bin's edge.
        correct: (N,).
        num_bins: B; fewer where there are fewer predictions.

    Raises:
        ValueError: no predictions, unequal lengths, or no bin.
    """
    if len(confidence) != len(correct):
        raise ValueError(f"{len(confidence)} confidences and {len(correct)} outcomes")
    if len(confidence) == 0 or num_bins < 1:
        raise ValueError("needs at least one prediction and one bin")
    order = np.argsort(confidence, kind="stable")
    gap = (correct.astype(np.float64) - confidence.astype(np.float64))[order]
    bins = np.array_split(gap, min(num_bins, len(gap)))
    return float(sum(abs(part.sum()) for part in bins) / len(gap))
