"""The sections of figures of annotated rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from axolotl_ual.columns import (
    DISAGREEMENT,
    MASS,
    PREFIX,
    SMOOTHING,
    SPREAD,
    UNCERTAINTY,
    Manifest,
)

from ..labels.repeats import Repeats, repeats_agree
from .agreement import Pairing, matrix_figure, pairings
from .bins import Values as Array
from .bins import summarise
from .figure import Figure, Filter, number
from .folder import Folder
from .names import name_of
from .rows import Texts
from .section import Section, present
from .shared import (
    length_figure,
    number_histogram,
    outcome_figure,
    smoothing_map,
    source_figure,
    spread_figure,
    stage_figure,
    staged_histogram,
    turns_figure,
)
from .values import Values

_AGREEMENT_COLUMNS = (SPREAD, DISAGREEMENT, MASS)


def members(values: Values, manifest: Manifest | None) -> list[str]:
    """Columns of the estimators of an ensemble."""
    named = manifest.estimator.get("members") if manifest else None
    return [name for name in further(values) if name.removeprefix(PREFIX) in (named or {})]


def further(values: Values) -> list[str]:
    """Columns of ours beyond those that every annotated copy has."""
    known = {UNCERTAINTY, SMOOTHING, *_AGREEMENT_COLUMNS}
    return [name for name in values.numbers if name not in known]


def dispute(values: Values, manifest: Manifest | None) -> tuple[str, Array] | None:
    """By how much those who were asked disagree about each row, and what that is called.

    The disagreement of a panel, the spread of a judge's repeats, or the standard deviation of an
    ensemble's estimators; None where each row has one value alone.
    """
    for column in (DISAGREEMENT, SPREAD):
        if np.isfinite(values.get(column)).any():
            return column, values.get(column)
    names = members(values, manifest)
    if len(names) < 2:
        return None
    stacked = np.stack([values.get(name) for name in names])
    enough = np.isfinite(stacked).sum(axis=0) >= 2
    found = np.full(values.rows, np.nan, dtype=np.float32)
    found[enough] = np.nanstd(stacked[:, enough], axis=0)
    return "spread_of_estimators", found


def repeats_of(manifest: Manifest | None) -> int:
    """Repeats of the judge that was used; 1 where that is not known."""
    settings: Mapping[str, Any] = manifest.settings if manifest else {}
    judge = settings.get("judge") if settings.get("estimator") == "judge" else None
    return int(judge.get("repeats", 1)) if isinstance(judge, Mapping) else 1


def repeats_agreement(values: Values, repeats: int) -> Repeats | None:
    """Agreement of a judge's repeats over the rows that have a spread."""
    mean, spread = values.get(UNCERTAINTY), values.get(SPREAD)
    known = np.isfinite(mean) & np.isfinite(spread)
    return repeats_agree(mean[known], spread[known], repeats) if repeats > 1 else None


def estimators_agreement(values: Values, manifest: Manifest | None) -> list[Pairing]:
    """Every two estimators of an ensemble."""
    names = members(values, manifest)
    return pairings({name: values.get(name) for name in names}) if len(names) > 1 else []


def annotated_sections(folder: Folder, values: Values, texts: Texts) -> list[Section]:
    """All figures of annotated rows."""
    manifest = folder.manifest
    failures = manifest.failures if manifest else {}
    spread_note = "Each bar is parted by stage. A click shows the rows of a bar."
    scored = summarise(values.get(UNCERTAINTY))
    unscored: list[Filter] = [[{"column": UNCERTAINTY, "missing": True}]] * len(failures)
    spread = [
        staged_histogram(UNCERTAINTY, values, note=spread_note) if scored.rows else None,
        number_histogram(SMOOTHING, values.get(SMOOTHING)),
        smoothing_map(
            UNCERTAINTY,
            values,
            pairs=False,
            curve=_curve(manifest),
            note="Dots: the rows, larger where there are more. Dotted: the map that was solved.",
        ),
        stage_figure(values, UNCERTAINTY),
        outcome_figure(
            failures,
            "Without an uncertainty",
            "Rows that could not be scored, by outcome.",
            unscored if scored.missing else (),
        ),
        *(number_histogram(name, values.get(name)) for name in further(values)),
    ]
    relations = [
        length_figure(UNCERTAINTY, values, texts, "response"),
        turns_figure(UNCERTAINTY, values, texts, "turns"),
        source_figure(UNCERTAINTY, values, folder.parts),
    ]
    sections = [
        Section("numbers", "How the numbers are spread", "Numbers", "", present(spread)),
        Section(
            "relations",
            "What uncertainty goes with",
            "Relations",
            "Uncertainty that follows length or source alone says little about the answers.",
            present(relations),
        ),
        Section("agreement", "Agreement", "Agreement", *_agreement(values, manifest)),
    ]
    return [section for section in sections if section.figures]


def _curve(manifest: Manifest | None) -> tuple[list[float], list[float]] | None:
    """Corners of min(a * u, max), as the manifest states a and the settings max."""
    scale = manifest.smoothing.get("scale") if manifest else None
    settings = manifest.settings.get("smoothing") if manifest else None
    if scale is None or not isinstance(settings, Mapping) or "max" not in settings:
        return None
    cap = float(settings["max"])
    corner = min(1.0, cap / scale) if scale > 0 else 1.0
    x, y = [0.0, corner, 1.0], [0.0, min(scale * corner, cap), min(scale, cap)]
    return ([1 - v for v in x], y) if settings.get("direction") == "decreasing" else (x, y)


def _agreement(values: Values, manifest: Manifest | None) -> tuple[str, list[Figure]]:
    figures = [
        number_histogram(name, values.get(name))
        for name in _AGREEMENT_COLUMNS
        if np.isfinite(values.get(name)).any()
    ]
    found_spreads = [spread_figure(name, UNCERTAINTY, values) for name in (SPREAD, DISAGREEMENT)]
    figures += [figure for figure in found_spreads if figure is not None]
    sentences = []
    found = repeats_agreement(values, repeats_of(manifest))
    if found is not None:
        sentences.append(
            f"{found.repeats} answers to each row: agreement of single answers (ICC) "
            f"{number(found.single)}, of the means that training reads {number(found.mean)}. "
            f"Standard deviation {number(found.within)} within rows, {number(found.between)} "
            f"between rows."
        )
    pairs = estimators_agreement(values, manifest)
    if pairs:
        names = members(values, manifest)
        figures.append(
            matrix_figure(
                "estimators",
                "Rank correlation of estimators",
                names,
                pairs,
                "1: the same order of rows. 0: nothing in common.",
            )
        )
        sentences.append(
            "The estimators, pair by pair: "
            + "; ".join(
                f"{name_of(p.one)} and {name_of(p.other)} {number(p.correlation, 2)}" for p in pairs
            )
            + "."
        )
    return " ".join(sentences), present(figures)
