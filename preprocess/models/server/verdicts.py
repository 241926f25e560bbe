"""What a reply means for the one who asked."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from .completions import Completion

_ANY_REQUEST: Final = {408, 425, 502, 503, 504, 520, 521, 522, 523, 524, 529, 530}


class Kind(Enum):
    """What to do about a reply."""

    COMPLETION = "completion"
    RETRY = "retry"
    RATE_LIMITED = "rate limited"
    UNREACHABLE = "unreachable"
    REFUSED = "refused"
    TOO_LONG = "too long"
    BAD_REQUEST = "bad request"
    FATAL = "fatal"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A reply, read.

    Attributes:
        kind: what to do.
        message: what the server said, shortened.
        status: of HTTP; 0 where no answer came, 200 for an answer that is none.
        completion: where kind is COMPLETION.
        retry_after: seconds, where the server named them.
        param: the request's parameter that the server objects to, where it named one.
        charged: what an answer that is none took, where the server says so.
        in_answer: it came as a success that holds no answer, and names no status.
        unpaid: it is about money.
    """

    kind: Kind
    message: str = ""
    status: int = 0
    completion: Completion | None = None
    retry_after: float | None = None
    param: str = ""
    charged: Completion | None = None
    in_answer: bool = False
    unpaid: bool = False

    @property
    def is_about_the_server(self) -> bool:
        """Whether it would have said so of any request: it is starting, busy or away."""
        return self.kind is not Kind.RETRY or self.status in _ANY_REQUEST

    @property
    def is_lost(self) -> bool:
        """Whether there may be an answer, made and charged for, that is not here."""
        return self.kind is Kind.RETRY and self.status in (0, 200)
