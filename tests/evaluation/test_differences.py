from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from axolotl_ual.evaluation.differences import (
    Spread,
    cluster_sums,
    clustered_spread,
    holm,
    seed_spread,
    t_test,
)
from axolotl_ual.evaluation.resampling import Draws, interval, resample


def test_clustered_error_by_hand() -> None:
    # Rows of 1, 1 and 2 tokens; the first two answer one prompt. Differences 1, 3 and 2:
    # delta = 6 / 4 = 1.5. By prompt: 4 - 1.5 * 2 = 1 and 2 - 1.5 * 2 = -1.
    # SE^2 = 2 / 1 * (1 + 1) / 16 = 0.25.
    clusters = np.array([0, 0, 1])
    difference = cluster_sums(np.array([1.0, 3.0, 2.0]), clusters, 2)
    weight = cluster_sums(np.array([1.0, 1.0, 2.0]), clusters, 2)
    assert difference.tolist() == [4, 2] and weight.tolist() == [2, 2]
    assert clustered_spread(difference, weight) == Spread(0.5, 1)


def test_clustered_error_of_single_rows_is_that_of_a_paired_t_test() -> None:
    a, b = np.array([1.0, 4.0, 2.0, 8.0]), np.array([0.5, 5.0, 1.0, 3.0])
    spread = clustered_spread(a - b, np.ones(4))
    assert spread is not None
    found = t_test(float((a - b).mean()), [spread])
    theirs = stats.ttest_rel(a, b)
    assert found is not None and found.p == pytest.approx(float(theirs.pvalue))
    assert found.freedom == pytest.approx(3)


def test_a_prompt_without_tokens_is_no_cluster() -> None:
    with_empty = clustered_spread(np.array([1.0, 3.0, 0.0]), np.array([1.0, 1.0, 0.0]))
    assert with_empty == clustered_spread(np.array([1.0, 3.0]), np.array([1.0, 1.0]))
    assert clustered_spread(np.array([1.0, 0.0]), np.array([1.0, 0.0])) is None


def test_seeds_by_hand() -> None:
    # Paired: differences 1, 2, 3: sd 1, over sqrt(3). Apart: sd 1 each, and sd 0.
    assert seed_spread([2, 4, 6], [1, 2, 3], paired=True) == [
        Spread(pytest.approx(1 / math.sqrt(3)), 2)
    ]
    apart = seed_spread([1, 2, 3], [5, 5], paired=False)
    assert apart == [Spread(pytest.approx(1 / math.sqrt(3)), 2), Spread(0.0, 1)]
    assert seed_spread([1], [2], paired=False) == []


def test_unpaired_seeds_are_welchs_test() -> None:
    a, b = [1.0, 2.0, 4.0], [3.0, 3.5, 7.0, 5.0]
    found = t_test(float(np.mean(a) - np.mean(b)), seed_spread(a, b, paired=False))
    theirs = stats.ttest_ind(a, b, equal_var=False)
    assert found is not None and found.p == pytest.approx(float(theirs.pvalue))
    assert found.freedom == pytest.approx(float(theirs.df))


def test_the_detectable_difference_is_found_with_the_power_it_names() -> None:
    # With so many degrees of freedom the t distribution is normal: 1.95996 + 0.84162 = 2.80159.
    found = t_test(0.0, [Spread(1.0, 1e9)])
    assert found is not None and found.detectable == pytest.approx(2.80159, abs=1e-4)
    assert found.detectable is not None
    rng = np.random.default_rng(0)
    draws = rng.normal(found.detectable, 1.0, 20_000)
    shown = np.mean(np.abs(draws) > stats.norm.ppf(0.975))
    # Five standard deviations of a proportion of 20,000.
    assert shown == pytest.approx(0.8, abs=5 * math.sqrt(0.8 * 0.2 / 20_000))


def test_identical_runs_differ_by_nothing() -> None:
    spread = clustered_spread(np.zeros(3), np.ones(3))
    assert spread == Spread(0.0, 2)
    found = t_test(0.0, [Spread(0.0, 2)])
    assert found is not None and (found.p, found.detectable) == (1.0, None)
    assert t_test(0.0, []) is None
    sure = t_test(0.1, [Spread(0.0, 2)])
    assert sure is not None and sure.p == 0.0


def test_holm_by_hand() -> None:
    # Sorted .01, .02, .03, .04 times 4, 3, 2, 1: .04, .06, .06, .04, and none below the last.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_is_no_weaker_than_bonferroni(p: list[float]) -> None:
    corrected = holm(p)
    assert all(a <= c <= min(1.0, len(p) * a) for a, c in zip(p, corrected, strict=True))
    order = np.argsort(p, kind="stable")
    assert np.all(np.diff(np.array(corrected)[order]) >= 0)


def test_draws_of_prompts() -> None:
    draws = Draws.of(5, seed=3, resamples=200)
    assert np.array_equal(draws.counts, Draws.of(5, seed=3, resamples=200).counts)
    assert not np.array_equal(draws.counts, Draws.of(5, seed=4, resamples=200).counts)
    assert np.all(draws.counts.sum(axis=1) == 5)
    assert np.all(draws.seed_counts(3, arm=0).sum(axis=1) == 3)
    assert np.array_equal(draws.seed_counts(3, arm=0), draws.seed_counts(3, arm=0))
    assert not np.array_equal(draws.seed_counts(3, arm=0), draws.seed_counts(3, arm=1))


def test_a_measure_of_draws_is_the_measure_of_the_rows_drawn() -> None:
    draws = Draws.of(3, seed=0, resamples=50)
    sums = {"y": np.array([1.0, 5.0, 2.0]), "m": np.array([1.0, 2.0, 4.0])}
    values = resample(lambda s: s["y"] / s["m"], sums, draws)
    for counts, value in zip(draws.counts.astype(int), values, strict=True):
        taken = np.repeat(np.arange(3), counts)
        assert value == pytest.approx(sums["y"][taken].sum() / sums["m"][taken].sum())


def test_intervals_cover_as_often_as_they_say() -> None:
    # The mean of 60 standard normal numbers, 400 times: 95 % of the intervals hold 0. A percentile
    # interval of 60 is a little short; five standard deviations of a proportion of 400 are 0.055.
    rng = np.random.default_rng(1)
    draws = Draws.of(60, seed=0, resamples=400)
    holds = 0
    for _ in range(400):
        sums = {"y": rng.normal(size=60), "m": np.ones(60)}
        found = interval(resample(lambda s: s["y"] / s["m"], sums, draws))
        assert found is not None
        holds += found[0] <= 0 <= found[1]
    assert holds / 400 == pytest.approx(0.94, abs=0.055)
    assert interval(np.array([math.nan])) is None
