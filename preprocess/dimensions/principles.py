"""The task of `value: judge`: how far does a response depart from one principle?

The judge gives one digit, read as the expectation over the digits where the server gives
log-probabilities, and as the digit itself where not. The wording is in `judge/templates/`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from axolotl_ual.settings.pairs import PairsJudgeConfig

from ..calls.task import NoLogprobs, Reading
from ..judge.parse import expected_score, read_digit, whole
from ..judge.rubric import TOP_LOGPROBS
from ..models.server.replies import Completion
from .review import Answers, Review, Reviewed, reading, template
from .value import ValueScore, aggregate


@dataclass(frozen=True)
class Principle(Review):
    """Departure from one principle.

    Attributes:
        name: of the principle.
    """

    kind: ClassVar[str] = "value"
    reminder: ClassVar[str] = "Answer with one digit from 0 to 9 and nothing else."
    name: str

    @property
    def about(self) -> dict[str, Any]:
        """What is asked, in `unscored.jsonl`."""
        return {"dimension": self.kind, "principle": self.name}

    @property
    def form(self) -> dict[str, Any]:
        """One digit with the likeliest tokens beside it."""
        return {"top_logprobs": TOP_LOGPROBS}

    def read(self, completion: Completion) -> Reading:
        """Read the digit."""
        answer = whole(completion)
        try:
            return Reading(*expected_score(answer, completion.logprobs or []))
        except NoLogprobs:
            return Reading(read_digit(answer) / 9)

    def likely_tokens(self, item: Reviewed) -> float:
        """A digit."""
        return 1


def principle_tasks(config: PairsJudgeConfig, principles: dict[str, str]) -> list[Principle]:
    """One question for each principle."""
    asked = template("value-v1").instructions
    return [
        Principle(config, asked(reading(), name, text), name) for name, text in principles.items()
    ]


def value_scores(
    answers: Answers,
) -> tuple[list[ValueScore | None], dict[int, str]]:
    """Value score of each response, None where a principle has no rating, and the reasons."""
    reasons: dict[int, str] = {}
    scores = []
    for row in range(len(answers[0])):
        given = [of_principle[row] for of_principle in answers]
        matrix = np.array(
            [[np.nan if a.score is None else a.score for a in repeats] for repeats in given]
        )
        score = aggregate(matrix)
        if score is None:
            missing = next(r[0] for r in given if all(a.score is None for a in r))
            reasons[row] = missing.outcome.value
        scores.append(score)
    return scores, reasons
