"""A chart with the numbers that it shows, for any page of this look.

Traces and layout are Plotly's JSON. A colour is written as the name of one of the page's own,
`--accent` say, so that a chart follows the light and the dark theme. Beside every chart stands the
table of its numbers, which is what a keyboard, a screen reader and a printer get.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Condition = dict[str, Any]
"""`column` with `from` and `to` (and `last`, where `to` is included), `is` a code, or `missing`."""
Filter = list[Condition]
"""Conditions that a row meets together."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart.

    Attributes:
        id: of its element; one in a page.
        title: above it.
        traces: Plotly's JSON. `customdata` of a point is the place of its filter.
        layout: Plotly's JSON, laid over the page's defaults.
        head: titles of the columns of the table.
        rows: the table, formatted.
        note: a sentence below the title.
        filters: what a click on a point selects; empty where nothing can be selected.
        row_filters: place of each table row's filter in `filters`, or None; empty for the same
            order as `filters`.
        height: in pixels.
        wide: whether it takes the whole width.
    """

    id: str
    title: str
    traces: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    filters: Sequence[Filter] = ()
    row_filters: Sequence[int | None] = field(default=())
    height: int = 260
    wide: bool = False

    def table(self) -> list[tuple[Sequence[str], int | None]]:
        """Rows of the table, each with the place of its filter."""
        places: Sequence[int | None] = self.row_filters
        if not places:
            places = [i if i < len(self.filters) else None for i in range(len(self.rows))]
        return list(zip(self.rows, places, strict=True))

    def data(self) -> dict[str, Any]:
        """What the page's script draws."""
        return {
            "id": self.id,
            "traces": list(self.traces),
            "layout": dict(self.layout),
            "filters": list(self.filters),
            "height": self.height,
        }


def plotly_text(text: str) -> str:
    """A text as Plotly shows it verbatim: it reads a little HTML in labels."""
    return html.escape(text, quote=False)


def count(number: int) -> str:
    """A whole number with separators."""
    return f"{number:,}"


def number(value: float | None, digits: int = 3) -> str:
    """A number with fixed decimals; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.{digits}f}"


def share(part: float, whole: float) -> str:
    """A part of a whole in per cent."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "< 0.1 %"
    return f"{percent:.1f} %" if percent < 99.95 or part == whole else "> 99.9 %"


def decimals(step: float) -> int:
    """Decimals that tell multiples of a step apart."""
    return max(0, min(6, math.ceil(-math.log10(step) - 1e-9))) if step > 0 else 3


def interval(low: float, high: float, digits: int) -> str:
    """A range of numbers."""
    return f"{number(low, digits)} to {number(high, digits)}"
