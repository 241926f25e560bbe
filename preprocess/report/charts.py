"""Charts of counts: histograms, and bars by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from axolotl_ual.columns import STAGES

from .bins import FloatArray, IntArray
from .figure import Figure, Filter, count, decimals, interval, plotly_text, share
from .names import name_of, title_of

STAGE_COLOURS: Final = tuple(f"--{stage}" for stage in STAGES)
ACCENT: Final = "--accent"
_COUNT_AXIS: Final = {"title": {"text": "rows"}, "rangemode": "tozero", "tickformat": ",~d"}
_LONGEST_LABEL: Final = 34
_BAR: Final = 0.94
"""Of a bin's width."""


@dataclass(frozen=True, slots=True)
class Series:
    """One set of bars of a histogram.

    Attributes:
        name: in the legend.
        colour: name of a colour of the page.
        counts: int64, rows in each bin.
    """

    name: str
    colour: str
    counts: IntArray


def range_filter(column: str, edges: FloatArray, i: int) -> Filter:
    """Rows in bin i."""
    return [
        {
            "column": column,
            "from": float(edges[i]),
            "to": float(edges[i + 1]),
            "last": i == edges.size - 2,
        }
    ]


def histogram_figure(
    column: str,
    edges: FloatArray,
    series: Sequence[Series],
    *,
    title: str = "",
    note: str = "",
    filtered: str | None = None,
    unit: str = "rows",
    axis: str = "",
    overlaid: bool = False,
    wide: bool = False,
    identity: str = "",
) -> Figure:
    """Counts by bin.

    Args:
        column: what is counted.
        edges: of the bins.
        series: stacked on each other, or laid over each other.
        title: of the figure; empty: the column's.
        note: below it.
        filtered: column of the table of rows that a click filters by; None for none.
        unit: what is counted.
        axis: what the quantity is called; empty: by its column.
        overlaid: whether the series are different quantities in the same bins.
        wide: whether it takes the whole width.
        identity: `id` of the figure; empty: from the column.
    """
    axis = axis or name_of(column)
    digits = decimals(float(np.diff(edges).min()))
    names = [interval(edges[i], edges[i + 1], digits) for i in range(edges.size - 1)]
    centres, widths = (edges[:-1] + edges[1:]) / 2, np.diff(edges)
    total = int(sum(s.counts.sum() for s in series))
    many = len(series) > 1
    traces = [
        {
            "type": "bar",
            "name": s.name,
            "x": np.round(centres, 8).tolist(),
            "y": s.counts.tolist(),
            "width": np.round(widths * _BAR, 8).tolist(),
            "customdata": list(range(len(names))),
            "hoverinfo": "none",
            "marker": {"color": s.colour, "opacity": 0.6 if overlaid and many else 1.0},
        }
        for s in series
    ]
    traces.append(_labels(names, centres, series, unit, overlaid))
    layout = {
        "barmode": "overlay" if overlaid else "stack",
        "hovermode": "x",
        "showlegend": many,
        "xaxis": {"range": [float(edges[0]), float(edges[-1])], "title": {"text": axis}},
        "yaxis": {**_COUNT_AXIS, "title": {"text": unit}},
    }
    counts = [[count(int(s.counts[i])) for s in series] for i in range(len(names))]
    sums = [int(sum(s.counts[i] for s in series)) for i in range(len(names))]
    last = [] if overlaid and many else ["share"]
    return Figure(
        id=identity or f"histogram-{column}".replace("_", "-"),
        title=title or title_of(column),
        note=note,
        traces=traces,
        layout=layout,
        head=[axis, *([s.name for s in series] if many else [unit]), *last],
        rows=[
            [names[i], *counts[i], *([share(sums[i], total)] if last else [])]
            for i in range(len(names))
        ],
        filters=[range_filter(filtered, edges, i) for i in range(len(names))] if filtered else [],
        wide=wide,
    )


def _labels(
    names: Sequence[str], centres: FloatArray, series: Sequence[Series], unit: str, overlaid: bool
) -> dict[str, Any]:
    """An invisible line that answers wherever the pointer is above a bin, however low its bar."""
    counts = np.array([s.counts for s in series])
    top = counts.max(axis=0) if overlaid else counts.sum(axis=0)
    texts = []
    for i, name in enumerate(names):
        lines = [f"{s.name} {count(int(s.counts[i]))}" for s in series if len(series) > 1]
        total = [] if overlaid and lines else [f"{count(int(counts[:, i].sum()))} {unit}"]
        texts.append("<br>".join([f"<b>{name}</b>", *total, *lines]))
    return {
        "type": "scatter",
        "mode": "markers",
        "x": np.round(centres, 8).tolist(),
        "y": top.tolist(),
        "customdata": list(range(len(names))),
        "hovertext": texts,
        "hovertemplate": "%{hovertext}<extra></extra>",
        "marker": {"opacity": 0, "size": 1},
        "showlegend": False,
    }


def bar_figure(
    identity: str,
    title: str,
    labels: Sequence[str],
    counts: Sequence[int],
    *,
    head: Sequence[str],
    colours: Sequence[str] = (ACCENT,),
    note: str = "",
    filters: Sequence[Filter] = (),
    more: Sequence[Sequence[str]] = (),
) -> Figure:
    """Horizontal bars with their counts and shares, the first on top.

    Args:
        identity: `id` of the figure.
        title: of it.
        labels: of the bars.
        counts: their lengths.
        head: of the table: label, count, share, and what `more` adds.
        colours: one for all bars, or one for each.
        note: below the title.
        filters: of the bars.
        more: further cells of each table row.
    """
    total = sum(counts)
    shares = [share(n, total) for n in counts]
    trace = {
        "type": "bar",
        "orientation": "h",
        "y": list(range(len(labels))),
        "x": list(counts),
        "customdata": list(range(len(counts))),
        "text": [f" {count(n)}  ({s})" for n, s in zip(counts, shares, strict=True)],
        "textposition": "outside",
        "cliponaxis": False,
        "hoverinfo": "none",
        "marker": {"color": list(colours) if len(colours) == len(counts) else colours[0]},
    }
    layout = {
        "showlegend": False,
        "xaxis": {"visible": False, "range": [0, max(counts, default=1) * 1.45 or 1]},
        "yaxis": named_axis(labels),
        "bargap": 0.35,
        "hovermode": "y",
        "margin": {"t": 2, "b": 6},
    }
    further = more or [[] for _ in counts]
    rows = [
        [label, count(n), s, *rest]
        for label, n, s, rest in zip(labels, counts, shares, further, strict=True)
    ]
    return Figure(
        identity,
        title,
        [trace],
        layout,
        head,
        rows,
        note=note,
        filters=filters,
        height=16 + 36 * len(counts),
    )


def named_axis(labels: Sequence[str]) -> dict[str, Any]:
    """An axis with the labels at 0, 1, 2, ..., the first on top."""
    return {
        "tickvals": list(range(len(labels))),
        "ticktext": [short_label(label) for label in labels],
        "range": [len(labels) - 0.5, -0.5],
        "automargin": True,
        "ticklen": 6,
        "showgrid": False,
        "zeroline": False,
    }


def short_label(label: str) -> str:
    """A label as Plotly shows it verbatim, cut where it is long."""
    cut = label if len(label) <= _LONGEST_LABEL else f"{label[: _LONGEST_LABEL - 1]}…"
    return plotly_text(cut)
