"""What asking would take: requests, tokens and price, told before anything is sent."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from ..calls.cache import Cache
from ..calls.outcomes import WITHOUT_SCORE
from ..calls.prices import Price, usd
from ..data.sample import Sample
from ..estimators.base import Plan, RunOptions
from .batch import DISCOUNT
from .frame import BYTES_PER_TOKEN
from .uncertainty import Judge, Shown

_AT_A_TIME: Final = 1024
_COUNTED: Final = 256
"""Requests that are tokenised; the rest is taken to have as many tokens for a byte."""
_ENCODING_SECONDS: Final = 10.0
"""tiktoken downloads its encodings, without a time limit of its own."""
_ANSWER_TOKENS: Final = {"verbalized": 8, "expected": 1}
_FRAME_TOKENS: Final = 10
"""Tokens that a chat request takes beside its text."""


class TokenCounter:
    """Counts the prompt tokens of many requests to one model: by tiktoken where it knows it.

    Args:
        model: its name.
    """

    def __init__(self, model: str) -> None:
        self._encoding = _encoding(model)
        self._bytes = 0.0
        self._counted_bytes = 0
        self._counted_tokens = 0
        self._counted = 0

    @property
    def how(self) -> str:
        """Where the number comes from, in words."""
        return "by tiktoken" if self._encoding is not None else "estimated, 4 bytes a token"

    @staticmethod
    def estimate(text: str) -> float:
        """Tokens of a text, roughly."""
        return len(text.encode("utf-8", "replace")) / BYTES_PER_TOKEN

    def add(self, text: str, times: int = 1, more_tokens: float = 0.0) -> None:
        """Count a request.

        Args:
            text: of all of its messages.
            times: how often it is sent.
            more_tokens: of text that is not known yet, in each.
        """
        size = len(text.encode("utf-8", "replace"))
        self._bytes += times * (size + more_tokens * BYTES_PER_TOKEN)
        if self._encoding is not None and self._counted < _COUNTED:
            self._counted += 1
            self._counted_bytes += size
            self._counted_tokens += _FRAME_TOKENS + len(self._encoding.encode_ordinary(text))

    @property
    def tokens(self) -> int:
        """Of all requests together."""
        if not self._counted_bytes:
            return int(self._bytes) // BYTES_PER_TOKEN
        return round(self._bytes * self._counted_tokens / self._counted_bytes)


@dataclass(frozen=True, slots=True)
class Work:
    """What one model has left to answer.

    Attributes:
        price: None where it is not known.
        requests: that the cache does not answer.
        prompt: tokens that are likely.
        answer: likewise, of all completions.
        most_prompt: prompt tokens where every sampled response fills max_tokens.
        most_answer: completion tokens where every answer fills max_tokens.
        how: where the number of prompt tokens comes from.
    """

    price: Price | None
    requests: int
    prompt: int
    answer: int
    most_prompt: int
    most_answer: int
    how: str

    def plan(self, line: str) -> Plan:
        """The plan that a line introduces: tokens and price below it."""
        if not self.requests:
            return Plan([line])
        tokens = f"about {self.prompt:,} prompt and {self.answer:,} completion tokens"
        lines = [line, f"  {tokens} ({self.how})"]
        if self.price is None:
            lines.append("  no price is known for this model at this server")
            return Plan(lines, requests=self.requests, cost_usd=None, most_usd=None)
        likely = self.price.cost(self.prompt, self.answer)
        most = self.price.cost(self.most_prompt, self.most_answer)
        lines.append(f"  {_told(likely, most)}")
        return Plan(lines, requests=self.requests, cost_usd=likely, most_usd=most)


def joined(plans: Iterable[Plan]) -> Plan:
    """Several plans as one; with the price of all together where several cost something."""
    parts = list(plans)
    likely = _sum(plan.cost_usd for plan in parts)
    most = _sum(plan.most_usd for plan in parts)
    lines = [line for plan in parts for line in plan.lines]
    if sum(plan.cost_usd != 0 for plan in parts) > 1:
        if likely is None or most is None:
            lines.append("in all: no price is known, because one of these has none")
        else:
            lines.append(f"in all {_told(likely, most)}")
    return Plan(lines, sum(plan.requests for plan in parts), likely, most)


def plan_judges(
    judges: Sequence[Judge], samples: Sequence[Sample], cache: Cache, options: RunOptions
) -> Plan:
    """The plan of one judge or of a panel."""
    return joined(_plan_judge(judge, samples, cache, options) for judge in judges)


def _plan_judge(judge: Judge, samples: Sequence[Sample], cache: Cache, options: RunOptions) -> Plan:
    counter, shown, requests = TokenCounter(judge.config.model), Shown(), 0
    for sample in _left(judge, samples, cache, options):
        chat = judge.chat(sample, 0, shown)
        counter.add("".join(message["content"] for message in chat.messages))
        requests += 1
    price = judge.price
    if price is not None and judge.config.mode == "batch":
        price = price.times(DISCOUNT)
    work = Work(
        price=price,
        requests=requests,
        prompt=counter.tokens,
        answer=requests * _ANSWER_TOKENS[judge.score],
        most_prompt=counter.tokens,
        most_answer=requests * judge.config.max_tokens,
        how=counter.how,
    )
    wanted = len(samples) * judge.config.repeats
    known = wanted - requests
    rest = f"; {known:,} of {wanted:,} are in the cache or equal to another" if known else ""
    return work.plan(f"{judge.config.model} at {judge.server.url}: {requests:,} requests{rest}")


def _left(
    judge: Judge, samples: Sequence[Sample], cache: Cache, options: RunOptions
) -> Iterator[Sample]:
    """The sample of each request that would be sent."""
    seen: set[int] = set()
    source = iter(samples)
    while chunk := list(islice(source, _AT_A_TIME)):
        questions = {
            judge.keys.key(sample, repeat): sample
            for sample in chunk
            for repeat in range(judge.config.repeats)
        }
        known = cache.find(questions)
        for key, sample in questions.items():
            kept = known.get(key)
            again = kept is not None and (
                judge.is_stale(kept) or (options.retry_failed and kept.outcome in WITHOUT_SCORE)
            )
            # Eight bytes tell a million questions apart and take a fraction of the memory.
            short = int.from_bytes(key[:8], "big")
            if (kept is not None and not again) or short in seen:
                continue
            seen.add(short)
            yield sample


def _told(likely: float, most: float) -> str:
    return f"about {usd(likely)} USD; {usd(most)} USD if every answer fills max_tokens"


def _sum(costs: Iterable[float | None]) -> float | None:
    known = list(costs)
    return None if None in known else sum(cost or 0.0 for cost in known)


@functools.cache
def _encoding(model: str) -> Any:
    """Tiktoken's encoding of a model; None where it has none, or cannot download it."""
    found: list[Any] = []

    def load() -> None:
        import tiktoken

        try:
            found.append(tiktoken.encoding_for_model(model))
        except (KeyError, OSError):
            return

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    thread.join(_ENCODING_SECONDS)
    return found[0] if found else None
