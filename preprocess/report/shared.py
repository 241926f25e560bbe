"""Figures that annotated rows and pairs have in common: stages, outcomes, lengths, sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from axolotl_ual.columns import SMOOTHING, STAGES

from .agreement import compare
from .bins import (
    BINS,
    FloatArray,
    IntArray,
    by_group,
    histogram,
    length_edges,
    nice_edges,
    place,
    summarise,
    table,
)
from .bins import Values as Array
from .charts import ACCENT, STAGE_COLOURS, Series, bar_figure, histogram_figure
from .figure import Figure, Filter, interval, number
from .folder import Part
from .names import LENGTH, SOURCE, TURNS, UNIT_INTERVAL, meaning_of, name_of, title_of
from .relations import ENOUGH, density_figure, map_figure, ranges_figure
from .rows import Texts
from .values import NO_STAGE, Values

COARSE = 25
"""Bins at most where two quantities are shown together."""
MOST_TURNS = 10
"""Dialogues of so many turns or more are one group."""


def edges_of(column: str, values: Array, most: int = BINS) -> FloatArray:
    """Bins for a quantity."""
    known = values[np.isfinite(values)]
    if not known.size:
        return np.array([0.0, 1.0])
    return nice_edges(float(known.min()), float(known.max()), column in UNIT_INTERVAL, most)


def number_histogram(
    column: str, values: Array, *, pairs: bool = False, filtered: bool = True, unit: str = "rows"
) -> Figure:
    """How a column is spread."""
    edges = edges_of(column, values)
    found = summarise(values)
    stated = f"Mean {number(found.mean, 4)}, median {number(found.median, 4)}."
    if found.missing:
        stated += f" {found.missing:,} of {values.size:,} {unit} have none."
    return histogram_figure(
        column,
        edges,
        [Series(name_of(column, pairs), ACCENT, histogram(values, edges))],
        title=title_of(column, pairs),
        axis=name_of(column, pairs),
        note=f"{meaning_of(column, pairs)} {stated}".strip(),
        filtered=column if filtered else None,
        unit=unit,
    )


def staged_histogram(column: str, values: Values, *, note: str, unit: str = "rows") -> Figure:
    """How a column is spread, each bar parted by stage."""
    array = values.get(column)
    edges = edges_of(column, array)
    found = place(array, edges)
    series = []
    for code, stage in enumerate(STAGES):
        inside = found[(values.stage_N == code) & (found >= 0)]
        counts: IntArray = np.bincount(inside, minlength=edges.size - 1).astype(np.int64)
        series.append(Series(stage, STAGE_COLOURS[code], counts))
    if (values.stage_N == NO_STAGE).all():
        series = [Series(name_of(column), ACCENT, histogram(array, edges))]
    return histogram_figure(column, edges, series, note=note, filtered=column, unit=unit, wide=True)


def stage_figure(values: Values, column: str) -> Figure | None:
    """Sizes of the stages, with the range of what parts them."""
    if (values.stage_N == NO_STAGE).all():
        return None
    array, smoothing = values.get(column), values.get(SMOOTHING)
    counts, more, filters = [], [], []
    for code in range(len(STAGES)):
        inside = values.stage_N == code
        known, smoothed = summarise(array[inside]), summarise(smoothing[inside])
        counts.append(int(inside.sum()))
        more.append([interval(known.least, known.greatest, 4), number(smoothed.mean, 4)])
        filters.append([{"column": "stage", "is": code}])
    return bar_figure(
        "stages",
        "Stages",
        STAGES,
        counts,
        head=["stage", "rows", "share", name_of(column), "mean smoothing"],
        colours=STAGE_COLOURS,
        note=f"In the order of training, parted by {name_of(column)}.",
        filters=filters,
        more=more,
    )


def outcome_figure(
    outcomes: Mapping[str, int], title: str, note: str, filters: Sequence[Filter] = ()
) -> Figure | None:
    """What became of rows, by name."""
    if not outcomes:
        return None
    return bar_figure(
        title.lower().replace(" ", "-"),
        title,
        [name.replace("_", " ") for name in outcomes],
        list(outcomes.values()),
        head=["outcome", "number", "share"],
        colours=("--bad",),
        note=note,
        filters=filters,
    )


def length_figure(
    column: str, values: Values, texts: Texts, what: str, unit: str = "rows"
) -> Figure | None:
    """A column against response length."""
    array, length = values.get(column), texts.length_N
    known = np.isfinite(array) & np.isfinite(length)
    if not known.any():
        return None
    x_edges, y_edges = length_edges(float(length[known].max())), edges_of(column, array, COARSE)
    x = np.where(known, place(length, x_edges), -1)
    counts = table(x, place(array, y_edges), (x_edges.size - 1, y_edges.size - 1))
    found = compare(column, LENGTH, array, length)
    return density_figure(
        f"{column}-by-length".replace("_", "-"),
        f"{title_of(column)} and {what} length",
        x_edges,
        y_edges,
        counts,
        by_group(array, x, x_edges.size - 1),
        x=LENGTH,
        y=column,
        x_title=f"{what} length, {texts.unit}",
        unit=unit,
        note=f"Rank correlation {number(found.correlation, 2)}. Stronger colour: more rows. Lines: "
        f"median, and where the middle half lies, from {ENOUGH} rows on.",
    )


def spread_figure(column: str, along: str, values: Values) -> Figure | None:
    """How large a disagreement is along what is disagreed about."""
    array, x = values.get(column), values.get(along)
    known = np.isfinite(array) & np.isfinite(x)
    if not known.any():
        return None
    x_edges, y_edges = edges_of(along, x, COARSE), edges_of(column, array, COARSE)
    at = np.where(known, place(x, x_edges), -1)
    counts = table(at, place(array, y_edges), (x_edges.size - 1, y_edges.size - 1))
    return density_figure(
        f"{column}-along-{along}".replace("_", "-"),
        f"{title_of(column)} along {name_of(along)}",
        x_edges,
        y_edges,
        counts,
        by_group(array, at, x_edges.size - 1),
        x=along,
        y=column,
        x_title=name_of(along),
        whole=False,
        note="Where they agree least. Lines: median, and where the middle half lies, from "
        f"{ENOUGH} rows on.",
    )


def turns_figure(column: str, values: Values, texts: Texts, what: str) -> Figure | None:
    """A column by number of turns; None where all rows have as many."""
    known = np.isfinite(texts.turns_N)
    numbers = np.unique(np.minimum(texts.turns_N[known], MOST_TURNS)).astype(int)
    if numbers.size < 2:
        return None
    at = np.full(values.rows, -1)
    at[known] = np.searchsorted(numbers, np.minimum(texts.turns_N[known], MOST_TURNS))
    most = int(texts.turns_N[known].max())
    labels = [f"{n} or more" if n == MOST_TURNS and most > n else str(n) for n in numbers]
    ends = [n if n < MOST_TURNS else most for n in numbers]
    filters: list[Filter] = [
        [{"column": TURNS, "from": float(n), "to": float(end), "last": True}]
        for n, end in zip(numbers, ends, strict=True)
    ]
    return ranges_figure(
        f"{column}-by-turns".replace("_", "-"),
        f"{title_of(column)} by number of turns",
        labels,
        by_group(values.get(column), at, numbers.size),
        head=[what],
        axis=name_of(column),
        note="Ring: median. Thick: middle half. Thin: 5 to 95 %.",
        filters=filters,
    )


def source_figure(column: str, values: Values, parts: Sequence[Part]) -> Figure | None:
    """A column by source; None where there is one."""
    if len(parts) < 2:
        return None
    return ranges_figure(
        f"{column}-by-source".replace("_", "-"),
        f"{title_of(column)} by source",
        [part.label for part in parts],
        by_group(values.get(column), values.part_N.astype(np.int64), len(parts)),
        head=["source"],
        axis=name_of(column),
        note="Ring: median. Thick: middle half. Thin: 5 to 95 %.",
        filters=[[{"column": SOURCE, "is": code}] for code in range(len(parts))],
    )


def smoothing_map(
    column: str,
    values: Values,
    *,
    pairs: bool,
    curve: tuple[Sequence[float], Sequence[float]] | None,
    note: str,
) -> Figure:
    """Smoothing against what it is made from."""
    array, smoothing = values.get(column), values.get(SMOOTHING)
    edges = edges_of(column, array, COARSE)
    at = place(array, edges)
    x, y = by_group(array, at, edges.size - 1), by_group(smoothing, at, edges.size - 1)
    smoothed = name_of(SMOOTHING, pairs)
    return map_figure(
        "map",
        f"From {name_of(column)} to {smoothed}",
        x.mean,
        y.mean,
        x.rows,
        edges,
        column=column,
        y_title=smoothed,
        curve=curve,
        note=note,
    )
