from __future__ import annotations

import numpy as np

from axolotl_ual.preprocess.labels.remarks import remarks


def test_nothing_to_say_about_uncertainties_that_differ() -> None:
    assert remarks(np.array([0.0, 0.5, 1.0, np.nan]), None, 0.2) == []
    assert remarks(np.array([0.7]), None, 0.2) == []


def test_uncertainties_that_hardly_differ_are_named() -> None:
    # Mean 0.51, deviations 0.01.
    (line,) = remarks(np.array([0.5, 0.52, np.nan], np.float32), "minmax", 0.2)
    assert line.startswith("warning: the uncertainty is nearly the same for all rows (mean 0.510")
    assert "standard deviation 0.0100" in line
    # Deviations of 0.03 are not nothing.
    assert remarks(np.array([0.5, 0.56]), "minmax", 0.2) == []


def test_rank_says_that_only_the_order_counts() -> None:
    (line,) = remarks(np.linspace(0, 1, 9), "rank", 0.2)
    assert "smoothing is 0.2 times that place however far scores are apart" in line
