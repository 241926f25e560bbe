"""What a command would ask and what that would cost, told before anything is sent."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, runtime_checkable

from ..models.server.content import images_in, said
from ..models.server.image_tokens import likely_tokens, most_tokens
from ..models.server.prices import BYTES_PER_TOKEN, Price, usd
from .pending import Once, OnKnown, Pending
from .task import Question

_COUNTED: Final = 256
"""Requests that are tokenised; the rest is taken to have as many tokens for a byte."""

_ENCODING_SECONDS: Final = 10.0
"""tiktoken downloads its encodings, without a time limit of its own."""

_FRAME_TOKENS: Final = 10
"""Tokens that a chat request takes beside its text."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What an estimator would do: the answer to --dry-run.

    Attributes:
        lines: sentences for the user.
        requests: requests that would be sent, with what the cache holds taken off.
        cost_usd: what is likely; None where no price is known, 0 where nothing is paid.
        most_usd: if every answer fills max_tokens; likewise.
    """

    lines: list[str]
    requests: int = 0
    cost_usd: float | None = 0.0
    most_usd: float | None = 0.0


@runtime_checkable
class Paying(Protocol):
    """What asks servers: an estimator, a sampler, the dimensions of pairs."""

    def check(self) -> None:
        """Find what is missing before anything is sent.

        Raises:
            ConfigError: a key, or a price where spending is limited.
        """
        ...


class TokenCounter:
    """Counts the prompt tokens of many requests to one model: by tiktoken where it knows it.

    Args:
        model: its name.
    """

    def __init__(self, model: str) -> None:
        self._encoding = _encoding(model)
        self._bytes = 0
        self._counted_bytes = 0
        self._counted_tokens = 0
        self._counted = 0

    @property
    def how(self) -> str:
        """Where the number comes from, in words."""
        return "by tiktoken" if self._encoding is not None else "estimated, 4 bytes a token"

    def add(self, text: str) -> None:
        """Count a request by the text of all of its messages."""
        size = len(text.encode("utf-8", "replace"))
        self._bytes += size
        if self._encoding is not None and self._counted < _COUNTED:
            self._counted += 1
            self._counted_bytes += size
            self._counted_tokens += _FRAME_TOKENS + len(self._encoding.encode_ordinary(text))

    @property
    def tokens(self) -> float:
        """Of all requests together."""
        if not self._counted_bytes:
            return self._bytes / BYTES_PER_TOKEN
        return self._bytes * self._counted_tokens / self._counted_bytes


@dataclass(frozen=True, slots=True)
class Work:
    """What one model has left to answer.

    Attributes:
        price: None where it is not known.
        how: where the number of prompt tokens comes from.
        requests: that the cache does not answer.
        completions: wanted by these requests.
        prompt: tokens that are likely.
        answer: likewise, of all completions.
        most_prompt: prompt tokens where every response that is still to come fills max_tokens.
        most_answer: completion tokens where every answer fills max_tokens.
    """

    price: Price | None
    how: str
    requests: int
    completions: int
    prompt: float
    answer: float
    most_prompt: float
    most_answer: float

    def __add__(self, other: Work) -> Work:
        """This and more of the same model."""
        return replace(self, **{name: getattr(self, name) + getattr(other, name) for name in _SUMS})

    def times(self, number: int) -> Work:
        """This, so many times."""
        return replace(self, **{name: getattr(self, name) * number for name in _SUMS})

    def plan(self, line: str) -> Plan:
        """The plan that a line introduces: tokens and price below it."""
        if not self.requests:
            return Plan([line])
        prompt, answer = int(self.prompt), round(self.answer)
        tokens = f"about {prompt:,} prompt and {answer:,} completion tokens"
        lines = [line, f"  {tokens} ({self.how})"]
        if self.price is None:
            lines.append("  no price is known for this model at this server")
            return Plan(lines, requests=self.requests, cost_usd=None, most_usd=None)
        likely = self.price.cost(prompt, answer)
        most = self.price.cost(int(self.most_prompt), round(self.most_answer))
        lines.append(f"  {_told(likely, most)}")
        return Plan(lines, requests=self.requests, cost_usd=likely, most_usd=most)


_SUMS: Final = ("requests", "completions", "prompt", "answer", "most_prompt", "most_answer")


def count_work(
    pending: Pending,
    questions: Iterable[Question],
    model: str,
    price: Price | None,
    on_known: OnKnown,
) -> Work:
    """Count what would be asked.

    Args:
        pending: tells what that is.
        questions: all of them.
        model: that is asked.
        price: of its tokens.
        on_known: called for questions that the cache answers.
    """
    counter = TokenCounter(model)
    requests, completions, answer, most_answer = 0, 0, 0.0, 0
    images, of_images, most_of_images = 0, 0, 0
    for found in pending(questions, Once(), on_known):
        for question in found:
            chat = question.task.chat(question.item, question.repeat)
            shown = chat.messages if chat.plain is None else chat.plain
            counter.add("".join(map(said, shown)))
            for image in images_in(shown):
                images += 1
                of_images += likely_tokens(image)
                most_of_images += most_tokens(image, model)
            requests += 1
            completions += chat.n
            answer += chat.n * question.task.likely_tokens(question.item)
            most_answer += chat.n * chat.max_tokens
    prompt, how = counter.tokens, counter.how
    if images:
        how = (
            f"{how}; {images:,} images are taken for {of_images:,} of these tokens, which is an "
            f"estimate by OpenAI's tiles, and for {most_of_images:,} at most"
        )
    return Work(
        price,
        how,
        requests,
        completions,
        prompt + of_images,
        answer,
        prompt + most_of_images,
        most_answer,
    )


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
