"""What a command may spend, and what each stretch of its work did spend.

The most that a request can cost is set aside before it is sent, and settled after, so that requests
in flight stay within the limit. Where a server does not say how many tokens an answer took, it is
taken to have cost the most.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from axolotl_ual.columns import ManifestUsage
from axolotl_ual.errors import LimitError

from ..models.server.client import ChatBackend, Counts
from ..models.server.dialect import Chat
from ..models.server.endpoint import Endpoint
from ..models.server.prices import usd
from ..models.server.replies import Completion
from ..progress import Progress

_MARGIN: Final = 1.5
"""Of answers that cost more than they could: how much more the next may cost."""
_SHOWN_EVERY: Final = 0.5
_LONGEST_SHOWN: Final = 200


class Budget:
    """What may be spent and what was. Reservations keep requests in flight within the limit.

    One budget serves a whole command, whatever models it asks, one after the other or together.

    Args:
        limit: USD, or None.

    Attributes:
        limit: likewise.
        spent: USD so far.
        lost: USD, at most, for answers that never arrived; servers charge for these or do not.
    """

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self._beyond: dict[str, float] = {}
        self._reserved = 0.0
        self._waiting: list[asyncio.Future[None]] = []
        self.spent = 0.0
        self.lost = 0.0

    def can_afford(self, cost: float) -> bool:
        """Whether so much more may be spent."""
        gone = self.spent + self.lost + self._reserved
        return self.limit is None or gone + cost <= self.limit

    def most(self, endpoint: Endpoint, chat: Chat) -> float:
        """USD that a request can cost at most, by what answers of its endpoint did cost.

        A server that charges for tokens beyond max_tokens (reasoning, at some) shows it by its
        first answer, and is expected to go on so.
        """
        return endpoint.highest_cost(chat) * self._beyond.get(endpoint.server.section, 1.0)

    def learn(self, endpoint: Endpoint, chat: Chat, cost: float) -> None:
        """Note what an answer cost."""
        most = endpoint.highest_cost(chat)
        if cost > most > 0:
            section = endpoint.server.section
            self._beyond[section] = max(self._beyond.get(section, 1.0), _MARGIN * cost / most)

    async def reserve(self, cost: float) -> None:
        """Set aside the most that a request can cost; waits for others where it must.

        Raises:
            LimitError: it might pass the limit, and nothing is in flight that could make room.
        """
        while self.limit is not None and not self.can_afford(cost):
            if self._reserved <= 0:
                raise limit_reached(self.limit, self.spent, self.lost, cost)
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn
        self._reserved += cost

    def settle(self, reserved: float, cost: float, lost: float = 0.0) -> None:
        """Replace a reservation by what was really spent, or may have been for a lost answer."""
        self._reserved = max(0.0, self._reserved - reserved)
        if self._reserved < 1e-12:
            self._reserved = 0.0
        self.spent += cost
        self.lost += lost
        waiting, self._waiting = self._waiting, []
        for turn in waiting:
            if not turn.done():
                turn.set_result(None)


def limit_reached(limit: float, spent: float, lost: float, cost: float) -> LimitError:
    """The error of a run that may not pay for its next request.

    Args:
        limit: USD that may be spent.
        spent: of them.
        lost: of them, at most, for answers that never arrived.
        cost: the most that the next request can cost.
    """
    beside = f", up to {lost:.4f} for lost answers" if lost else ""
    return LimitError(
        f"stopped before --max-cost: {spent:.4f} of {limit:.4f} USD spent{beside}, and the next "
        f"request may cost {cost:.4f}",
        "run the same command again with a higher --max-cost: what was answered is in the cache "
        "and is not paid again; nothing was written",
    )


async def ask_paid(
    backend: ChatBackend, chat: Chat, endpoint: Endpoint, budget: Budget
) -> Completion:
    """Ask as soon as the budget allows it.

    Raises:
        NoCompletion: there is no answer to this request.
        BackendError: there would be none to any other either.
        LimitError: no further request may be paid for.
    """
    account = _Account(budget, endpoint, chat)
    await account.again()
    spent = 0.0
    try:
        completion = await backend.ask(chat, account)
        spent = endpoint.cost(completion, endpoint.highest_cost(chat))
        budget.learn(endpoint, chat, spent)
    finally:
        account.close(spent)
    return completion


class _Account:
    """What is set aside for one request and its further tries."""

    def __init__(self, budget: Budget, endpoint: Endpoint, chat: Chat) -> None:
        self._budget = budget
        self._endpoint = endpoint
        self._chat = chat
        self._reserved: float | None = None

    async def again(self) -> None:
        if self._reserved is None:
            most = self._budget.most(self._endpoint, self._chat)
            await self._budget.reserve(most)
            self._reserved = most

    def lost(self, charged: Completion | None) -> None:
        most = self._budget.most(self._endpoint, self._chat)
        if charged is not None and charged.completion_tokens:
            cost = self._endpoint.cost(charged, most)
            self._budget.settle(self._reserved or 0.0, cost)
        else:
            self._budget.settle(self._reserved or 0.0, 0.0, lost=most)
        self._reserved = None

    def close(self, spent: float) -> None:
        self._budget.settle(self._reserved or 0.0, spent)


class Meter:
    """What one stretch of work asks and spends; others use the same budget before and after it.

    Args:
        budget: of the command.
        progress: where cost, failures and retries are shown.
        total: answers that are wanted, those in the cache included.

    Attributes:
        progress: likewise.
        counts: of the requests; every backend that works for this stretch adds to it.
        cached: answers that came from the cache.
        batched: answers that a batch brought into the cache.
        shortened: requests that show a sample by its head and tail.
        replaced: requests in which characters were replaced that UTF-8 cannot carry.
        first_unscored: the beginning of the first answer that gave no score.
    """

    def __init__(self, budget: Budget, progress: Progress, total: int) -> None:
        self._budget = budget
        self._before = budget.spent
        self._lost_before = budget.lost
        self._total = total
        self._done = self._unscored = self._unpriced = 0
        self._shown_at = 0.0
        self.progress = progress
        self.counts = Counts()
        self.cached = self.batched = 0
        self.shortened = self.replaced = 0
        self.first_unscored = ""

    @property
    def spent(self) -> float:
        """USD since this meter was made."""
        return self._budget.spent - self._before

    @property
    def shown(self) -> dict[str, int]:
        """What was changed in samples to show them, for the manifest."""
        return {"shortened": self.shortened, "replaced_characters": self.replaced}

    def note(self, chat: Chat, endpoint: Endpoint) -> None:
        """Count a request that is going to be sent."""
        self.shortened += chat.shortened
        self.replaced += chat.replaced
        self._unpriced += endpoint.price is None

    def count(self, answers: int = 1) -> None:
        """Count answers that were had."""
        self._done += answers
        now = time.monotonic()
        if now - self._shown_at > _SHOWN_EVERY:
            self._shown_at = now
            self.progress.status(self.status())

    def unscored(self, text: str) -> None:
        """Count an answer that gave no score."""
        self._unscored += 1
        self.first_unscored = self.first_unscored or text[:_LONGEST_SHOWN]

    def status(self) -> str:
        """Spent and expected cost, failures and retries."""
        parts = []
        if self.spent:
            expected = self.spent * self._total / min(max(self._done, 1), self._total)
            parts.append(f"${usd(self.spent)} of about ${usd(expected)}")
        if self._unscored:
            parts.append(f"{self._unscored:,} without a score")
        if self.counts.retries:
            parts.append(f"{self.counts.retries:,} retries")
        return ", ".join(parts)

    def finish(self) -> None:
        """Show the last status, and say what should be known of this stretch."""
        progress = self.progress
        progress.status(self.status())
        lost = self._budget.lost - self._lost_before
        if lost > 0:
            progress.say(
                f"answers that never arrived (timeout, lost connection) may have cost up to "
                f"{lost:.4f} USD more, if the server charges for them"
            )
        if self.shortened:
            progress.say(
                f"{self.shortened:,} requests showed a sample by its head and tail: it is longer "
                "than `max_sample_tokens`"
            )

    def usage(self) -> ManifestUsage:
        """For the manifest; the cost is None where requests were sent without a known price."""
        return ManifestUsage(
            requests=self.counts.requests,
            cached=max(0, self.cached - self.batched),
            prompt_tokens=self.counts.prompt_tokens,
            completion_tokens=self.counts.completion_tokens,
            cost_usd=None if self._unpriced and self.counts.requests else self.spent,
        )


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
