"""How a question to a judge can end, and the count of it for every row."""

from __future__ import annotations

from typing import Final

SCORED: Final = "scored"
REFUSED: Final = "refused"
"""By the model or by a content filter."""
UNPARSABLE: Final = "unparsable"
"""An answer that is not what was asked for. Never scored."""
CUT: Final = "cut by max_tokens"
"""Unparsable because it ended too early."""
TOO_LONG: Final = "too long"
"""For the model's context."""
FAILED: Final = "failed"
"""No answer after all tries. Not kept: the next run asks again."""
NO_LOGPROBS: Final = "no log-probabilities"
"""`score: expected` could not be had from this server; the run falls back."""
OUTCOMES: Final = (SCORED, REFUSED, UNPARSABLE, CUT, TOO_LONG, FAILED, NO_LOGPROBS)
WITHOUT_SCORE: Final = frozenset({REFUSED, UNPARSABLE, CUT, TOO_LONG})
"""What --retry-failed asks for again."""
KEPT: Final = frozenset(OUTCOMES) - {FAILED}
"""Answers that were had: stored, and not asked for again without --retry-failed."""
