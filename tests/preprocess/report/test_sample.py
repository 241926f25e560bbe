"""Which rows a page shows: extremes, and what fits of the others."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from axolotl_ual.preprocess.report.keeper import Keeper
from axolotl_ual.preprocess.report.sample import EXTREMES, find_extreme, hashes, priorities

NAN = float("nan")


def f32(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_extremes_by_hand() -> None:
    values = f32(0.5, NAN, 0.9, 0.1, 0.9)
    high = find_extreme("x", "X", "c", values, high=True)
    assert set(high.rows[:2].tolist()) == {2, 4}
    assert high.rows[2:].tolist() == [0, 3]
    assert high.tied == 2
    low = find_extreme("x", "X", "c", values, high=False)
    assert low.rows[:2].tolist() == [3, 0]
    assert low.tied == 1
    assert low.values[:2].tolist() == f32(0.1, 0.5).tolist()


def test_no_extreme_of_nothing() -> None:
    assert find_extreme("x", "X", "c", f32(NAN, NAN), high=True).rows.size == 0


@given(st.lists(st.integers(0, 20), min_size=1, max_size=400), st.booleans())
def test_extremes_are_the_first_of_the_sorted(values: list[int], high: bool) -> None:
    array = f32(*values)
    found = find_extreme("x", "X", "c", array, high=high)
    assert found.values.tolist() == sorted(values, reverse=high)[:EXTREMES]
    assert len(set(found.rows.tolist())) == found.rows.size == min(len(values), EXTREMES)
    assert found.tied == values.count(int(found.values[0]))


def test_ties_are_drawn_and_not_the_first_rows() -> None:
    found = find_extreme("x", "X", "c", np.zeros(10_000, dtype=np.float32), high=True)
    # 50 of 10,000 at random: their mean place is 5,000 with a standard error of 400.
    assert 3_000 < found.rows.mean() < 7_000


def test_extremes_come_before_all_others() -> None:
    values = np.arange(1000, dtype=np.float32)
    low = find_extreme("low", "", "c", values, high=False)
    high = find_extreme("high", "", "c", values, high=True)
    order = np.argsort(priorities(1000, [low, high]), kind="stable")
    assert set(order[:100].tolist()) == {*range(50), *range(950, 1000)}


def test_the_hash_is_that_of_splitmix() -> None:
    """The first outputs of SplitMix64 seeded with 0 (Steele et al. 2014, as in java.util)."""
    step = 0x9E3779B97F4A7C15
    states = np.array([0, step, 2 * step % 2**64], dtype=np.uint64)
    assert [hex(h) for h in hashes(states)] == [
        "0xe220a8397b1dcdaf",
        "0x6e789e6aa1b965f4",
        "0x6c45d188009454f",
    ]


def offer_all(keeper: Keeper, sizes: list[int], priority: np.ndarray) -> None:
    for row, size in enumerate(sizes):
        if keeper.wanted(priority[row : row + 1])[0]:
            keeper.offer(row, int(priority[row]), bytes([row % 256]) * size)


def test_keeping_by_hand() -> None:
    """Ten bytes: rows 0 (6 bytes, priority 5) and 1 (4 bytes, 3) fit; row 2 (4 bytes, 1) pushes row
    0 out, whose priority bounds what is wanted from then on; row 3 (priority 6) is not.
    """
    priority = np.array([5, 3, 1, 6], dtype=np.uint64)
    keeper = Keeper(10)
    offer_all(keeper, [6, 4, 4, 1], priority)
    assert keeper.records() == {1: b"\x01" * 4, 2: b"\x02" * 4}
    assert keeper.wanted(np.array([4, 5, 6], dtype=np.uint64)).tolist() == [True, False, False]


def test_one_row_is_kept_however_large() -> None:
    keeper = Keeper(3)
    offer_all(keeper, [9], np.array([1], dtype=np.uint64))
    assert keeper.records() == {0: b"\0" * 9}


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=80),
    st.integers(1, 300),
    st.integers(1, 40) | st.none(),
)
def test_what_is_kept_has_the_least_priorities(
    sizes: list[int], budget: int, most: int | None
) -> None:
    priority = hashes(np.arange(len(sizes)))
    keeper = Keeper(budget, most)
    offer_all(keeper, sizes, priority)
    kept = keeper.records()
    assert list(kept) == sorted(kept)
    assert all(record == bytes([row % 256]) * sizes[row] for row, record in kept.items())
    assert len(kept) == 1 or sum(map(len, kept.values())) <= budget
    assert most is None or len(kept) <= max(most, 1)
    worst = max(priority[row] for row in kept)
    assert all(row in kept for row in range(len(sizes)) if priority[row] < worst)
