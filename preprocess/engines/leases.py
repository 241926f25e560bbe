"""Money for several workers: leases of one budget.

    left = limit - sum over workers of (spent + held)

A worker holds what it may spend without asking again: room for some requests, and less when the
budget runs out. Whatever worker fails or is killed, what it held counts as spent from then on: some
of it may have been. So all workers together never spend more than the limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from ..calls.budget import Budget, limit_reached

_REQUESTS: Final = 64
"""Room for so many requests is lent at once."""
_SHARE: Final = 4
"""Of what is left, a worker is lent no more than its share of this part, or one request."""
_PAUSE: Final = 0.1
"""Seconds until a worker asks again, where others may give something back."""


class Lease(NamedTuple):
    """What a worker is told.

    Attributes:
        granted: USD that it may spend beside what it holds for requests in flight.
        spent: USD that all have spent.
        lost: USD that all may have spent for answers that never arrived.
        others_hold: whether others may give something back.
    """

    granted: float
    spent: float
    lost: float
    others_hold: bool


@dataclass(slots=True)
class Account:
    """Of one worker: USD that it spent, may have lost, and holds; and whether it is dead."""

    spent: float = 0.0
    lost: float = 0.0
    held: float = 0.0
    is_closed: bool = False


class Treasury:
    """Lends a budget.

    Args:
        limit: USD that all workers may spend, or None.
    """

    def __init__(self, limit: float | None) -> None:
        self._limit = limit
        self._accounts: dict[int, Account] = {}

    def lease(self, worker: int, spent: float, lost: float, held: float, cost: float) -> Lease:
        """Book what a worker has spent, take back what it does not use, and lend it some more.

        Args:
            worker: its number.
            spent: USD that it has spent in all.
            lost: USD, at most, that it has spent in all for answers that never arrived.
            held: USD that it holds for requests in flight.
            cost: USD that its next request can cost; 0 to lend nothing.
        """
        account = self._accounts.setdefault(worker, Account())
        if account.is_closed:
            return Lease(0.0, self.spent, self.lost, False)
        account.spent, account.lost, account.held = spent, lost, held
        granted = 0.0
        if cost > 0:
            left = self.left
            if cost <= left:
                share = left / (_SHARE * len(self._accounts))
                granted = max(cost, min(_REQUESTS * cost, share))
            account.held += granted
        others = any(a.held > 0 for number, a in self._accounts.items() if number != worker)
        return Lease(granted, self.spent, self.lost, others)

    def close(self, worker: int) -> None:
        """A worker is dead: what it held for requests in flight may have been spent."""
        account = self._accounts.setdefault(worker, Account())
        account.lost += account.held
        account.held = 0.0
        account.is_closed = True

    @property
    def left(self) -> float:
        """USD that may still be lent."""
        gone = sum(a.spent + a.lost + a.held for a in self._accounts.values())
        return float("inf") if self._limit is None else self._limit - gone

    @property
    def spent(self) -> float:
        """USD that all have spent."""
        return sum(account.spent for account in self._accounts.values())

    @property
    def lost(self) -> float:
        """USD that all may have spent for answers that never arrived."""
        return sum(account.lost for account in self._accounts.values())


AskForLease = Callable[[float, float, float, float], Awaitable[Lease]]
"""`Treasury.lease` of one worker, from afar: takes spent, lost, held, cost."""


class LeasedBudget(Budget):
    """The budget of a worker: its limit is what it was lent.

    Args:
        limit: USD that all workers may spend, or None.
        lease: asks for a lease. What is asked first is answered first, and also if nobody waits.
    """

    def __init__(self, limit: float | None, lease: AskForLease) -> None:
        super().__init__(None if limit is None else 0.0)
        self._whole = limit
        self._lease = lease
        self._asking = asyncio.Lock()

    async def reserve(self, cost: float) -> None:
        """Set aside the most that a request can cost; waits for others where it must.

        Raises:
            LimitError: it might pass the limit, and nothing is in flight that could make room.
        """
        while not self.can_afford(cost):
            async with self._asking:
                if not self.can_afford(cost):
                    await self._borrow(cost)
        self._reserved += cost

    def settle(self, reserved: float, cost: float, lost: float = 0.0) -> None:
        """Replace a reservation by what was spent; with nothing in flight nothing is held."""
        super().settle(reserved, cost, lost)
        if self._whole is not None and not self._reserved and not self._asking.locked():
            self.give_back()

    def give_back(self) -> None:
        """Tell what was spent, and hold no more than what is in flight."""
        self._hold_no_more()
        self._lease(self.spent, self.lost, self._reserved, 0.0)

    def _hold_no_more(self) -> None:
        if self._whole is not None:
            self.limit = self.spent + self.lost + self._reserved

    async def _borrow(self, cost: float) -> None:
        self._hold_no_more()
        lease = await self._lease(self.spent, self.lost, self._reserved, cost)
        if lease.granted:
            self.limit = (self.limit or 0.0) + lease.granted
        elif lease.others_hold or self._reserved:
            await asyncio.sleep(_PAUSE)
        else:
            raise limit_reached(self._whole or 0.0, lease.spent, lease.lost, cost)
