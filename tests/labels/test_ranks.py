from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from axolotl_ual.labels.ranks import (
    MAPPINGS,
    average_ranks,
    clipped,
    minmax,
    rank,
    ratio,
)

finite = st.floats(allow_nan=False, allow_infinity=False)
SPREAD = sorted(set(MAPPINGS) - {"ratio"})
"""Those that use the whole of [0, 1]."""
scores = st.lists(st.one_of(finite, st.just(float("nan"))), min_size=1, max_size=40)


def test_average_ranks_by_hand() -> None:
    # Sorted: 1, 2, 2, 5. The two 2s take up ranks 2 and 3 and share 2.5.
    assert average_ranks(np.array([2.0, 5.0, 1.0, 2.0])).tolist() == [2.5, 4.0, 1.0, 2.5]


def test_rank_by_hand() -> None:
    # Ranks 2.5, 4, 1, 2.5 as above; (r - 1) / 3 = 0.5, 1, 0, 0.5. The NaN takes no rank.
    mapped = rank(np.array([2.0, 5.0, np.nan, 1.0, 2.0]))
    assert mapped.dtype == np.float32
    np.testing.assert_array_equal(mapped, np.array([0.5, 1, np.nan, 0, 0.5], np.float32))


def test_rank_with_ties_at_both_ends() -> None:
    # 0, 0, 1, 3, 3 have ranks 1.5, 1.5, 3, 4.5, 4.5; scaled by (r - 1.5) / 3.
    np.testing.assert_array_equal(rank(np.array([0.0, 0, 1, 3, 3])), [0, 0, 0.5, 1, 1])


def test_minmax_by_hand() -> None:
    # (x - 1) / (5 - 1) for x = 1, 2, 5.
    np.testing.assert_array_equal(minmax(np.array([1.0, 2.0, 5.0])), [0, 0.25, 1])


def test_clipped_by_hand() -> None:
    # 0, 1, ..., 19 and a million: the 5th and 95th percentile of 21 scores are the second and the
    # last but one, 1 and 19. (x - 1) / 18, limited: 0 -> 0, 10 -> 1/2, 1e6 -> 1.
    mapped = clipped(np.array([*range(20), 1e6, np.nan]))
    np.testing.assert_allclose(mapped[[0, 1, 10, 19, 20]], [0, 0, 0.5, 1, 1], rtol=1e-6)
    assert np.isnan(mapped[21])


def test_clipped_where_nearly_all_scores_are_one() -> None:
    # Both percentiles are 2: what differs lies on either side of the middle.
    np.testing.assert_array_equal(clipped(np.array([0.0, *[2.0] * 50, 7.0])), [0, *[0.5] * 50, 1])


def test_ratio_by_hand() -> None:
    mapped = ratio(np.array([1.0, 4.0, np.nan, 0.0]))
    assert mapped.dtype == np.float32
    np.testing.assert_array_equal(mapped, np.array([0.25, 1, np.nan, 0], np.float32))
    assert ratio(np.zeros(2)).tolist() == [0, 0] and ratio(np.array([])).tolist() == []


@pytest.mark.parametrize("name", SPREAD)
def test_equal_scores_are_in_the_middle(name: str) -> None:
    assert MAPPINGS[name](np.array([3.0])).tolist() == [0.5]
    assert MAPPINGS[name](np.array([3.0, 3.0])).tolist() == [0.5, 0.5]
    assert MAPPINGS[name](np.array([])).tolist() == []


@pytest.mark.parametrize("name", SPREAD)
@given(values=scores)
@example(values=[0.0, 5e-324])
@example(values=[-1.7e308, 0.0, 1.7e308])
def test_mappings_keep_order_and_bounds(name: str, values: list[float]) -> None:
    array = np.array(values)
    mapped = MAPPINGS[name](array)
    known = ~np.isnan(array)
    assert np.array_equal(np.isnan(mapped), ~known)
    if not known.any():
        return
    assert mapped[known].min() >= 0 and mapped[known].max() <= 1
    if array[known].min() < array[known].max():
        assert mapped[known].min() == 0 and mapped[known].max() == 1
    order = np.argsort(array[known])
    assert (np.diff(mapped[known][order]) >= 0).all()


@given(values=st.lists(st.integers(-1000, 1000), min_size=2, max_size=30))
def test_rank_sees_only_the_order(values: list[int]) -> None:
    # x -> x^3 keeps order and ties.
    array = np.array(values, dtype=np.float64)
    assert np.array_equal(rank(array), rank(array**3))
    assert np.allclose(rank(array), 1 - rank(-array), atol=1e-6)
