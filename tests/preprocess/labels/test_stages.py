from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from axolotl_ual.preprocess.labels.stages import assign_stages, stage_counts


def test_tertiles_of_nine_values() -> None:
    codes = assign_stages([0.9, 0.1, 0.5, 0.2, 0.8, 0.4, 0.3, 0.7, 0.6])
    assert codes.tolist() == [2, 0, 1, 0, 2, 1, 0, 2, 1]
    assert stage_counts(codes) == {"conservative": 3, "moderate": 3, "exploratory": 3}


def test_a_cut_moves_to_the_nearest_change_of_value() -> None:
    # sorted: 0 0 0 0 | 1 1; changes only at 4. The first cut wants 2 and the second 4:
    # candidates 0, 4 and 6 lie 2, 2 and 4 from 2 (the lower wins), and 4, 0, 2 from 4.
    assert assign_stages([0, 0, 0, 0, 1, 1]).tolist() == [1, 1, 1, 1, 2, 2]


def test_all_equal_share_one_stage() -> None:
    assert len(set(assign_stages([0.5] * 10).tolist())) == 1


def test_thresholds_are_inclusive_below() -> None:
    codes = assign_stages([0.0, 0.2, 0.21, 0.6, 0.61, 1.0], thresholds=(0.2, 0.6))
    assert codes.tolist() == [0, 0, 1, 1, 2, 2]


def test_unknown_goes_to_the_middle() -> None:
    codes = assign_stages([0.0, float("nan"), 0.5, 1.0])
    assert codes[1] == 1


@given(st.lists(st.integers(0, 12), min_size=1, max_size=200))
def test_order_ties_and_balance(values: list[int]) -> None:
    codes = assign_stages(values)
    by_value = {value: set(codes[np.array(values) == value].tolist()) for value in values}
    assert all(len(stages) == 1 for stages in by_value.values())
    assert np.all(np.diff(codes[np.argsort(values, kind="stable")]) >= 0)
    largest_tie = max(values.count(value) for value in values)
    for below in (np.count_nonzero(codes == 0), np.count_nonzero(codes <= 1)):
        target = len(values) / 3 if below == np.count_nonzero(codes == 0) else len(values) * 2 / 3
        assert abs(below - target) <= largest_tie
