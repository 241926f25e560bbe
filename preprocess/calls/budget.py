"""Paid requests: the most that one can cost is set aside before it is sent, and settled after.

    most = p_in * (bytes of the text + frame) + p_out * n * max_tokens

A tokenizer that falls back to bytes never makes more tokens than there are bytes, so the bound
holds for any language. The prompt is paid once for all n completions of a request. Where a server
does not say how many tokens an answer took, it is taken to have cost the most.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import orjson

from axolotl_ual.columns import ManifestUsage
from axolotl_ual.errors import ConfigError
from axolotl_ual.settings.server import ServerConfig

from ..models.server.client import ChatBackend, Server
from ..models.server.dialect import Chat
from ..models.server.replies import Completion
from ..progress import Progress
from .prices import Price, Purse, find_price, usd

_FRAME_TOKENS: Final = 64
"""What chat templates put around messages: roles, separators, a line about the date."""
_SHOWN_EVERY: Final = 0.5


def price_of(config: ServerConfig, server: Server) -> Price | None:
    """The price of a section's model; None where it is not known.

    Raises:
        ConfigError: the price list cannot be read.
    """
    return find_price(config.model, server.base_url, config.prices, server.section)


def check_price(price: Price | None, purse: Purse, model: str, server: Server) -> None:
    """Tell before the first request that a limit cannot be kept to.

    Raises:
        ConfigError: spending is limited and the price is not known.
    """
    if purse.limit is not None and price is None:
        raise ConfigError(
            f"--max-cost: no price is known for {model} at {server.url}",
            f"write one to a YAML file, as `{model}: {{input: 0.5, output: 1.5}}` in USD for a "
            f"million tokens, and name the file as {server.section}.prices",
        )


def highest_cost(price: Price | None, chat: Chat) -> float:
    """USD that a request can cost at most; 0 where no price is known."""
    if price is None:
        return 0.0
    asked = [[*chat.messages, *chat.tools], chat.plain or []]
    prompt = _FRAME_TOKENS + max(sum(len(orjson.dumps(p)) for p in parts) for parts in asked)
    if chat.response_format is not None:
        prompt += len(orjson.dumps(chat.response_format))
    return price.most(prompt, chat.n * chat.max_tokens)


def cost_of(price: Price | None, completion: Completion, most: float) -> float:
    """USD that a completion cost; `most` where the server does not count its tokens."""
    if price is None:
        return 0.0
    if not completion.prompt_tokens and not completion.completion_tokens:
        return most
    return price.cost(
        completion.prompt_tokens, completion.completion_tokens, completion.cached_tokens
    )


async def ask_paid(
    backend: ChatBackend, chat: Chat, price: Price | None, purse: Purse
) -> Completion:
    """Ask as soon as the purse allows it.

    Raises:
        NoCompletion: there is no answer to this request.
        BackendError: there would be none to any other either.
        LimitError: no further request may be paid for.
    """
    most = highest_cost(price, chat)
    account = _Account(purse, most)
    await account.again()
    spent = 0.0
    try:
        completion = await backend.ask(chat, account)
        spent = cost_of(price, completion, most)
    finally:
        account.close(spent)
    return completion


class _Account:
    """What is set aside for one request and its further tries."""

    def __init__(self, purse: Purse, most: float) -> None:
        self._purse = purse
        self._most = most
        self._reserved: float | None = None

    async def again(self) -> None:
        if self._reserved is None:
            await self._purse.reserve(self._most)
            self._reserved = self._most

    def lost(self) -> None:
        self._purse.settle(self._reserved or 0.0, 0.0, lost=self._most)
        self._reserved = None

    def close(self, spent: float) -> None:
        self._purse.settle(self._reserved or 0.0, spent)


class Meter:
    """What one stretch of work spends from a purse that others use before and after it.

    Args:
        purse: of the command.
        total: answers that are wanted, those in the cache included.
    """

    def __init__(self, purse: Purse, total: int) -> None:
        self._purse = purse
        self._before = purse.spent
        self._lost_before = purse.lost
        self._total = total
        self._done = 0
        self._shown_at = 0.0

    @property
    def spent(self) -> float:
        """USD since this meter was made."""
        return self._purse.spent - self._before

    def count(self, answers: int = 1) -> None:
        """Count answers that were had."""
        self._done += answers

    def status(self) -> str:
        """Spent and expected cost; empty while nothing is spent."""
        if not self.spent:
            return ""
        expected = self.spent * self._total / min(max(self._done, 1), self._total)
        return f"${usd(self.spent)} of about ${usd(expected)}"

    def show(self, progress: Progress, *, last: bool = False) -> None:
        """Set the status of a progress, not too often; at last, tell what may be paid as well."""
        now = time.monotonic()
        if last or now - self._shown_at > _SHOWN_EVERY:
            self._shown_at = now
            progress.status(self.status())
        if last:
            self.tell_lost(progress)

    def tell_lost(self, progress: Progress) -> None:
        """Say what answers that never arrived may have cost."""
        lost = self._purse.lost - self._lost_before
        if lost > 0:
            progress.say(
                f"answers that never arrived (timeout, lost connection) may have cost up to "
                f"{lost:.4f} USD more, if the server charges for them"
            )
            self._lost_before = self._purse.lost

    def cost(self, priced: bool, requests: int) -> float | None:
        """For the manifest: None where requests were sent at a price that is not known."""
        return self.spent if priced or not requests else None


def total_usage(usages: Sequence[ManifestUsage]) -> ManifestUsage:
    """The sum; a part that sent nothing cost nothing, whatever it says of prices."""
    costs = [usage.cost_usd if usage.requests else 0.0 for usage in usages]
    return ManifestUsage(
        requests=sum(usage.requests for usage in usages),
        cached=sum(usage.cached for usage in usages),
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        cost_usd=None if None in costs else sum(cost or 0.0 for cost in costs),
    )


def usage_line(usage: ManifestUsage) -> str:
    """The closing line about requests, tokens and cost."""
    cost = "" if usage.cost_usd is None else f", {usage.cost_usd:.4f} USD"
    return (
        f"{usage.requests:,} requests sent, {usage.cached:,} answers from the cache, "
        f"{usage.prompt_tokens:,} + {usage.completion_tokens:,} tokens{cost}"
    )
