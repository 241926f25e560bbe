"""A report, step by step: numbers, extremes, texts, table, figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from axolotl_ual.columns import GAP, UNCERTAINTY, UNCERTAINTY_CHOSEN

from ..progress import Progress
from .annotated import annotated_sections, dispute
from .facts import report_facts
from .findings import find
from .folder import Folder, open_folder
from .keeper import Keeper
from .paired import paired_sections
from .responses import Responses, read_beside, read_responses
from .rows import Texts, read_texts
from .sample import Extreme, find_extreme, priorities
from .section import Section
from .table import Table, make_table
from .values import Values, read_values

BLOCK_BUDGET: Final = 8_000_000
"""Characters of packed texts in a page: with Plotly and the numbers it stays below 11 MB."""
RECORD_BUDGET: Final = 16_000_000
"""Bytes of texts that are held before they are packed."""
MOST_ROWS: Final = 50_000
"""Rows of the table at most: a page of more is slow to sort and to search."""


@dataclass(frozen=True, slots=True)
class Report:
    """A report before it is a page.

    Attributes:
        folder: what it is of.
        facts: all its numbers as JSON values.
        sections: figures.
        extremes: with what is said of each.
        table: the rows that are shown.
        values: numbers of all rows.
        texts: lengths of all rows.
        scores: columns of numbers of the responses beside pairs.
    """

    folder: Folder
    facts: dict[str, Any]
    sections: Sequence[Section]
    extremes: Sequence[Extreme]
    table: Table
    values: Values
    texts: Texts
    scores: Sequence[str]


def build_report(path: Path, progress: Progress, rows: int | None = None) -> Report:
    """Read an output folder once and take all numbers of it.

    Args:
        path: the folder.
        progress: advances by one for each row.
        rows: rows of the table at most; None: as many as fit.

    Raises:
        DataError: the folder or one of its files cannot be read.
    """
    folder = open_folder(path)
    values = read_values(folder)
    responses = read_responses(folder.responses) if folder.responses else None
    extremes = _extremes(folder, values, responses)
    priority_N = priorities(values.rows, extremes)
    # Responses beside the pairs take as much again.
    budget = RECORD_BUDGET // (4 if folder.responses else 1)
    kept = Keeper(budget, MOST_ROWS if rows is None else min(rows, MOST_ROWS))
    texts = read_texts(folder, priority_N, kept, progress)
    records = kept.records()
    scores: list[str] = []
    if responses is not None and folder.responses is not None:
        scores = list(responses.known([UNCERTAINTY, *responses.dimensions]))
        records = _with_responses(records, folder.responses, scores)
    table = make_table(folder, values, texts, records, priority_N, BLOCK_BUDGET)
    if folder.kind == "pairs":
        sections = paired_sections(folder, values, texts, responses)
    else:
        sections = annotated_sections(folder, values, texts)
    findings = find(folder, values, texts)
    facts = report_facts(folder, values, texts, responses, extremes, findings, table)
    return Report(folder, facts, sections, extremes, table, values, texts, scores)


def _extremes(folder: Folder, values: Values, responses: Responses | None) -> list[Extreme]:
    if folder.kind == "pairs":
        gap, chosen = values.get(GAP), values.get(UNCERTAINTY_CHOSEN)
        found = [
            find_extreme("clearest", "Clearest", GAP, gap, high=True),
            find_extreme("most_disputed", "Most disputed", GAP, gap, high=False),
            find_extreme(
                "most_certain",
                "Most certain",
                UNCERTAINTY_CHOSEN,
                chosen,
                high=False,
            ),
            find_extreme(
                "most_uncertain",
                "Most uncertain",
                UNCERTAINTY_CHOSEN,
                chosen,
                high=True,
            ),
        ]
    else:
        uncertainty = values.get(UNCERTAINTY)
        found = [
            find_extreme("most_certain", "Most certain", UNCERTAINTY, uncertainty, high=False),
            find_extreme("most_uncertain", "Most uncertain", UNCERTAINTY, uncertainty, high=True),
        ]
        disputed = dispute(values, folder.manifest)
        if disputed is not None:
            column, array = disputed
            found.append(find_extreme("most_disputed", "Most disputed", column, array, high=True))
    return [extreme for extreme in found if extreme.rows.size]


def _with_responses(
    records: Mapping[int, bytes], path: Path, scores: Sequence[str]
) -> dict[int, bytes]:
    """Records of pairs with every response to their prompt as `s`."""
    loaded = {row: orjson.loads(record) for row, record in records.items()}
    prompts = {record["p"] for record in loaded.values() if record["p"] is not None}
    beside = read_beside(path, prompts, scores)
    return {
        row: orjson.dumps({**record, "s": beside.get(record["p"], [])})
        for row, record in loaded.items()
    }
