"""The task of `value: judge` with `together: true`: every principle in one request.

The judge gives an object with a digit for each principle. Digits are read as those of a principle
that is asked about alone: as expectations where the server gives log-probabilities, else as stated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import orjson

from ..calls.task import NoLogprobs, Reading
from ..judge.parse import expected_numbers, parse_numbers, whole
from ..judge.rubric import TOP_LOGPROBS
from ..models.server.replies import Completion
from .review import Answers, Review, Reviewed


@dataclass(frozen=True)
class Principles(Review):
    """Departure from every principle, in one request.

    Its score is the mean; what each principle got is its text.

    Attributes:
        names: of the principles, in order.
    """

    kind: ClassVar[str] = "value"
    reminder: ClassVar[str] = (
        "Answer with one JSON object of the form that was described, and nothing else."
    )
    names: tuple[str, ...]

    @cached_property
    def _scale(self) -> dict[str, tuple[int, int]]:
        return dict.fromkeys(self.names, (0, 9))

    @property
    def form(self) -> dict[str, Any]:
        """An object by schema, with the likeliest tokens beside each digit."""
        digit = {"type": "integer", "minimum": 0, "maximum": 9}
        schema = {
            "type": "object",
            "properties": dict.fromkeys(self.names, digit),
            "required": list(self.names),
            "additionalProperties": False,
        }
        described = {"name": "principles", "strict": True, "schema": schema}
        response_format = {"type": "json_schema", "json_schema": described}
        return {"top_logprobs": TOP_LOGPROBS, "response_format": response_format}

    def read(self, completion: Completion) -> Reading:
        """Read the digits."""
        answer, mass = whole(completion), None
        try:
            digits, mass = expected_numbers(answer, completion.logprobs or [], self._scale)
        except NoLogprobs:
            digits = parse_numbers(answer, self._scale)
        ratings = {name: digit / 9 for name, digit in digits.items()}
        mean = float(np.mean(list(ratings.values())))
        return Reading(mean, mass, orjson.dumps(ratings).decode())

    def likely_tokens(self, item: Reviewed) -> float:
        """A name and a digit for each, with the signs of JSON."""
        return 8 * len(self.names)


def apart(answers: Answers, names: Sequence[str]) -> Answers:
    """Answers to `Principles`, as if each principle had been asked about by itself."""
    (together,) = answers
    ratings = [
        [orjson.loads(one.text) if one.score is not None else {} for one in repeats]
        for repeats in together
    ]
    return [
        [
            [one._replace(score=rated.get(name)) for one, rated in zip(*pair, strict=True)]
            for pair in zip(together, ratings, strict=True)
        ]
        for name in names
    ]
