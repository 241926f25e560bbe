"""The sections of figures of preference pairs, and of the responses that they were made from."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from axolotl_ual.columns import (
    GAP,
    SMOOTHING,
    UNCERTAINTY,
    UNCERTAINTY_CHOSEN,
    UNCERTAINTY_REJECTED,
)

from .agreement import Pairing, matrix_figure, pairings
from .bins import Values as Array
from .bins import histogram, nice_edges, summarise
from .charts import ACCENT, Series, bar_figure, histogram_figure
from .figure import Figure, share
from .folder import Folder
from .names import LENGTH_DIFFERENCE
from .responses import (
    CLUSTER,
    ENTROPY,
    SPREADS,
    Responses,
    clusters_of_prompts,
    first_of_prompts,
)
from .rows import Texts
from .section import Section, present
from .shared import (
    edges_of,
    length_figure,
    number_histogram,
    outcome_figure,
    smoothing_map,
    source_figure,
    stage_figure,
    staged_histogram,
    turns_figure,
)
from .values import Values


def difference_of_lengths(texts: Texts) -> Array:
    """Characters of the chosen response less those of the rejected one."""
    if texts.rejected_N is None:
        return np.full(texts.length_N.size, np.nan, dtype=np.float32)
    return texts.length_N - texts.rejected_N


def dimensions_agreement(responses: Responses | None) -> list[Pairing]:
    """Every two dimensions, over all responses."""
    if responses is None:
        return []
    return pairings(responses.known(responses.dimensions))


def paired_sections(
    folder: Folder, values: Values, texts: Texts, responses: Responses | None
) -> list[Section]:
    """All figures of pairs."""
    spread_note = "Each bar is parted by stage. A click shows the pairs of a bar."
    numbers = [
        staged_histogram(GAP, values, note=spread_note, unit="pairs"),
        number_histogram(SMOOTHING, values.get(SMOOTHING), pairs=True, unit="pairs"),
        smoothing_map(
            GAP,
            values,
            pairs=True,
            curve=None,
            note="Dots: the pairs, larger where there are more.",
        ),
        _both_uncertainties(values),
        stage_figure(values, GAP),
        _unpaired(folder),
    ]
    relations = [
        _lengths(texts),
        turns_figure(GAP, values, texts, "turns of the prompt"),
        source_figure(GAP, values, folder.parts),
        length_figure(GAP, values, texts, "chosen response", unit="pairs"),
    ]
    sections = [
        Section("numbers", "How the numbers are spread", "Numbers", "", present(numbers)),
        Section(
            "relations",
            "What the gap goes with",
            "Relations",
            "A preference that follows length alone teaches length.",
            present(relations),
        ),
    ]
    if responses is not None:
        sections.append(
            Section(
                "responses",
                "All responses",
                "Responses",
                f"{responses.prompt_R.size:,} responses to "
                f"{np.unique(responses.prompt_R).size:,} prompts; pairs are made of some.",
                present(_responses(responses)),
            )
        )
    return [section for section in sections if section.figures]


def _both_uncertainties(values: Values) -> Figure | None:
    chosen, rejected = values.get(UNCERTAINTY_CHOSEN), values.get(UNCERTAINTY_REJECTED)
    both = np.concatenate([chosen, rejected])
    if not np.isfinite(both).any():
        return None
    edges = edges_of(UNCERTAINTY_CHOSEN, both)
    return histogram_figure(
        UNCERTAINTY,
        edges,
        [
            Series("rejected", "--exploratory", histogram(rejected, edges)),
            Series("chosen", "--conservative", histogram(chosen, edges)),
        ],
        title="Uncertainty of chosen and rejected",
        note="A click shows the pairs by their chosen response.",
        filtered=UNCERTAINTY_CHOSEN,
        unit="pairs",
        overlaid=True,
        identity="histogram-chosen-rejected",
    )


def _unpaired(folder: Folder) -> Figure | None:
    failures = folder.manifest.failures if folder.manifest else {}
    return outcome_figure(
        failures, "Without a pair, or a score", "Prompts without a pair, and missing scores."
    )


def _lengths(texts: Texts) -> Figure | None:
    difference = difference_of_lengths(texts)
    found = summarise(difference)
    if not found.rows:
        return None
    longer = int(np.count_nonzero(difference > 0))
    shorter = int(np.count_nonzero(difference < 0))
    edges = nice_edges(found.least, found.greatest)
    return histogram_figure(
        LENGTH_DIFFERENCE,
        edges,
        [Series("pairs", ACCENT, histogram(difference, edges))],
        title="Length of the chosen less the rejected",
        note=f"In characters. The chosen response is longer in {share(longer, found.rows)} and "
        f"shorter in {share(shorter, found.rows)} of the pairs; median {found.median:+,.0f}.",
        filtered=LENGTH_DIFFERENCE,
        unit="pairs",
    )


def _responses(responses: Responses) -> list[Figure | None]:
    numbers, prompt_R = responses.numbers, responses.prompt_R
    figures: list[Figure | None] = [_statuses(responses.statuses)]
    if CLUSTER in numbers:
        figures.append(_clusters(clusters_of_prompts(prompt_R, numbers[CLUSTER])))
    figures += [
        number_histogram(name, array, filtered=False, unit="responses")
        for name, array in responses.known((*responses.dimensions, *SPREADS)).items()
    ]
    first = first_of_prompts(prompt_R)
    if responses.known([ENTROPY]):
        entropy = numbers[ENTROPY][first]
        figures.append(number_histogram(ENTROPY, entropy, filtered=False, unit="prompts"))
    found = dimensions_agreement(responses)
    if found:
        there = list(dict.fromkeys([n for p in found for n in (p.one, p.other)]))
        figures.append(
            matrix_figure(
                "dimensions",
                "Rank correlation of the dimensions",
                there,
                found,
                "Over all responses. 1: the same order; 0: nothing in common.",
            )
        )
    return figures


def _statuses(statuses: Mapping[str, int]) -> Figure | None:
    if not statuses:
        return None
    ordered = dict(sorted(statuses.items(), key=lambda item: -item[1]))
    return bar_figure(
        "statuses",
        "Responses by status",
        [str(name) for name in ordered],
        list(ordered.values()),
        head=["status", "responses", "share"],
    )


def _clusters(clusters: Array) -> Figure | None:
    known = clusters[np.isfinite(clusters)].astype(np.int64)
    if not known.size:
        return None
    counts = np.bincount(known)
    numbers = [int(n) for n in np.flatnonzero(counts)]
    return bar_figure(
        "clusters",
        "Meanings of a prompt's responses",
        [f"{n} cluster{'s' if n > 1 else ''}" for n in numbers],
        [int(counts[n]) for n in numbers],
        head=["clusters", "prompts", "share"],
        note="Responses that mean the same form a cluster.",
    )
