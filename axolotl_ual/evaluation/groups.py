"""Groups of held-out rows: by the values of a column, or by quantiles of a number."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]
BoolArray = npt.NDArray[np.bool_]

ALL: Final = "all"
MOST_VALUES: Final = 12
"""A column with more distinct values makes no groups."""


def by_value(name: str, values: list[Any]) -> dict[str, BoolArray]:
    """Groups of equal values; missing ones are in none.

    Raises:
        ValueError: there are more than MOST_VALUES of them.
    """
    known = sorted({str(value) for value in values if value is not None})
    if len(known) > MOST_VALUES:
        raise ValueError(f"{len(known)} distinct values, and at most {MOST_VALUES} make groups")
    texts = np.array([None if value is None else str(value) for value in values], dtype=object)
    return {f"{name} = {value}": np.asarray(texts == value, dtype=bool) for value in known}


def by_quantile(name: str, values: FloatArray, number: int) -> dict[str, BoolArray]:
    """Groups of about equal size, from the least to the greatest; equal values stay together.

    Args:
        name: of the quantity.
        values: (R,), NaN where there is none.
        number: of groups, at least 1; fewer where equal values fill more than one.
    """
    known = np.isfinite(values)
    if not known.any():
        return {}
    ordered = np.sort(values[known])
    last = (np.arange(1, number) * len(ordered)) // number - 1
    edges = np.unique(ordered[last[last >= 0]])
    edges = edges[edges < ordered[-1]]
    place = np.searchsorted(edges, values, side="left")
    groups = {}
    for index in range(len(edges) + 1):
        members = known & (place == index)
        low, high = float(values[members].min()), float(values[members].max())
        groups[f"{name} {index + 1}/{len(edges) + 1} [{low:.3g}, {high:.3g}]"] = members
    return groups
