from __future__ import annotations

import math
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from axolotl_ual.errors import ConfigError
from axolotl_ual.labels.smoothing import solve_smoothing

uncertainties = hnp.arrays(
    np.float32,
    st.integers(1, 300),
    elements=st.one_of(
        st.just(0.0), st.just(1.0), st.floats(0.0009765625, 1.0, width=32, allow_nan=False)
    ),
)


def bisect_slope(u: np.ndarray, mean: float, cap: float) -> float:
    """The slow, obvious way: the mean grows with the slope, so halve an interval 200 times."""
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        if math.fsum(min(middle * float(x), cap) for x in u) / len(u) < mean:
            low = middle
        else:
            high = middle
    return high


def test_without_truncation_the_slope_is_mean_over_mean() -> None:
    # mean u = 0.25, so a = 0.1 / 0.25 = 0.4; the largest is 0.4 * 0.4 = 0.16 < 0.5
    solved = solve_smoothing([0.1, 0.2, 0.3, 0.4], mean=0.1, max=0.5)
    assert solved.scale == pytest.approx(0.4, rel=1e-12)
    assert solved([0.4]) == pytest.approx([0.16], rel=1e-12)


def test_truncated_samples_are_made_up_for_by_the_others() -> None:
    # n = 4, mean 0.2, cap 0.5: the sum is 0.8. Untruncated a = 0.8 / 1.3 = 0.615 would give the
    # first 0.615 > 0.5. With one truncated: a = (0.8 - 0.5) / 0.3 = 1.0, and 1.0 * 0.1 <= 0.5.
    solved = solve_smoothing([1.0, 0.1, 0.1, 0.1], mean=0.2, max=0.5)
    assert solved.scale == pytest.approx(1.0, rel=1e-12)
    assert solved([1.0, 0.1]) == pytest.approx([0.5, 0.1], rel=1e-12)


def test_unknown_uncertainties_do_not_count() -> None:
    with_nan = solve_smoothing([0.1, float("nan"), 0.3], mean=0.1, max=0.5)
    assert with_nan.scale == solve_smoothing([0.1, 0.3], mean=0.1, max=0.5).scale
    assert np.isnan(with_nan([float("nan")]))[0]


def test_decreasing_swaps_certain_and_uncertain() -> None:
    solved = solve_smoothing([0.0, 1.0], mean=0.1, max=0.5, decreasing=True)
    assert solved([0.0, 1.0]) == pytest.approx([0.2, 0.0])


def test_unreachable_mean_says_what_is_reachable() -> None:
    # one of ten above 0: at most 0.5 / 10 = 0.05
    with pytest.raises(ConfigError, match=r"1 of 10 samples.*\n.*0\.05 or less"):
        solve_smoothing([0.0] * 9 + [0.7], mean=0.1, max=0.5)


def test_the_reachable_mean_itself_is_reached() -> None:
    solved = solve_smoothing([0.0, 0.2, 0.9, 0.4], mean=0.375, max=0.5)
    assert solved([0.0, 0.2, 0.9, 0.4]) == pytest.approx([0.0, 0.5, 0.5, 0.5])


def test_zero_mean_smooths_nothing() -> None:
    assert solve_smoothing([0.0, 1.0], mean=0.0, max=0.5)([0.0, 1.0]).tolist() == [0.0, 0.0]


def test_outside_the_range_is_refused() -> None:
    with pytest.raises(ValueError, match="outside"):
        solve_smoothing([0.5, 1.5], mean=0.1, max=0.5)


def test_tiny_uncertainties_beside_ordinary_ones() -> None:
    # n = 12, mean 0.1, cap 0.4: the sum of 1.2 is three times the cap, so the three ordinary ones
    # are truncated and the least of them has just reached the cap: a = 0.4 / 0.29. The nine tiny
    # ones get 1.38 * 8e-18 = 1.1e-17 each.
    solved = solve_smoothing([0.56, 0.29, 0.66] + [8e-18] * 9, mean=0.1, max=0.4)
    assert solved.scale == pytest.approx(0.4 / 0.29, rel=1e-12)
    assert solved([0.56, 0.29, 0.66, 8e-18]) == pytest.approx([0.4, 0.4, 0.4, 1.1e-17], rel=0.01)
    # A little more, and the tiny ones have to make up for it: 12 * 0.11 - 1.2 = 0.12, over 7.2e-17.
    solved = solve_smoothing([0.56, 0.29, 0.66] + [8e-18] * 9, mean=0.11, max=0.4)
    assert solved.scale == pytest.approx(0.12 / 7.2e-17, rel=1e-9)


def test_an_uncertainty_that_no_finite_slope_lifts() -> None:
    # The largest slope is 1.7977e308: 1e-310 of it is 0.017977, and a third of that 0.00599.
    with pytest.raises(ConfigError, match=r"1 of 3 samples.*1e-310.*\n.*0\.00599231045 or less"):
        solve_smoothing([1e-310, 0.0, 0.0], mean=0.1, max=0.4)
    reached = solve_smoothing([1e-310, 0.0, 0.0], mean=0.005, max=0.4)
    assert reached([1e-310]) == pytest.approx([0.015], rel=1e-9)


sizes = st.sampled_from([0.0, 5e-324, 1e-310, 3e-308, 1e-45, 8e-18, 1e-9, 0.3, 1.0])
any_size = st.lists(
    st.one_of(sizes, st.floats(0.0, 1.0), st.floats(0.0, 1e-300)), min_size=1, max_size=40
)


@given(any_size, st.floats(1e-6, 0.5), st.floats(0.05, 0.95))
@example([0.56, 0.29, 0.66] + [8e-18] * 9, 0.1, 0.4)
@example([1e-310, 0.0, 0.0], 0.1, 0.4)
def test_whatever_the_sizes_the_mean_is_reached_or_refused(
    u: list[float], mean: float, cap: float
) -> None:
    # In rational numbers: nothing rounds.
    def exact_mean(slope: float) -> Fraction:
        parts = (min(Fraction(slope) * Fraction(value), Fraction(cap)) for value in u)
        return sum(parts, Fraction(0)) / len(u)

    reachable = exact_mean(sys.float_info.max)
    try:
        solved = solve_smoothing(u, mean, cap)
    except ConfigError:
        assert reachable < Fraction(mean)
        return
    assert math.isfinite(solved.scale)
    assert float(exact_mean(solved.scale)) == pytest.approx(mean, rel=1e-8)
    assert not np.isnan(solved(u)).any()


@given(uncertainties, st.floats(0.001, 0.5), st.floats(0.05, 0.95))
def test_mean_cap_order_and_slope(u: np.ndarray, mean: float, cap: float) -> None:
    assume(mean <= np.count_nonzero(u) * cap / u.size)
    solved = solve_smoothing(u, mean, cap)
    eps = solved(u)
    assert float(eps.mean()) == pytest.approx(mean, rel=1e-9)
    assert float(eps.astype(np.float32).mean(dtype=np.float64)) == pytest.approx(mean, rel=1e-6)
    assert eps.min() >= 0.0 and eps.max() <= cap
    assert np.all(np.diff(eps[np.argsort(u)]) >= 0.0)
    slow = np.minimum(bisect_slope(u, mean, cap) * u.astype(np.float64), cap)
    np.testing.assert_allclose(eps, slow, atol=1e-9)


def test_a_million_samples_keep_the_mean() -> None:
    u = np.random.default_rng(0).beta(0.3, 2.0, 1_000_000).astype(np.float32)
    eps = solve_smoothing(u, 0.1, 0.5)(u).astype(np.float32)
    assert float(eps.mean(dtype=np.float64)) == pytest.approx(0.1, rel=1e-7)


@given(uncertainties, st.data())
def test_a_weight_is_how_often_a_sample_counts(u: np.ndarray, data: st.DataObject) -> None:
    often = data.draw(hnp.arrays(np.int64, len(u), elements=st.integers(1, 4)))
    try:
        expected = solve_smoothing(np.repeat(u, often), mean=0.1, max=0.5)
    except ConfigError:
        with pytest.raises(ConfigError):
            solve_smoothing(u, mean=0.1, max=0.5, weight=often)
    else:
        found = solve_smoothing(u, mean=0.1, max=0.5, weight=often)
        assert found.scale == pytest.approx(expected.scale, rel=1e-9)


def test_weights_are_counted_in_what_is_truncated() -> None:
    # Weight 4, mean 0.2: the sum is 0.8. The first, of weight 1.5, is truncated at 0.4, which is
    # 0.6 in all; 0.2 are left for 2.5 * 0.1 = 0.25, so a = 0.8 (and 0.8 * 1 > 0.4).
    solved = solve_smoothing([1.0, 0.1], mean=0.2, max=0.4, weight=[1.5, 2.5])
    assert solved.scale == pytest.approx(0.8, rel=1e-12)
