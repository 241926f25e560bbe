"""The task of `factual: judge`: which checkable claims of a response are supported?

The judge lists the claims and gives each a verdict; the wording is in `judge/templates/`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

from axolotl_ual.settings.pairs import PairsJudgeConfig

from ..calls.task import Reading, Unparsable
from ..judge.parse import find_object, whole
from ..models.server.prices import BYTES_PER_TOKEN
from ..models.server.replies import Completion
from .factual import VERDICTS, unsupported_share
from .review import Answers, Review, Reviewed, reading, template

SCHEMA: Final[dict[str, Any]] = {
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


@dataclass(frozen=True)
class Claims(Review):
    """The share of checkable claims that are not supported."""

    kind: ClassVar[str] = "factual"
    reminder: ClassVar[str] = (
        "Answer with one JSON object of the form that was described, and nothing else."
    )

    @property
    def form(self) -> dict[str, Any]:
        """A JSON object by schema."""
        return {"response_format": SCHEMA}

    def read(self, completion: Completion) -> Reading:
        """Read the claims."""
        return Reading(unsupported_share(parse_claims(whole(completion))))

    def likely_tokens(self, item: Reviewed) -> float:
        """The claims say again what the response says, with verdicts and the signs of JSON."""
        length = len(item.text.encode("utf-8", "replace")) / BYTES_PER_TOKEN
        return min(self.max_tokens, 2 * length + 10)


def claims_task(config: PairsJudgeConfig) -> Claims:
    """The question about facts."""
    return Claims(config, template("factual-v1").instructions(reading()))


def parse_claims(content: str) -> list[str]:
    """Verdicts of `{"claims": [{"claim": ..., "verdict": ...}]}`.

    Raises:
        Unparsable: anything else.
    """
    claims = find_object(content, "claims")["claims"]
    if not isinstance(claims, list):
        raise Unparsable("no list `claims`")
    verdicts = [claim.get("verdict") if isinstance(claim, dict) else None for claim in claims]
    if any(verdict not in VERDICTS for verdict in verdicts):
        raise Unparsable("a claim without one of the verdicts")
    return [str(verdict) for verdict in verdicts]


def factual_scores(
    answers: Answers,
) -> tuple[list[float], dict[int, str]]:
    """u_f of each response, NaN where there is none, and the reason for each that has none."""
    first = [repeats[0] for repeats in answers[0]]
    reasons = {row: given.outcome.value for row, given in enumerate(first) if given.score is None}
    return [float("nan") if given.score is None else given.score for given in first], reasons
