"""Rows from sentences, against sums over lists."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from axolotl_ual.errors import ConfigError
from axolotl_ual.labels.smoothing import solve_smoothing
from axolotl_ual.preprocess.labels.sentences import Scored

Row = list[tuple[int, float]]
"""Characters and uncertainty of each sentence."""

unit = st.floats(0.0, 1.0, width=16) | st.just(math.nan)
rows_of = st.lists(
    st.lists(st.tuples(st.integers(1, 50), unit), min_size=1, max_size=5), min_size=1, max_size=8
)


class _Sentences:
    """What `Scored.of` reads of sentences."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = len(rows)
        self.row_S = np.asarray([n for n, row in enumerate(rows) for _ in row])
        self.end_S = np.concatenate([np.cumsum([size for size, _ in row]) for row in rows])
        sizes = [[size for size, _ in row] for row in rows]
        self.share_S = np.asarray([one / sum(own) for own in sizes for one in own])


def scored(rows: list[Row]) -> Scored:
    values = np.asarray([value for row in rows for _, value in row], dtype=np.float32)
    return Scored.of(_Sentences(rows), values)


def mean_of(row: Row) -> float:
    known = [(size, float(np.float32(value))) for size, value in row if not math.isnan(value)]
    whole = sum(size for size, _ in known)
    return math.fsum(size * value for size, value in known) / whole if whole else math.nan


def test_a_sentence_counts_by_its_characters() -> None:
    found = scored([[(30, 0.2), (10, 0.6)], [(5, 1.0)]])
    # (30 * 0.2 + 10 * 0.6) / 40 = 0.3
    assert found.means(found.uncertainty_S) == pytest.approx([0.3, 1.0], abs=1e-7)


def test_a_sentence_without_a_score_takes_the_mean_of_its_row() -> None:
    found = scored([[(30, 0.2), (10, math.nan), (10, 0.6)], [(5, math.nan)]])
    assert found.uncertainty_S[:3] == pytest.approx([0.2, 0.3, 0.6], abs=1e-7)
    assert np.isnan(found.uncertainty_S[3])
    column = found.column(np.zeros(4, dtype=np.float32), np.zeros(2, dtype=bool)).to_pylist()
    assert [sentence["end"] for sentence in column[0]] == [30, 40, 50] and column[1] is None
    whole = found.column(np.zeros(4, dtype=np.float32), np.array([True, False]))
    assert whole.to_pylist() == [None, None]


@given(rows_of)
def test_rows_have_the_mean_over_their_characters(rows: list[Row]) -> None:
    found = scored(rows)
    means = found.means(found.uncertainty_S)
    for mean, row in zip(means, rows, strict=True):
        assert mean == pytest.approx(mean_of(row), abs=1e-6, nan_ok=True)


@given(rows_of, st.floats(0.01, 0.3), st.floats(0.31, 0.9))
def test_the_mean_over_rows_is_the_one_that_is_asked_for(
    rows: list[Row], mean: float, cap: float
) -> None:
    found = scored(rows)
    try:
        solved = found.solve(mean, cap, decreasing=False, weight=None)
    except ConfigError:
        assume(False)
    assume(not np.isnan(found.uncertainty_S).all())
    own = []
    for number, row in enumerate(rows):
        values = found.uncertainty_S[found.row_S == number]
        if not np.isnan(values).any():
            sizes = [size for size, _ in row]
            smoothed = [min(solved.scale * float(value), cap) for value in values]
            pairs = zip(sizes, smoothed, strict=True)
            own.append(math.fsum(size * one for size, one in pairs) / sum(sizes))
    assert math.fsum(own) / len(own) == pytest.approx(mean, rel=1e-9)


@given(st.lists(st.tuples(unit, st.lists(st.integers(1, 50), min_size=1)), min_size=1))
def test_sentences_that_agree_are_a_row_to_the_bit(rows: list[tuple[float, list[int]]]) -> None:
    found = scored([[(size, value) for size in sizes] for value, sizes in rows])
    own = np.asarray([value for value, _ in rows], dtype=np.float32)
    assert found.agree
    assert np.array_equal(found.means(found.uncertainty_S), own, equal_nan=True)
    assert not scored([[(3, 0.5), (2, 0.25)]]).agree


@given(rows_of, st.lists(st.integers(0, 3), min_size=8, max_size=8))
def test_a_row_that_is_several_sequences_counts_as_often(rows: list[Row], often: list[int]) -> None:
    weight = np.asarray(often[: len(rows)])
    repeated = [row for row, times in zip(rows, weight, strict=True) for _ in range(times)]
    assume(repeated)
    try:
        expected = scored(repeated).solve(0.1, 0.5, decreasing=False, weight=None)
    except ConfigError:
        with pytest.raises(ConfigError):
            scored(rows).solve(0.1, 0.5, decreasing=False, weight=weight)
    else:
        solved = scored(rows).solve(0.1, 0.5, decreasing=False, weight=weight)
        assert solved.scale == pytest.approx(expected.scale, rel=1e-9)


def test_rows_without_any_score_have_no_part_in_the_map() -> None:
    found = scored([[(4, math.nan)], [(1, 0.1), (1, 0.3)]])
    expected = solve_smoothing([0.1, 0.3], mean=0.1, max=0.5)
    assert found.solve(0.1, 0.5, False, None).scale == pytest.approx(expected.scale, rel=1e-6)


def test_among_others_the_rows_are_placed() -> None:
    found = scored([[(4, 0.1)], [(1, 0.2), (1, 0.2)]]).among(np.asarray([1, 3]), 5)
    assert found.row_S.tolist() == [1, 3, 3]
    assert [
        one is None
        for one in found.column(found.uncertainty_S, np.zeros(5, dtype=bool)).to_pylist()
    ] == [
        True,
        False,
        True,
        False,
        True,
    ]
