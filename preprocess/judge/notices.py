"""What the answers of a judge look like taken together, where each alone looks right.

- Stated numbers that are all 10 or less of 100, and many of them: a judge on another scale.
- Log-probabilities that put everything on one digit, always: a server that gives them after it has
  sampled at temperature 0. The expectation is then the digit, and no finer.
"""

from __future__ import annotations

from typing import Final

from ..calls.cache import Answer
from ..calls.outcomes import Outcome

_ENOUGH: Final = 20
_SCALE_OF_TEN: Final = 0.1
_DIFFERENT: Final = 4
"""Numbers up to 10 that are too many to be those of a judge that finds little to be uncertain."""
_CERTAIN: Final = 1 - 1e-6


class Notices:
    """Looks at every answer of one judge.

    Args:
        name: of the judge, for people.
        of_hundred: the judge states numbers from 0 to 100.
    """

    def __init__(self, name: str, of_hundred: bool) -> None:
        self._name = name
        self._of_hundred = of_hundred
        self._scored = self._one_hot = self._with_mass = self._unread = 0
        self._highest = 0.0
        self._seen: set[float] = set()

    def add(self, answer: Answer) -> None:
        """Look at an answer."""
        if answer.outcome is Outcome.UNPARSABLE:
            self._unread += 1
        if answer.outcome is not Outcome.SCORED or answer.score is None:
            return
        self._scored += 1
        self._highest = max(self._highest, answer.score)
        if len(self._seen) <= _DIFFERENT:
            self._seen.add(answer.score)
        if answer.mass is not None:
            self._with_mass += 1
            self._one_hot += answer.mass >= _CERTAIN and abs(answer.score * 9 % 1) < 1e-6

    def lines(self) -> list[str]:
        """What is worth a look, in sentences."""
        found = []
        if self._of_hundred and self._scored >= _ENOUGH:
            if self._highest <= _SCALE_OF_TEN and len(self._seen) > _DIFFERENT:
                found.append(
                    f"all {self._scored:,} numbers of {self._name} are from 0 to 10, of 100: it "
                    "seems to answer on a scale from 0 to 10, and then every uncertainty is a "
                    "tenth of what it should be. Look at some answers; `rubric: uncertainty-v2` "
                    "asks on a scale that is harder to mistake"
                )
            elif self._highest <= _SCALE_OF_TEN / 10 and self._unread >= self._scored:
                found.append(
                    f"{self._name} seems to answer on a scale from 0 to 1 instead of 0 to 100: "
                    f"{self._unread:,} answers are fractions and the others 0 or 1"
                )
        if self._with_mass >= _ENOUGH and self._one_hot == self._with_mass:
            found.append(
                f"the log-probabilities of {self._name} put everything on one digit, for all "
                f"{self._with_mass:,} answers: `score: expected` is no finer than the digits here. "
                "A server that gives them after sampling at temperature 0 does so; try "
                "`temperature: 1`"
            )
        return found
