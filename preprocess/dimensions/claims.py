"""`factual: judge`: which checkable claims of a response are supported?

The judge lists the claims and gives each a verdict; the wording is in `judge/templates/`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

from axolotl_ual.settings.pairs import PairsJudgeConfig

from ..calls.ask import Session
from ..calls.plan import Plan
from ..calls.task import Reading, Unparsable
from ..data.responses import ResponseSet
from ..judge.parse import find_object, whole
from ..models.server.prices import BYTES_PER_TOKEN
from ..models.server.replies import Completion
from ..sampling.base import Unsampled
from .base import DimensionScores, Show, Usable
from .factual import VERDICTS, unsupported_share
from .judged import Judge
from .review import Review, Reviewed, reading, template

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


@dataclass(frozen=True)
class FactualByClaims:
    """Factual uncertainty by a judge.

    Attributes:
        judge: asks about claims.
    """

    name = "factual"
    compares_evidence = False
    judge: Judge

    def check(self) -> None:
        """Find what the judge is missing."""
        self.judge.check()

    def plan(self, data: ResponseSet, unsampled: Unsampled | None, scorings: int) -> Plan:
        """What would be asked."""
        return self.judge.plan(data, unsampled, scorings)

    def score(self, usable: Usable, repeat: int, show: Show) -> DimensionScores:
        """Ask for the claims of each response."""
        rated = self.judge.ask(usable, repeat, show)
        scores = DimensionScores(usable.none(), usage=rated.usage)
        scores.facts = {**rated.shown, **self.judge.facts}
        for row, place in zip(usable.rows, rated.place, strict=True):
            answer = rated.answers[0][place][0]
            if answer.score is None:
                scores.failures[answer.outcome.value] += 1
            else:
                scores.uncertainty[row] = answer.score
        return scores


def build(config: PairsJudgeConfig, session: Session, keep_truncated: bool) -> FactualByClaims:
    """Make the dimension."""
    note = "claims taken to be twice as long as responses"
    tasks = [claims_task(config)]
    return FactualByClaims(Judge(config, session, "factual", tasks, keep_truncated, note=note))
