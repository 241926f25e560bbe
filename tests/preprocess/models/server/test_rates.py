"""The window over a server's rates, against sorting its last ones anew."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axolotl_ual.preprocess.models.server.rates import Rates


@given(
    st.lists(st.floats(0.01, 100.0) | st.sampled_from([0.25, 0.5]), min_size=1, max_size=60),
    st.integers(1, 21),
)
def test_the_window_is_as_if_its_last_rates_were_sorted_anew(rates: list[float], kept: int) -> None:
    window = Rates(kept)
    for count, rate in enumerate(rates, start=1):
        window.add(rate)
        last = rates[max(0, count - kept) : count]
        assert len(window) == len(last)
        assert window.median == statistics.median(last)
        assert window.percentile(5) == sorted(last)[len(last) // 20]


def test_of_four_rates_the_median_is_between_the_middle_ones() -> None:
    window = Rates(4)
    for rate in (9.0, 1.0, 4.0, 2.0, 3.0):
        window.add(rate)
    assert window.median == pytest.approx(2.5)
