"""What a judge is asked about a response, and how its answers are read.

Factual: the judge lists the checkable claims and gives each a verdict. Value: one digit for each
principle, read as the expectation over the digits where the server gives log-probabilities, and as
the digit itself where not. The wording is in `templates/`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from axolotl_ual.settings.pairs import PairsJudgeConfig

from ..judge.frame import Fenced
from ..judge.parse import NoLogprobs, Unparsable, expected_score, parse_object
from ..judge.rubric import TEMPLATES, TOP_LOGPROBS
from ..models.server.replies import Completion
from .factual import VERDICTS, unsupported_share

_DIGIT_TOKENS: Final = 3
"""Room for a digit where a tokenizer puts a blank before it."""

CLAIMS_SCHEMA: Final[dict[str, Any]] = {
    "type": "json_schema",
    "json_schema": {
        "name": "claims",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {
                "claims": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "claim": {"type": "string"},
                            "verdict": {"type": "string", "enum": list(VERDICTS)},
                        },
                        "required": ["claim", "verdict"],
                        "additionalProperties": False,
                    },
                }
            },
            "required": ["claims"],
            "additionalProperties": False,
        },
    },
}


class Aspect(Protocol):
    """What a judge is asked about a response, and how its answer is read."""

    @property
    def instructions(self) -> str:
        """The system message."""
        ...

    @property
    def description(self) -> dict[str, Any]:
        """What shapes an answer besides the model and the sample."""
        ...

    def limits(self, config: PairsJudgeConfig) -> dict[str, Any]:
        """Fields of the request that depend on how the answer is read."""
        ...

    def likely_tokens(self, response: float, config: PairsJudgeConfig) -> float:
        """Tokens that an answer is likely to have, about a response of so many."""
        ...

    def read(self, completion: Completion) -> tuple[float, float | None]:
        """Score in [0, 1] and covered mass.

        Raises:
            Unparsable: the answer is not what was asked for.
        """
        ...


@dataclass(frozen=True)
class Claims:
    """The share of checkable claims that are not supported."""

    instructions: str

    @property
    def description(self) -> dict[str, Any]:
        """What shapes an answer besides the model and the sample."""
        return {"kind": "factual", "instructions": _digest(self.instructions)}

    def limits(self, config: PairsJudgeConfig) -> dict[str, Any]:
        """A JSON object by schema."""
        return {"max_tokens": config.max_tokens, "response_format": CLAIMS_SCHEMA}

    def likely_tokens(self, response: float, config: PairsJudgeConfig) -> float:
        """The claims say again what the response says, with verdicts and the signs of JSON."""
        return min(config.max_tokens, 2 * response + 10)

    def read(self, completion: Completion) -> tuple[float, float | None]:
        """Read the claims."""
        return unsupported_share(parse_claims(completion.content)), None


@dataclass(frozen=True)
class Principle:
    """Departure from one principle."""

    instructions: str

    @property
    def description(self) -> dict[str, Any]:
        """What shapes an answer besides the model and the sample."""
        return {"kind": "value", "instructions": _digest(self.instructions)}

    def limits(self, config: PairsJudgeConfig) -> dict[str, Any]:
        """One digit with the likeliest tokens beside it."""
        return {"max_tokens": _DIGIT_TOKENS, "top_logprobs": TOP_LOGPROBS}

    def likely_tokens(self, response: float, config: PairsJudgeConfig) -> float:
        """A digit."""
        return 1

    def read(self, completion: Completion) -> tuple[float, float | None]:
        """Read the digit."""
        try:
            return expected_score(completion.content, completion.logprobs or [])
        except NoLogprobs:
            return parse_digit(completion.content), None


def parse_claims(content: str) -> list[str]:
    """Verdicts of `{"claims": [{"claim": ..., "verdict": ...}]}`.

    Raises:
        Unparsable: anything else.
    """
    claims = parse_object(content).get("claims")
    if not isinstance(claims, list):
        raise Unparsable("no list `claims`")
    verdicts = [claim.get("verdict") if isinstance(claim, dict) else None for claim in claims]
    if any(verdict not in VERDICTS for verdict in verdicts):
        raise Unparsable("a claim without one of the verdicts")
    return [str(verdict) for verdict in verdicts]


def parse_digit(content: str) -> float:
    """A digit from 0 to 9 that stands alone, as a number in [0, 1].

    Raises:
        Unparsable: anything else.
    """
    body = content.strip()
    if len(body) != 1 or body not in "0123456789":
        raise Unparsable("the answer is not a digit")
    return int(body) / 9


def claims_aspect() -> Claims:
    """The question about facts."""
    return Claims(_module("factual-v1").instructions(_module("frame-v1").reading()))


def principle_aspects(principles: dict[str, str]) -> list[Principle]:
    """One question for each principle."""
    module, reading = _module("value-v1"), _module("frame-v1").reading()
    return [
        Principle(module.instructions(reading, name, text)) for name, text in principles.items()
    ]


def frame(fenced: Fenced) -> str:
    """The dialogue in its frame."""
    return str(_module("frame-v1").sample(fenced.marker, fenced.parts))


class _Module(Protocol):
    def instructions(self, *arguments: str) -> str: ...

    def reading(self) -> str: ...

    def sample(self, marker: str, parts: Sequence[Any]) -> str: ...


_LOADED: dict[str, _Module] = {}


def _module(name: str) -> _Module:
    if name not in _LOADED:
        environment = ImmutableSandboxedEnvironment(
            autoescape=False, lstrip_blocks=True, trim_blocks=True, undefined=StrictUndefined
        )
        source = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
        _LOADED[name] = cast("_Module", environment.from_string(source).module)
    return _LOADED[name]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
