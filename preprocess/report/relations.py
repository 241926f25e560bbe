"""Charts of how one quantity goes with another: within groups, along lengths, mapped."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from .bins import FloatArray, Groups, IntArray
from .charts import ACCENT, named_axis, range_filter
from .figure import Figure, Filter, count, decimals, interval, number, plotly_text
from .names import name_of

ENOUGH: Final = 5
"""Rows from which on quantiles are drawn; the table has them all."""


def ranges_figure(
    identity: str,
    title: str,
    labels: Sequence[str],
    groups: Groups,
    *,
    head: Sequence[str],
    axis: str,
    note: str = "",
    filters: Sequence[Filter] = (),
) -> Figure:
    """A quantity within groups: 5 to 95 %, 25 to 75 % and the median, a line for each group."""
    places = list(range(len(labels)))
    q = np.nan_to_num(groups.quantiles)
    hover = [
        f"{plotly_text(label)}<br>median {number(m)}, middle half {interval(low, high, 3)}"
        f"<br>{count(int(n))} rows"
        for label, n, (_, low, m, high, _) in zip(labels, groups.rows, q, strict=True)
    ]
    common = {"orientation": "h", "y": places, "customdata": places}

    def band(low: int, high: int, colour: str, width: float) -> dict[str, Any]:
        return {
            "type": "bar",
            **common,
            "base": q[:, low].tolist(),
            "x": (q[:, high] - q[:, low]).tolist(),
            "width": width,
            "marker": {"color": colour},
            "hovertext": hover,
            "hoverinfo": "text",
        }

    median = {
        "type": "scatter",
        "mode": "markers",
        "y": places,
        "x": q[:, 2].tolist(),
        "customdata": places,
        "marker": {"color": "--card", "size": 9, "line": {"color": ACCENT, "width": 3}},
        "hovertext": hover,
        "hoverinfo": "text",
    }
    rows = [
        [label, count(int(n)), number(mean), *(number(value) for value in quantiles)]
        for label, n, mean, quantiles in zip(
            labels, groups.rows, groups.mean, groups.quantiles, strict=True
        )
    ]
    return Figure(
        identity,
        title,
        [band(0, 4, "--band", 0.16), band(1, 3, "--accent-soft", 0.5), median],
        {
            "barmode": "overlay",
            "showlegend": False,
            "xaxis": {"title": {"text": axis}, "rangemode": "tozero"},
            "yaxis": named_axis(labels),
        },
        [*head, "rows", "mean", "5 %", "25 %", "median", "75 %", "95 %"],
        rows,
        note=note,
        filters=filters,
        height=80 + 32 * len(places),
    )


def density_figure(
    identity: str,
    title: str,
    x_edges: FloatArray,
    y_edges: FloatArray,
    counts: IntArray,
    groups: Groups,
    *,
    x: str,
    y: str,
    x_title: str,
    whole: bool = True,
    unit: str = "rows",
    note: str = "",
) -> Figure:
    """How often two quantities go together, with the median of one along the other.

    Args:
        identity: `id` of the figure.
        title: of it.
        x_edges: bins of whole numbers.
        y_edges: bins of the other quantity.
        counts: shape (x bins, y bins).
        groups: quantiles of y in each x bin.
        x: column of the table of rows.
        y: another.
        x_title: of the axis, with the unit.
        whole: whether x is whole numbers.
        unit: what is counted.
        note: below the title.
    """
    filled = np.flatnonzero(counts.sum(axis=1))
    shown = slice(int(filled[0]), int(filled[-1]) + 1) if filled.size else slice(0, 1)
    counts, edges = counts[shown], x_edges[shown.start : shown.stop + 1]
    quantiles, rows = groups.quantiles[shown], groups.rows[shown]
    x_digits = 0 if whole else decimals(float(np.diff(edges).min()))
    names = [
        whole_numbers(int(a), int(b)) if whole else interval(a, b, x_digits)
        for a, b in itertools.pairwise(edges)
    ]
    places = np.arange(len(names)) + 0.5
    digits = decimals(float(np.diff(y_edges).min()))
    cells: list[Filter] = []
    where = np.full(counts.T.shape, -1)
    for j, i in zip(*np.nonzero(counts.T), strict=True):
        where[j, i] = len(cells) + len(names)
        cells.append([*range_filter(x, edges, int(i)), *range_filter(y, y_edges, int(j))])
    heat = {
        "type": "heatmap",
        "x": list(range(len(names) + 1)),
        "y": y_edges.tolist(),
        "z": [[None if n == 0 else float(np.sqrt(n)) for n in line] for line in counts.T],
        "customdata": where.tolist(),
        "hovertext": [
            [
                f"{names[i]}<br>{name_of(y)} {interval(y_edges[j], y_edges[j + 1], digits)}"
                f"<br>{count(int(n))} {unit}"
                for i, n in enumerate(line)
            ]
            for j, line in enumerate(counts.T)
        ],
        "hoverinfo": "text",
        "showscale": False,
        "zmin": 0,
        "colorscale": [[0, "--heat-low"], [1, "--heat-high"]],
        "hoverongaps": False,
    }
    lines = [
        {
            "type": "scatter",
            "mode": "lines+markers" if column == 2 else "lines",
            "name": label,
            "x": places.tolist(),
            "y": [
                float(v) if n >= ENOUGH else None
                for v, n in zip(quantiles[:, column], rows, strict=True)
            ],
            "line": {"color": "--ink", "width": 2.5 if column == 2 else 1, "dash": dash},
            "marker": {"size": 5},
            "hoverinfo": "skip",
        }
        for column, label, dash in ((2, "median", "solid"), (1, "25 %", "dot"), (3, "75 %", "dot"))
    ]
    ticks = _ticks(len(edges))
    return Figure(
        identity,
        title,
        [heat, *lines],
        {
            "showlegend": False,
            "xaxis": {
                "title": {"text": x_title},
                "tickvals": ticks,
                "ticktext": [
                    _compact(edges[t]) if whole else number(edges[t], x_digits) for t in ticks
                ],
                "range": [0, len(names)],
            },
            "yaxis": {"title": {"text": name_of(y)}},
        },
        [x_title, unit, "5 %", "25 %", "median", "75 %", "95 %"],
        [
            [name, count(int(n)), *(number(value) for value in q)]
            for name, n, q in zip(names, rows, quantiles, strict=True)
        ],
        note=note,
        filters=[*(range_filter(x, edges, i) for i in range(len(names))), *cells],
        row_filters=list(range(len(names))),
        height=320,
        wide=True,
    )


def map_figure(
    identity: str,
    title: str,
    x: FloatArray,
    y: FloatArray,
    rows: IntArray,
    edges: FloatArray,
    *,
    column: str,
    y_title: str,
    curve: tuple[Sequence[float], Sequence[float]] | None,
    note: str = "",
) -> Figure:
    """Mean smoothing within bins of what it is made from.

    Args:
        identity: `id` of the figure.
        title: of it.
        x: mean of the quantity in each bin, NaN where a bin is empty.
        y: mean smoothing in each bin.
        rows: in each bin.
        edges: of the bins.
        column: the quantity.
        y_title: of the axis.
        curve: points of the map that the manifest states, or None.
        note: below the title.
    """
    (filled,) = np.nonzero(rows)
    largest = max(int(rows.max(initial=1)), 1)
    digits = decimals(float(np.diff(edges).min()))
    points = {
        "type": "scatter",
        "mode": "markers" if curve else "lines+markers",
        "name": "rows",
        "x": x[filled].tolist(),
        "y": y[filled].tolist(),
        "customdata": list(range(len(filled))),
        "hovertext": [
            f"{name_of(column)} {interval(edges[i], edges[i + 1], digits)}<br>{y_title} "
            f"{number(y[i], 4)}<br>{count(int(rows[i]))} rows"
            for i in filled
        ],
        "hoverinfo": "text",
        "line": {"color": "--band", "width": 1.5},
        "marker": {
            "color": ACCENT,
            "size": [6 + 12 * float(np.sqrt(rows[i] / largest)) for i in filled],
            "opacity": 0.8,
            "line": {"width": 0},
        },
    }
    traces: list[dict[str, Any]] = [points]
    if curve is not None:
        line = {
            "type": "scatter",
            "mode": "lines",
            "name": "map",
            "x": list(curve[0]),
            "y": list(curve[1]),
            "line": {"color": "--quiet", "width": 1.5, "dash": "dot"},
            "hoverinfo": "skip",
        }
        traces.insert(0, line)
    return Figure(
        identity,
        title,
        traces,
        {
            "showlegend": False,
            "xaxis": {"title": {"text": name_of(column)}},
            "yaxis": {"title": {"text": y_title}, "rangemode": "tozero"},
        },
        [name_of(column), "rows", f"mean {name_of(column)}", f"mean {y_title}"],
        [
            [
                interval(edges[i], edges[i + 1], digits),
                count(int(rows[i])),
                number(x[i]),
                number(y[i], 4),
            ]
            for i in filled
        ],
        note=note,
        filters=[range_filter(column, edges, int(i)) for i in filled],
    )


def whole_numbers(low: int, end: int) -> str:
    """The whole numbers from `low` to below `end`."""
    return count(low) if end - low == 1 else f"{count(low)} to {count(end - 1)}"


def _ticks(edges: int) -> list[int]:
    step = max(1, edges // 10)
    return list(range(0, edges, step))


def _compact(value: float) -> str:
    if value < 10_000:
        return f"{value:,.0f}"
    return f"{value / 1000:,.0f}k" if value < 1e6 else f"{value / 1e6:,.1f}M"
