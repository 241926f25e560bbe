"""One request goes before the others: what is wrong with a server shows at the first."""

from __future__ import annotations

import asyncio
import math
from collections import deque


class Gate:
    """Lets so many be inside at a time.

    Args:
        allowed: at first.
    """

    def __init__(self, allowed: int = 1) -> None:
        self._allowed: float = allowed
        self._inside = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        """Wait for a place."""
        if self._inside < self._allowed:
            self._inside += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        """Give a place back."""
        self._inside -= 1
        self._let_in()

    def widen(self, allowed: float = math.inf) -> None:
        """Let more be inside; by default all."""
        self._allowed = max(self._allowed, allowed)
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self._inside < self._allowed:
            turn = self._waiting.popleft()
            if not turn.done():
                self._inside += 1
                turn.set_result(None)
