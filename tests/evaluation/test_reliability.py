from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from axolotl_ual.evaluation.reliability import (
    SCHEMES,
    Scheme,
    assign_bins,
    bin_edges,
    bin_sums,
    expected_error,
    rms_error,
)


def sums(
    confidence: list[float], correct: list[int], num_bins: int, scheme: Scheme
) -> tuple[np.ndarray, np.ndarray]:
    values = np.array(confidence)
    edges = bin_edges(values, num_bins, scheme)
    bins = assign_bins(values, edges)
    rows = np.zeros(len(values), dtype=int)
    count = bin_sums(rows, np.ones(len(values)), bins, 1, len(edges) + 1)
    gap = bin_sums(rows, np.array(correct) - values, bins, 1, len(edges) + 1)
    return count[0], gap[0]


def test_width_by_hand() -> None:
    # Bins (0, .5] and (.5, 1]: confidences .3, .5 with one right: gap 1 - .8 = .2; .9, .7 with one
    # right: 1 - 1.6 = -.6. ECE = (.2 + .6) / 4 = .2. RMS^2 = (.04 / 2 + .36 / 2) / 4 = .05.
    count, gap = sums([0.3, 0.5, 0.9, 0.7], [1, 0, 1, 0], 2, "width")
    assert count.tolist() == [2, 2] and gap == pytest.approx([0.2, -0.6])
    assert expected_error(count, gap) == pytest.approx(0.2)
    assert rms_error(count, gap) == pytest.approx(np.sqrt(0.05))


def test_mass_by_hand() -> None:
    # Halves {.6, .7} and {.8, .9}: gaps 1 - 1.3 = -.3 and 2 - 1.7 = .3: ECE .6 / 4 = .15.
    count, gap = sums([0.9, 0.6, 0.8, 0.7], [1, 1, 1, 0], 2, "mass")
    assert count.tolist() == [2, 2] and gap == pytest.approx([-0.3, 0.3])
    assert expected_error(count, gap) == pytest.approx(0.15)


def test_equal_confidences_are_not_parted() -> None:
    # Half are right at confidence .5, so calibration is perfect whatever the order and the bins.
    for scheme in SCHEMES:
        count, gap = sums([0.5] * 6, [1, 1, 1, 0, 0, 0], 3, scheme)
        assert count.max() == 6
        assert expected_error(count, gap) == rms_error(count, gap) == 0


def test_no_prediction_has_no_calibration() -> None:
    assert np.isnan(expected_error(np.zeros(3), np.zeros(3)))
    assert np.isnan(rms_error(np.zeros(3), np.zeros(3)))


def test_against_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.02, 0.98, 400)
    correct = rng.uniform(size=400) < confidence**1.3
    for scheme, theirs in zip(SCHEMES, ("uniform", "quantile"), strict=True):
        count, gap = sums(confidence.tolist(), correct.astype(int).tolist(), 10, scheme)
        accuracy, mean = calibration_curve(correct, confidence, n_bins=10, strategy=theirs)
        assert gap / count == pytest.approx(accuracy - mean)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40),
    st.integers(1, 12),
    st.sampled_from(SCHEMES),
)
def test_every_prediction_is_in_one_bin(
    predictions: list[tuple[float, bool]], num_bins: int, scheme: Scheme
) -> None:
    confidence = [c for c, _ in predictions]
    count, gap = sums(confidence, [int(right) for _, right in predictions], num_bins, scheme)
    assert count.sum() == len(predictions) and len(count) <= num_bins
    # ECE is a mean of absolute gaps, RMS their root mean square.
    assert 0 <= expected_error(count, gap) <= rms_error(count, gap) + 1e-12 <= 1 + 1e-12
