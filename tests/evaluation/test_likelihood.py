from __future__ import annotations

import math

import numpy as np
import pytest

from axolotl_ual.evaluation.likelihood import bootstrap_interval, mean_nll


def test_every_token_weighs_the_same() -> None:
    # (1 + 2 + 3 + 6) / 4 = 3; the mean of the row means would be (2 + 6) / 2 = 4.
    rows = [np.array([1.0, 2.0, 3.0]), np.array([6.0]), np.array([])]
    assert mean_nll(rows) == 3.0
    with pytest.raises(ValueError, match="no token"):
        mean_nll([np.array([])])


def test_sums_in_double_precision() -> None:
    # In fp32 a running sum beyond 2^24 swallows ones.
    rows = [np.ones(100, np.float32), np.array([2.0**24], np.float32)]
    assert mean_nll(rows) == (100 + 2**24) / 101


def test_interval_of_a_mean() -> None:
    # 400 coin flips: the mean is 1/2 with a standard error of sqrt(1/4 / 400) = 0.025, so the 95 %
    # interval is 0.5 -+ 1.96 * 0.025 = [0.451, 0.549].
    flips = np.tile([0.0, 1.0], 200)
    low, high = bootstrap_interval(
        lambda rows: float(flips[rows].mean()), len(flips), seed=0, resamples=4000
    )
    assert low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.004)
    assert high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.004)


def test_equal_seeds_draw_equal_resamples() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=50)

    def interval(seed: int) -> tuple[float, float]:
        return bootstrap_interval(lambda rows: float(values[rows].mean()), 50, seed=seed)

    assert interval(3) == interval(3) != interval(4)
    # The difference of a quantity with itself, taken in pairs, is 0 in every resample.
    assert bootstrap_interval(
        lambda rows: float(values[rows].mean() - values[rows].mean()), 50, seed=0
    ) == (0.0, 0.0)


def test_level() -> None:
    values = np.arange(100.0)

    def width(level: float) -> float:
        low, high = bootstrap_interval(
            lambda rows: float(values[rows].mean()), 100, seed=0, level=level
        )
        return high - low

    assert width(0.5) < width(0.95) < width(0.999)
    assert math.isfinite(width(0.999))
