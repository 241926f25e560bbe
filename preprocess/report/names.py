"""What quantities are called on a page, and what they mean."""

from __future__ import annotations

from typing import Final

from axolotl_ual import columns
from axolotl_ual.columns import PREFIX

from ..output.tables import ANNOTATED, PAIRS, RESPONSES

LENGTH: Final = "length"
REJECTED_LENGTH: Final = "rejected_length"
LENGTH_DIFFERENCE: Final = "length_difference"
TURNS: Final = "turns"
SOURCE: Final = "source"

_NAMES: Final = {
    columns.UNCERTAINTY: "uncertainty",
    columns.SMOOTHING: "label smoothing",
    columns.STAGE: "stage",
    columns.SEMANTIC: "semantic uncertainty",
    columns.FACTUAL: "factual uncertainty",
    columns.VALUE: "value uncertainty",
    columns.UNCERTAINTY_CHOSEN: "uncertainty of the chosen",
    columns.UNCERTAINTY_REJECTED: "uncertainty of the rejected",
    columns.GAP: "gap",
    columns.SPREAD: "spread of repeats",
    columns.DISAGREEMENT: "disagreement of the panel",
    columns.MASS: "covered probability",
    LENGTH: "response length",
    REJECTED_LENGTH: "rejected length",
    LENGTH_DIFFERENCE: "length difference",
    TURNS: "turns",
    SOURCE: "source",
    "semantic_entropy": "semantic entropy",
    "value_spread_principles": "spread over principles",
    "value_spread_repeats": "spread over repeats",
}
_OF_RESPONSES: Final = {column.name: column.meaning for column in RESPONSES}
_MEANINGS: Final = _OF_RESPONSES | {column.name: column.meaning for column in ANNOTATED}
_MEANINGS_OF_PAIRS: Final = _OF_RESPONSES | {column.name: column.meaning for column in PAIRS}
_OF_PAIRS: Final = {
    columns.SMOOTHING: "flip probability",
    LENGTH: "chosen length",
}
UNIT_INTERVAL: Final = frozenset(
    {
        columns.UNCERTAINTY,
        columns.SEMANTIC,
        columns.FACTUAL,
        columns.VALUE,
        columns.UNCERTAINTY_CHOSEN,
        columns.UNCERTAINTY_REJECTED,
        columns.GAP,
        columns.MASS,
        "semantic_entropy",
    }
)
"""Quantities that lie in [0, 1]."""


def name_of(column: str, pairs: bool = False) -> str:
    """What a quantity is called, in lower case."""
    if pairs and column in _OF_PAIRS:
        return _OF_PAIRS[column]
    return _NAMES.get(column) or column.removeprefix(PREFIX).replace("_", " ")


def title_of(column: str, pairs: bool = False) -> str:
    """The name as a title."""
    name = name_of(column, pairs)
    return name[:1].upper() + name[1:]


def meaning_of(column: str, pairs: bool = False) -> str:
    """What a quantity means, as a sentence; empty where it is not one of ours."""
    meaning = (_MEANINGS_OF_PAIRS if pairs else _MEANINGS).get(column, "")
    meaning = meaning.partition("; null")[0].replace("`", "")
    return f"{meaning[:1].upper()}{meaning[1:]}." if meaning else ""
