"""A part of the report: figures with a heading."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from .figure import Figure


@dataclass(frozen=True, slots=True)
class Section:
    """Figures that belong together.

    Attributes:
        id: of its element.
        title: heading.
        short: in the page's list of contents.
        intro: a sentence below it.
        figures: at least one.
    """

    id: str
    title: str
    short: str
    intro: str
    figures: Sequence[Figure]


def present(figures: Iterable[Figure | None]) -> list[Figure]:
    """Those figures that there is something to show in, none alone in half a line."""
    shown = [figure for figure in figures if figure is not None]
    arranged: list[Figure] = []
    is_half_full = False
    for place, figure in enumerate(shown):
        is_last = place + 1 == len(shown) or shown[place + 1].wide
        if not figure.wide and not is_half_full and is_last:
            figure = replace(figure, wide=True)
        is_half_full = not figure.wide and not is_half_full
        arranged.append(figure)
    return arranged
