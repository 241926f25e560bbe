"""The table of what servers do: `BEHAVIOURS`, one small function each."""

from __future__ import annotations

from . import (
    answers,
    contexts,
    dialects,
    errors,
    forms,
    gateways,
    limits,
    logprobs,
    streaks,
    thinking,
)
from .kit import BEHAVIOURS, DROP, HANG, Asked, Behaviour, row_of, score_of, text_of

__all__ = [
    "BEHAVIOURS",
    "DROP",
    "HANG",
    "Asked",
    "Behaviour",
    "answers",
    "contexts",
    "dialects",
    "errors",
    "forms",
    "gateways",
    "limits",
    "logprobs",
    "row_of",
    "score_of",
    "streaks",
    "text_of",
    "thinking",
]
