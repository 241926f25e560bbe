"""What the answer of a judge is worth.

Two ways to read a score in [0, 1] out of an answer:

    verbalized:  u = N / 100                       the answer is {"uncertainty": N}, 0 <= N <= 100
    expected:    u = sum_d d p(d) / (9 sum_d p(d)) over the digits d = 0..9 at the answer's token

`expected` needs the log-probabilities of the most likely tokens at that place; digits that are not
among them count as probability 0 and the rest is renormalised. The covered mass sum_d p(d) is kept.
Below a quarter it is no score: the model did not want to answer with a digit.
"""

from __future__ import annotations

import bisect
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import yaml

from ..calls.task import NoLogprobs, Unparsable
from ..models.server.completions import Completion
from ..models.server.thinking import split_thinking

LEAST_MASS: Final = 0.25
"""Probability on digits below which a digit is no answer."""
_ROUNDING: Final = 1e-3
"""A log-probability of 0 may come back a little above it; NaN and the rest are not counted."""
_DIGIT_ALONE: Final = re.compile(r"\s*[0-9][ \t]*(?:\n.*)?", re.DOTALL)
_DIGIT_WRAPPED: Final = re.compile(
    r"""\s*(```[a-zA-Z]*\s+)?([*_"'`]{0,2})(?P<digit>[0-9])\2\s*(?(1)```\s*)"""
)
_NUMBER: Final = re.compile(r"\s*(\d{1,3}(?:\.\d+)?)\s*%?\s*")
_SPECIAL: Final = re.compile(
    r"<[|｜][^<>]*[|｜]>|</?s>|<bos>|<eos>|<(?:start|end)_of_turn>|\[/?INST\]"
)
_AROUND: Final = " \t\r\n\"':,}"
"""What a token may hold beside a digit, in JSON."""
_BYTE: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPELLINGS: Final = str.maketrans({"▁": " ", "Ġ": " ", "Ċ": "\n", "ĉ": "\t"})
"""How tokenizers of SentencePiece and of bytes write white space."""
_FLAT: Final = re.compile(r"\{[^{}]*\}")
_MOST_TRIES: Final = 1000
"""Braces of an answer at which an object is looked for."""


def whole(completion: Completion) -> str:
    """The text of an answer that was given, to the whole question, to its end.

    Raises:
        Unparsable: the model declined, max_tokens cut the answer, or the server cut the prompt.
    """
    if completion.refused:
        raise Unparsable("refused")
    if completion.prompt_cut:
        raise Unparsable("the server cut the prompt")
    if completion.cut:
        raise Unparsable("cut by max_tokens")
    return completion.content


def parse_verbalized(content: str) -> float:
    """Read `{"uncertainty": N}`, wherever it stands in an answer that holds it once.

    A number above 0 and up to 1 that is written with a fraction leaves open whether the judge
    used our scale or one from 0 to 1, so it is not a score.

    Returns:
        N / 100.

    Raises:
        Unparsable: anything else.
    """
    return number_of(find_object(content, "uncertainty"), "uncertainty", (0, 100)) / 100


def parse_numbers(content: str, scale: Mapping[str, tuple[int, int]]) -> dict[str, float]:
    """The numbers of the one object in an answer that has them all.

    Args:
        content: the answer.
        scale: name and bounds of each.

    Raises:
        Unparsable: there is no such object, or a number is not within its bounds.
    """
    answer = find_object(content, *scale)
    return {key: number_of(answer, key, bounds) for key, bounds in scale.items()}


def number_of(answer: Mapping[str, Any], key: str, bounds: tuple[int, int]) -> float:
    """A number within bounds, written as a number or as text.

    Raises:
        Unparsable: anything else, and a fraction that may be on a scale from 0 to 1.
    """
    value = answer[key]
    if isinstance(value, str) and (written := _NUMBER.fullmatch(value)):
        value = float(written.group(1)) if "." in written.group(1) else int(written.group(1))
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Unparsable(f"`{key}` is not a number")
    least, most = bounds
    if not least <= value <= most:
        raise Unparsable(f"`{key}` is not in {least} to {most}")
    if isinstance(value, float) and 0 < value <= 1 < most:
        raise Unparsable(f"`{key}` may be on a scale from 0 to 1")
    return float(value)


def find_object(content: str, *keys: str) -> dict[str, Any]:
    """The one JSON object of an answer that has these keys, whatever stands around it.

    Prose, a code block, thinking before it and tokens that end a turn are passed over.

    Raises:
        Unparsable: there is none, or there are several that differ.
    """
    answer = _unwrapped(split_thinking(content).answer)
    found = [o for o in _objects(answer) if all(key in o for key in keys)]
    found = found or list(_nearly_json(answer, keys))
    if not found:
        raise Unparsable(f"no object with the key `{'` and `'.join(keys)}`")
    if any(other[key] != found[0][key] for other in found for key in keys):
        raise Unparsable(f"{len(found)} objects with the key `{'` and `'.join(keys)}`")
    return found[0]


def _unwrapped(answer: str) -> str:
    """An object that was encoded twice is a string in JSON."""
    if not answer.startswith('"'):
        return answer
    try:
        inner = json.loads(answer)
    except ValueError:
        return answer
    return inner if isinstance(inner, str) else answer


def _nearly_json(text: str, keys: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Flat objects as Python and JavaScript write them: other quotes, none, a comma too many.

    YAML reads those; every value is text, and a key that stands twice is not guessed at.
    """
    for braces in itertools.islice(_FLAT.finditer(text), _MOST_TRIES):
        if any(braces.group().count(key) != 1 for key in keys):
            continue
        try:
            value = yaml.load(braces.group(), yaml.BaseLoader)
        except (yaml.YAMLError, ValueError, RecursionError):
            continue
        if isinstance(value, dict) and all(key in value for key in keys):
            yield value


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Every JSON object in a text, those inside others too."""
    place = text.find("{")
    for _ in range(_MOST_TRIES):
        if place < 0:
            return
        try:
            value, end = _DECODER.raw_decode(text, place)
        except (ValueError, RecursionError):
            end = place + 1
        else:
            yield from _inside(value)
        place = text.find("{", end)


def _inside(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    if isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _inside(item)


def expected_score(content: str, tokens: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Expectation over the digits at the token of the answer.

    Args:
        content: the answer: a digit, alone on its first line.
        tokens: `choices[0].logprobs.content` of a chat completion: for each token its text and
            `top_logprobs`, the most likely tokens at its place with their log-probabilities.
            Those of thinking before the answer, of white space and of a turn's end are passed over.

    Returns:
        The score in [0, 1] and the covered mass.

    Raises:
        Unparsable: the answer is not a digit.
        NoLogprobs: there are no log-probabilities.
    """
    answered = read_digit(content)
    place = _place_of_answer(tokens)
    if place is None or _digit(place) != answered:
        raise NoLogprobs
    expectation, covered = _expectation(place)
    return expectation / 9, covered


def expected_numbers(
    content: str, tokens: Sequence[Mapping[str, Any]], scale: Mapping[str, tuple[int, int]]
) -> tuple[dict[str, float], float]:
    """Expectation of each digit of a JSON object, at the token that states it.

    Args:
        content: the answer, with one object.
        tokens: as of `expected_score`.
        scale: name and bounds of each digit.

    Returns:
        The expectations, and the least of the covered masses.

    Raises:
        Unparsable: the answer has not the numbers, or digits are not what the model meant.
        NoLogprobs: there are no log-probabilities at their places.
    """
    stated = parse_numbers(content, scale)
    texts = [_text(token) for token in tokens]
    answer, start = "".join(texts), split_thinking("".join(texts)).start
    ends = list(itertools.accumulate(len(text) for text in texts))
    values, masses = {}, []
    for key in scale:
        # The last: a reason in front may speak of the numbers.
        found = list(re.finditer(rf'"{re.escape(key)}"\s*:\s*"?(?=\d)', answer[start:]))
        if not found:
            raise NoLogprobs
        at = start + found[-1].end()
        place = tokens[bisect.bisect_right(ends, at)]
        if _digit(place) != stated[key]:
            raise NoLogprobs
        values[key], covered = _expectation(place)
        masses.append(covered)
    return values, min(masses)


def _expectation(place: Mapping[str, Any]) -> tuple[float, float]:
    """Expectation over the digits at one place, from 0 to 9, and the covered mass.

    Raises:
        Unparsable: digits are not what the model meant.
        NoLogprobs: there are no log-probabilities.
    """
    candidates = place.get("top_logprobs")
    if not isinstance(candidates, list) or not candidates:
        raise NoLogprobs
    mass = [0.0] * 10
    for candidate in candidates:
        digit, logprob = _digit(candidate), candidate.get("logprob")
        if digit is not None and isinstance(logprob, (int, float)) and logprob <= _ROUNDING:
            mass[digit] += math.exp(min(logprob, 0.0))
    covered = math.fsum(mass)
    if covered < LEAST_MASS:
        raise Unparsable(f"digits have a probability of {covered:.3g} only")
    return math.fsum(digit * p for digit, p in enumerate(mass)) / covered, min(covered, 1.0)


def read_digit(content: str) -> int:
    """A digit from 0 to 9, alone on the first line of an answer, in a code block or emphasised.

    Raises:
        Unparsable: anything else.
    """
    answer = split_thinking(content).answer
    if wrapped := _DIGIT_WRAPPED.fullmatch(answer):
        return int(wrapped.group("digit"))
    if not _DIGIT_ALONE.fullmatch(answer):
        raise Unparsable("the answer is not a digit")
    return int(answer.strip()[0])


def _place_of_answer(tokens: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The first token of the answer that is a digit."""
    texts = [_text(token) for token in tokens]
    start, end = split_thinking("".join(texts)).start, 0
    for token, text in zip(tokens, texts, strict=True):
        end += len(text)
        if end > start and _digit(token) is not None:
            return token
    return None


def _text(token: Mapping[str, Any]) -> str:
    """A token as text, however its tokenizer spells it."""
    values = token.get("bytes")
    if isinstance(values, list) and values:
        try:
            return bytes(values).decode("utf-8")
        except (TypeError, ValueError):
            pass
    text = token.get("token")
    if not isinstance(text, str):
        return ""
    if byte := _BYTE.fullmatch(text):
        return chr(int(byte.group(1), 16))
    return text.translate(_SPELLINGS)


def _digit(token: Mapping[str, Any]) -> int | None:
    text = _SPECIAL.sub("", _text(token)).strip(_AROUND)
    return int(text) if len(text) == 1 and text in "0123456789" else None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    answer = dict(pairs)
    if len(answer) < len(pairs):
        raise ValueError("a key stands twice")
    return answer


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant)
