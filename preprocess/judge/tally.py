"""What is known about each row while answers come in: a few arrays, whatever the number of rows."""

from __future__ import annotations

from collections import Counter
from typing import Final

import numpy as np
import numpy.typing as npt

from ..calls.cache import Answer
from ..calls.outcomes import Outcome

_OUTCOMES: Final = tuple(Outcome)
_NONE: Final = len(_OUTCOMES)
_CODES: Final = {outcome: code for code, outcome in enumerate(_OUTCOMES)}
FloatArray = npt.NDArray[np.float64]


class Tally:
    """Scores and outcomes of N rows, with k answers to each.

    Args:
        rows: N.
        repeats: k.
    """

    def __init__(self, rows: int, repeats: int) -> None:
        self._repeats = repeats
        self._answers = np.zeros(rows, np.uint16)
        self._scored = np.zeros(rows, np.uint16)
        self._sum = np.zeros(rows, np.float64)
        self._sum_of_squares = np.zeros(rows if repeats > 1 else 0, np.float64)
        self._mass = np.full(rows, np.nan, np.float32)
        self._reason = np.full(rows, _NONE, np.uint8)

    def add(self, row: int, answer: Answer) -> bool:
        """Count an answer.

        Returns:
            Whether it was the row's last.
        """
        if answer.outcome is Outcome.SCORED and answer.score is not None:
            self._scored[row] += 1
            self._sum[row] += answer.score
            if self._repeats > 1:
                self._sum_of_squares[row] += answer.score**2
            if answer.mass is not None:
                self._mass[row] = np.fmin(self._mass[row], answer.mass)
        elif self._reason[row] == _NONE:
            self._reason[row] = _CODES[answer.outcome]
        self._answers[row] += 1
        return bool(self._answers[row] == self._repeats)

    @property
    def complete(self) -> npt.NDArray[np.bool_]:
        """Bool of shape (N,): rows that have all their answers."""
        complete: npt.NDArray[np.bool_] = self._answers == self._repeats
        return complete

    @property
    def scores(self) -> npt.NDArray[np.uint16]:
        """Uint16 of shape (N,): number of scores of a row."""
        return self._scored

    @property
    def mean(self) -> FloatArray:
        """Float64 of shape (N,): mean score; NaN where nothing was scored."""
        with np.errstate(invalid="ignore"):
            return np.where(self._scored > 0, self._sum / np.maximum(self._scored, 1), np.nan)

    @property
    def spread(self) -> FloatArray:
        """Float64 of shape (N,): standard deviation of the scores; NaN below two of them."""
        number = np.maximum(self._scored, 2).astype(np.float64)
        variance = (self._sum_of_squares - self._sum**2 / number) / (number - 1)
        return np.where(self._scored > 1, np.sqrt(np.maximum(variance, 0.0)), np.nan)

    @property
    def mass(self) -> npt.NDArray[np.float32]:
        """Float32 of shape (N,): the least covered mass of a row's answers; NaN for none."""
        return self._mass

    def missing(self) -> dict[str, int]:
        """Number of rows without a score, by the outcome of their first answer."""
        return self.reasons(self._scored == 0)

    def reasons(self, rows: npt.NDArray[np.bool_]) -> dict[str, int]:
        """Number of rows of a mask by the outcome of their first answer without a score."""
        codes = self._reason[rows]
        named = Counter(_OUTCOMES[code] for code in codes if code != _NONE)
        return {outcome.value: named[outcome] for outcome in _OUTCOMES if named[outcome]}
