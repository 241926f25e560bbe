"""`value: judge`: how far does a response depart from each of some principles?

The judge gives one digit a principle, or all of them at once. A digit is read as the expectation
over the digits where the server gives log-probabilities, and as itself where not. The wording is in
`judge/templates/`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from axolotl_ual.settings.pairs import PairsJudgeConfig, ValueConfig

from ..calls.ask import Session
from ..calls.plan import Plan
from ..calls.task import NoLogprobs, Reading
from ..data.responses import ResponseSet
from ..judge.parse import expected_score, read_digit, whole
from ..judge.rubric import TOP_LOGPROBS
from ..models.server.replies import Completion
from ..sampling.base import Unsampled
from .base import DimensionScores, Show, Usable
from .judged import Judge
from .review import Answers, Review, Reviewed, reading, template
from .together import Principles, apart
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


def principle_tasks(
    config: PairsJudgeConfig, principles: Mapping[str, str], together: bool = False
) -> Sequence[Review]:
    """One question for each principle, or one for all together."""
    if together:
        told = template("value-all-v1").instructions(reading(), principles)
        return [Principles(config, told, tuple(principles))]
    asked = template("value-v1").instructions
    return [
        Principle(config, asked(reading(), name, text), name) for name, text in principles.items()
    ]


@dataclass(frozen=True)
class ValueByPrinciples:
    """Value uncertainty by a judge.

    Attributes:
        judge: asks about each principle, or about all at once.
        together: the principles where they are asked about at once, else empty.
    """

    name = "value"
    compares_evidence = False
    judge: Judge
    together: tuple[str, ...] = ()

    def check(self) -> None:
        """Find what the judge is missing."""
        self.judge.check()

    def plan(self, data: ResponseSet, unsampled: Unsampled | None, scorings: int) -> Plan:
        """What would be asked."""
        return self.judge.plan(data, unsampled, scorings)

    def score(self, usable: Usable, repeat: int, show: Show) -> DimensionScores:
        """Ask about each principle of each response."""
        rated = self.judge.ask(usable, repeat, show)
        answers = apart(rated.answers, self.together) if self.together else rated.answers
        found, reasons = value_scores(answers)
        scores = DimensionScores(usable.none(), usage=rated.usage)
        scores.facts = {**rated.shown, **self.judge.facts}
        principles, repeats = usable.none(), usable.none()
        for row, place in zip(usable.rows, rated.place, strict=True):
            score = found[place]
            if score is None:
                scores.failures[reasons[place]] += 1
            else:
                scores.uncertainty[row] = score.uncertainty
                principles[row] = score.spread_principles
                repeats[row] = score.spread_repeats
        scores.columns["value_spread_principles"] = principles
        scores.columns["value_spread_repeats"] = repeats
        return scores


def build(
    config: PairsJudgeConfig, value: ValueConfig, session: Session, keep_truncated: bool
) -> ValueByPrinciples:
    """Make the dimension."""
    tasks = principle_tasks(config, value.principles, bool(value.together))
    judge = Judge(config, session, "value", tasks, keep_truncated, value.repeats)
    return ValueByPrinciples(judge, tuple(value.principles) if value.together else ())


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
