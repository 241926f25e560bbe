"""Agreement of estimators, of a panel's members, of dimensions: every two of some columns.

Spearman's rank correlation and the mean absolute difference, over the rows that have both.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..labels.agreement import rank_correlation
from .bins import Values
from .charts import ACCENT, named_axis
from .figure import Figure, count, number, plotly_text
from .names import name_of


@dataclass(frozen=True, slots=True)
class Pairing:
    """Two quantities over the rows that have both.

    Attributes:
        one: name of a column.
        other: name of another.
        rows: that have both.
        correlation: Spearman's rho; NaN below two rows, or where one side is constant.
        difference: mean absolute difference; NaN where no row has both.
    """

    one: str
    other: str
    rows: int
    correlation: float
    difference: float


def pairings(columns: Mapping[str, Values]) -> list[Pairing]:
    """Each two of some columns, in their order."""
    return [
        compare(one, other, columns[one], columns[other])
        for one, other in itertools.combinations(columns, 2)
    ]


def compare(one: str, other: str, one_N: Values, other_N: Values) -> Pairing:
    """Two columns of N rows."""
    both = np.isfinite(one_N) & np.isfinite(other_N)
    first, second = one_N[both].astype(np.float64), other_N[both].astype(np.float64)
    rows = int(both.sum())
    difference = float(np.abs(first - second).mean()) if rows else float("nan")
    correlation = rank_correlation(first, second) if rows > 1 else float("nan")
    return Pairing(one, other, rows, correlation, difference)


def matrix_figure(
    identity: str, title: str, columns: Sequence[str], found: Sequence[Pairing], note: str = ""
) -> Figure:
    """Rank correlations of every two columns."""
    names = [name_of(column) for column in columns]
    z: list[list[float | None]] = [
        [1.0 if i == j else None for j in range(len(names))] for i in range(len(names))
    ]
    for pairing in found:
        i, j = columns.index(pairing.one), columns.index(pairing.other)
        z[i][j] = z[j][i] = None if np.isnan(pairing.correlation) else pairing.correlation
    heat = {
        "type": "heatmap",
        "z": z,
        "zmin": -1,
        "zmax": 1,
        "colorscale": [[0, "--exploratory"], [0.5, "--card"], [1, ACCENT]],
        "text": [["" if v is None else f"{v:.2f}" for v in line] for line in z],
        "texttemplate": "%{text}",
        "hoverinfo": "none",
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
    }
    return Figure(
        identity,
        title,
        [heat],
        {
            "yaxis": named_axis(names),
            "xaxis": {
                **named_axis(names),
                "ticktext": [plotly_text(name).replace(" ", "<br>") for name in names],
                "range": [-0.5, len(names) - 0.5],
                "tickangle": 0,
            },
        },
        ["one", "other", "rows", "rank correlation", "mean difference"],
        [
            [
                name_of(p.one),
                name_of(p.other),
                count(p.rows),
                number(p.correlation),
                number(p.difference),
            ]
            for p in found
        ],
        note=note,
        height=110 + 46 * len(names),
    )
