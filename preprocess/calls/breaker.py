"""When no further answers are paid for: many came, and none of them was of use."""

from __future__ import annotations

from collections import Counter
from typing import Final

ENOUGH: Final = 32
"""Answers without one of use after which no more are paid for."""


class Breaker:
    """Counts answers of each kind of question until one is of use."""

    def __init__(self) -> None:
        self._useless: Counter[str] = Counter()
        self._useful: set[str] = set()

    def note(self, about: str, is_useful: bool) -> bool:
        """Count an answer.

        Args:
            about: who was asked what kind of question.
            is_useful: whether the answer gave what was asked for.

        Returns:
            Whether no more are to be paid for.
        """
        if is_useful:
            self._useful.add(about)
        else:
            self._useless[about] += 1
        return self.is_open(about)

    def is_useful(self, about: str) -> bool:
        """Whether an answer was of use."""
        return about in self._useful

    def is_open(self, about: str) -> bool:
        """Whether no more are to be paid for."""
        return about not in self._useful and self._useless[about] >= ENOUGH
