from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from axolotl_ual.evaluation.calibration import expected_calibration_error as ece

predictions = st.lists(
    st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=60
).map(lambda pairs: (np.array([p for p, _ in pairs]), np.array([c for _, c in pairs])))


def test_by_hand() -> None:
    # Sorted into two bins of two: confidences {0.1, 0.3}, outcomes {1, 0}: |1/2 - 0.2| = 0.3;
    # {0.7, 0.9}, outcomes {1, 1}: |1 - 0.8| = 0.2. Half the weight each: 0.25.
    confidence = np.array([0.9, 0.1, 0.7, 0.3])
    correct = np.array([True, True, True, False])
    assert ece(confidence, correct, 2) == pytest.approx(0.25)
    # One bin: |3/4 - 0.5| = 0.25. Four bins: (|1 - .1| + |0 - .3| + |1 - .7| + |1 - .9|) / 4.
    assert ece(confidence, correct, 1) == pytest.approx(0.25)
    assert ece(confidence, correct, 4) == pytest.approx((0.9 + 0.3 + 0.3 + 0.1) / 4)


def test_bins_have_equal_mass() -> None:
    # Five predictions in two bins: three and two. {0, 0, 0} all wrong: gap 0; {1, 1}, one right:
    # |1/2 - 1| = 1/2, weight 2/5.
    confidence = np.array([0.0, 0.0, 0.0, 1.0, 1.0])
    correct = np.array([False, False, False, True, False])
    assert ece(confidence, correct, 2) == pytest.approx(0.2)


def test_an_overconfident_guesser() -> None:
    # Always 0.9 sure, right half of the time, in every bin.
    correct = np.tile([True, False], 500)
    assert ece(np.full(1000, 0.9), correct, 10) == pytest.approx(0.4)


def test_fewer_predictions_than_bins() -> None:
    assert ece(np.array([0.25]), np.array([True])) == pytest.approx(0.75)


@given(predictions, st.integers(1, 20))
def test_bounds(pair: tuple[np.ndarray, np.ndarray], num_bins: int) -> None:
    confidence, correct = pair
    value = ece(confidence, correct, num_bins)
    # By the triangle inequality: at least the gap of the means, at most the mean of the gaps.
    assert value >= abs(correct.mean() - confidence.mean()) - 1e-9
    assert value <= np.abs(correct - confidence).mean() + 1e-9
    assert ece(correct.astype(float), correct, num_bins) == 0


@pytest.mark.parametrize(
    ("confidence", "correct", "num_bins"), [([], [], 5), ([0.5], [True, False], 5), ([1], [1], 0)]
)
def test_what_has_no_value(confidence: list[float], correct: list[bool], num_bins: int) -> None:
    with pytest.raises(ValueError):
        ece(np.array(confidence, dtype=float), np.array(correct, dtype=bool), num_bins)
