"""How a question can end."""

from __future__ import annotations

from enum import Enum
from typing import Final


class Outcome(str, Enum):
    """How a question ended; the values stand in caches, manifests and `unscored.jsonl`."""

    SCORED = "scored"
    REFUSED = "refused"
    """By the model or by a content filter."""
    UNPARSABLE = "unparsable"
    """An answer that is not what was asked for. Never scored."""
    CUT = "cut by max_tokens"
    """Unparsable because it ended too early."""
    TOO_LONG = "too long"
    """For the model's context."""
    FAILED = "failed"
    """No answer after all tries. Not kept: the next run asks again."""
    NO_LOGPROBS = "no log-probabilities"
    """`score: expected` could not be had from this server; the run falls back."""

    def __str__(self) -> str:
        return self.value


WITHOUT_SCORE: Final = frozenset(
    {Outcome.REFUSED, Outcome.UNPARSABLE, Outcome.CUT, Outcome.TOO_LONG}
)
"""What --retry-failed asks for again."""
KEPT: Final = frozenset(Outcome) - {Outcome.FAILED, Outcome.NO_LOGPROBS}
"""Answers that were had: stored, and not asked for again without --retry-failed."""
