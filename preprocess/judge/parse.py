"""What the answer of a judge is worth.

Two ways to read a score in [0, 1] out of an answer:

    verbalized:  u = N / 100                       the answer is {"uncertainty": N}, 0 <= N <= 100
    expected:    u = sum_d d p(d) / (9 sum_d p(d)) over the digits d = 0..9 at the answer's token

`expected` needs the log-probabilities of the most likely tokens at that place; digits that are not
among them count as probability 0 and the rest is renormalised. The covered mass sum_d p(d) is kept,
because a small one says that the model did not want to answer with a digit.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ..calls.task import NoLogprobs, Unparsable

_ROUNDING: Final = 1e-3
"""A log-probability of 0 may come back a little above it; NaN and the rest are not counted."""
_DIGIT_ALONE: Final = re.compile(r"\s*[0-9][ \t]*(?:\n.*)?", re.DOTALL)
_THOUGHT: Final = re.compile(r"\s*<think>.*?</think>", re.DOTALL)
_CODE_BLOCK: Final = re.compile(r"```(?:json)?[ \t]*\n(.*)\n[ \t]*```", re.DOTALL)


def parse_verbalized(content: str) -> float:
    """Read `{"uncertainty": N}`.

    A JSON object alone, in a code block, or after a `<think>` block; nothing else around it. A
    number above 0 and up to 1 that is written with a fraction leaves open whether the judge
    used our scale or one from 0 to 1, so it is not a score.

    Returns:
        N / 100.

    Raises:
        Unparsable: anything else.
    """
    answer = parse_object(content)
    if "uncertainty" not in answer:
        raise Unparsable("no key `uncertainty`")
    value = answer["uncertainty"]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Unparsable("`uncertainty` is not a number")
    if not 0 <= value <= 100:
        raise Unparsable("`uncertainty` is not in 0 to 100")
    if isinstance(value, float) and 0 < value <= 1:
        raise Unparsable("`uncertainty` may be on a scale from 0 to 1")
    return value / 100


def parse_object(content: str) -> dict[str, Any]:
    """Read a JSON object: alone, in a code block, or after a `<think>` block.

    Raises:
        Unparsable: anything else, a key that stands twice, or a number that JSON has not.
    """
    body = _THOUGHT.sub("", content, count=1).strip() if "<think>" in content else content.strip()
    if body.startswith("```"):
        block = _CODE_BLOCK.fullmatch(body)
        body = block.group(1) if block else body
    try:
        answer = json.loads(body, object_pairs_hook=_object, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Unparsable("not a JSON object") from None
    if not isinstance(answer, dict):
        raise Unparsable("not a JSON object")
    return answer


def expected_score(content: str, tokens: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Expectation over the digits at the token of the answer.

    Args:
        content: the whole answer: a digit, alone on its first line.
        tokens: `choices[0].logprobs.content` of a chat completion: for each token its text and
            `top_logprobs`, the most likely tokens at its place with their log-probabilities.

    Returns:
        The score in [0, 1] and the covered mass.

    Raises:
        Unparsable: the answer is not a digit.
        NoLogprobs: there are no log-probabilities.
    """
    if not _DIGIT_ALONE.fullmatch(content):
        raise Unparsable("the answer is not a digit")
    place = next((token for token in tokens if str(token.get("token", "")).strip()), None)
    if place is None or _digit(place.get("token")) is None:
        raise NoLogprobs
    candidates = place.get("top_logprobs")
    if not isinstance(candidates, list) or not candidates:
        raise NoLogprobs
    mass = [0.0] * 10
    for candidate in candidates:
        digit, logprob = _digit(candidate.get("token")), candidate.get("logprob")
        if digit is not None and isinstance(logprob, (int, float)) and logprob <= _ROUNDING:
            mass[digit] += math.exp(min(logprob, 0.0))
    covered = math.fsum(mass)
    if covered <= 0:
        raise Unparsable("no digit has a probability")
    expectation = math.fsum(digit * p for digit, p in enumerate(mass)) / covered
    return expectation / 9, min(covered, 1.0)


def _digit(token: object) -> int | None:
    text = token.strip() if isinstance(token, str) else ""
    return int(text) if len(text) == 1 and text in "0123456789" else None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    answer = dict(pairs)
    if len(answer) < len(pairs):
        raise ValueError("a key stands twice")
    return answer


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
