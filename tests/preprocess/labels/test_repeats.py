"""Agreement of repeated scores: analysis of variance, by hand and against the textbook."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from axolotl_ual.preprocess.labels.repeats import repeats_agree


def test_agreement_by_hand() -> None:
    """Rows (0.1, 0.3) and (0.7, 0.9): means 0.2 and 0.8, both variances 0.02.

    MSW = 0.02, MSB = 2 * 0.18 = 0.36; single (0.36 - 0.02) / (0.36 + 0.02) = 0.8947, mean
    0.34 / 0.36 = 0.9444, which is 2 * 0.8947 / (1 + 0.8947).
    """
    found = repeats_agree(np.array([0.2, 0.8]), np.sqrt([0.02, 0.02]), 2)
    assert found is not None
    assert found.single == pytest.approx(0.34 / 0.38)
    assert found.mean == pytest.approx(0.34 / 0.36)
    assert found.within == pytest.approx(np.sqrt(0.02))
    assert found.between == pytest.approx(np.sqrt(0.18))


@given(arrays(np.float64, (6, 4), elements=st.floats(0, 1)))
def test_agreement_equals_the_textbook(scores: np.ndarray) -> None:
    """Sums of squares as in a table of analysis of variance."""
    n, k = scores.shape
    grand = scores.mean()
    between = k * ((scores.mean(axis=1) - grand) ** 2).sum() / (n - 1)
    within = ((scores - scores.mean(axis=1, keepdims=True)) ** 2).sum() / (n * (k - 1))
    found = repeats_agree(scores.mean(axis=1), scores.std(axis=1, ddof=1), k)
    assert found is not None
    if between + within < 1e-9:
        return
    wanted = (between - within) / (between + (k - 1) * within)
    assert found.single == pytest.approx(wanted, abs=1e-6)


def test_nothing_to_compare() -> None:
    assert repeats_agree(np.array([0.5]), np.array([0.1]), 2) is None
    equal = repeats_agree(np.array([0.5, 0.5]), np.zeros(2), 2)
    assert equal is not None
    assert np.isnan(equal.single) and np.isnan(equal.mean)
