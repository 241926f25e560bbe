"""The task of UAL (arXiv 2406.04854): how uncertain is this sample, by a model with a rubric?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from axolotl_ual.settings.estimators import JudgeConfig

from ..calls.task import Reading
from ..data.sample import Sample
from ..models.server.dialect import Chat
from ..models.server.replies import Completion
from .frame import framed_chat
from .parse import expected_numbers, expected_score, parse_numbers, read_digit, whole
from .rubric import TOP_LOGPROBS, Rubric, Score

_TOKENS_OF_NUMBER: Final = 8
_TOKENS_OF_REASON: Final = 50


@dataclass(frozen=True)
class Uncertainty:
    """Asks for the uncertainty of a sample.

    Attributes:
        config: the judge's section.
        rubric: what the judge is told.
        score: how its answers become numbers.
    """

    config: JudgeConfig
    rubric: Rubric
    score: Score

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What shapes an answer besides the sample."""
        return {
            "kind": "judge",
            "model": self.config.model,
            "rubric": self.rubric.sha256,
            "score": self.score,
            "temperature": self.config.temperature,
            "max_sample_tokens": self.config.max_sample_tokens,
            **({"reason": True} if self.rubric.reason else {}),
            **self.config.answer_shaping,
        }

    @cached_property
    def instructions(self) -> str:
        """The system message."""
        return self.rubric.instructions(self.score)

    @property
    def facts(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "model": self.config.model,
            "rubric": self.rubric.name,
            "rubric_sha256": self.rubric.sha256,
            "score": self.score,
            **({"reason": True} if self.rubric.reason else {}),
        }

    @property
    def needs_logprobs(self) -> bool:
        """An expectation is taken over them."""
        return self.score == "expected"

    @property
    def is_one_digit(self) -> bool:
        """Whether the answer is a digit and no object."""
        return self.needs_logprobs and not self.rubric.brings_schema

    @property
    def reminder(self) -> str:
        """The form of an answer, once more."""
        if self.is_one_digit:
            return "Answer with one digit from 0 to 9 and nothing else."
        return self.rubric.form

    @property
    def max_tokens(self) -> int:
        """As the recipe says: a model that reasons needs room before a digit as well."""
        return self.config.max_tokens

    def sample(self, item: Sample) -> Sample:
        """The sample itself."""
        return item

    def chat(self, item: Sample, repeat: int) -> Chat:
        """The request."""
        return framed_chat(
            self.config,
            self.instructions,
            self.rubric.sample,
            item,
            repeat,
            max_tokens=self.max_tokens,
            response_format=None if self.is_one_digit else self.rubric.response_format,
            top_logprobs=TOP_LOGPROBS if self.needs_logprobs else 0,
        )

    def read(self, completion: Completion) -> Reading:
        """Read a score."""
        answer, scale = whole(completion), self.rubric.scale
        if not self.needs_logprobs:
            return Reading(scale.uncertainty(parse_numbers(answer, scale)))
        if self.is_one_digit:
            return Reading(*expected_score(answer, completion.logprobs or []))
        values, mass = expected_numbers(answer, completion.logprobs or [], scale)
        return Reading(scale.uncertainty(values), mass)

    def read_stated(self, completion: Completion) -> Reading:
        """Read the numbers that were stated; of a digit, the digit."""
        answer, scale = whole(completion), self.rubric.scale
        if self.is_one_digit:
            return Reading(read_digit(answer) / 9)
        return Reading(scale.uncertainty(parse_numbers(answer, scale)))

    def likely_tokens(self, item: Sample) -> float:
        """A digit, or a few numbers in JSON, behind a reason of two sentences."""
        if self.is_one_digit:
            return 1
        return _TOKENS_OF_NUMBER * len(self.rubric.scale) + _TOKENS_OF_REASON * self.rubric.reason
