"""Bins, summaries and quantiles, by hand and against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from axolotl_ual.preprocess.report.bins import (
    QUANTILES,
    by_group,
    histogram,
    length_edges,
    nice_edges,
    nice_step,
    place,
    summarise,
    table,
)

NAN = float("nan")


def f32(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_a_summary_by_hand() -> None:
    """Of 0.1, 0.2, 0.2, 0.5: mean 1.0 / 4, deviations -.15, -.05, -.05, .25: their squares add up
    to .09, so the variance is .03. The median lies between 0.2 and 0.2, the quarter at place 0.75:
    0.1 + 0.75 * 0.1.
    """
    found = summarise(f32(0.5, NAN, 0.2, 0.1, 0.2))
    assert (found.rows, found.missing, found.distinct) == (4, 1, 3)
    assert found.mean == pytest.approx(0.25)
    assert found.sd == pytest.approx(0.03**0.5)
    assert (found.least, found.median, found.greatest) == pytest.approx((0.1, 0.2, 0.5))
    assert found.quantiles[2] == pytest.approx(0.175)


def test_nothing_to_summarise() -> None:
    found = summarise(f32(NAN, NAN))
    assert (found.rows, found.missing, found.distinct) == (0, 2, 0)
    assert np.isnan([found.mean, found.sd, *found.quantiles]).all()
    assert np.isnan(summarise(f32(0.5)).sd)


@given(arrays(np.float32, st.integers(1, 40), elements=st.floats(0, 1, width=32)))
def test_a_summary_is_that_of_numpy(values: np.ndarray) -> None:
    found = summarise(values)
    wide = values.astype(np.float64)
    assert found.mean == pytest.approx(wide.mean())
    assert found.quantiles == pytest.approx(np.quantile(wide, (0, *QUANTILES, 1)))
    assert found.distinct == len(set(values.tolist()))


@pytest.mark.parametrize(
    ("width", "most", "step"),
    [(1.0, 50, 0.02), (1.0, 40, 0.05), (1.0, 10, 0.1), (0.5, 49, 0.02), (1237.0, 49, 50.0)],
)
def test_steps_are_nice(width: float, most: int, step: float) -> None:
    """1 / 40 = 0.025, and of 0.01, 0.02, 0.05 the first that is not below it is 0.05."""
    assert nice_step(width, most) == pytest.approx(step)


def test_edges_of_the_unit_interval() -> None:
    assert nice_edges(0.1, 0.9, unit=True) == pytest.approx(np.arange(51) / 50, abs=1e-7)
    # 0.31 to 0.39 is narrow: 0.08 / 49 needs steps of 0.002.
    assert nice_edges(0.31, 0.39, unit=True) == pytest.approx(np.arange(155, 196) / 500, abs=1e-7)


def test_a_decimal_lies_at_its_edge() -> None:
    """In double precision 0.58f is below 0.58: the edges are rounded as the values are."""
    edges = nice_edges(0.0, 1.0, unit=True)
    at = place(f32(0.58, 0.3, 0.0, 1.0, 0.579), edges)
    assert at.tolist() == [29, 15, 0, 49, 28]


@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=30),
    st.integers(5, 60),
    st.booleans(),
)
def test_every_value_has_a_bin(values: list[float], most: int, unit: bool) -> None:
    array = f32(*values)
    edges = nice_edges(float(array.min()), float(array.max()), unit, most)
    assert (np.diff(edges) > 0).all()
    assert edges.size - 1 <= most + 1
    assert histogram(array, edges).sum() == array.size


def test_a_histogram_by_hand() -> None:
    """[0, 1), [1, 2), [2, 3]: the last bin is closed; NaN and what is outside do not count."""
    counts = histogram(f32(0, 0.5, 1, 2, 3, 3.5, -1, NAN), np.array([0.0, 1.0, 2.0, 3.0]))
    assert counts.tolist() == [2, 1, 2]


def test_lengths_double_in_two_steps() -> None:
    """Powers of the root of two, rounded: 1, 1.4, 2, 2.8, 4, 5.7, 8, 11.3."""
    assert length_edges(9).tolist() == [0, 1, 2, 3, 4, 6, 8, 11]
    assert place(f32(0, 1, 5, 9), length_edges(9)).tolist() == [0, 1, 4, 6]


@given(st.integers(0, 10_000_000))
def test_every_length_has_a_bin(greatest: int) -> None:
    edges = length_edges(greatest)
    assert place(np.array([greatest], dtype=np.float64), edges)[0] >= 0
    assert edges[-2] <= max(greatest, 1)


def test_groups_by_hand() -> None:
    """Group 0: 0, 1, 2, 3, 4, with quantiles 0.2, 1, 2, 3, 3.8; group 1 is empty; group 2: 7."""
    values = f32(4, 7, 0, NAN, 2, 1, 3, 9)
    groups = by_group(values, np.array([0, 2, 0, 0, 0, 0, 0, -1]), 3)
    assert groups.rows.tolist() == [5, 0, 1]
    assert groups.quantiles[0] == pytest.approx([0.2, 1, 2, 3, 3.8])
    assert groups.mean[[0, 2]].tolist() == [2, 7]
    assert groups.quantiles[2].tolist() == [7] * 5
    assert np.isnan(groups.mean[1]) and np.isnan(groups.quantiles[1]).all()


def test_a_table_by_hand() -> None:
    """(0, 1) twice, (1, 0) once; a place of -1 on either side does not count."""
    counts = table(np.array([0, 0, 1, -1, 1]), np.array([1, 1, 0, 0, -1]), (2, 2))
    assert counts.tolist() == [[0, 2], [1, 0]]
