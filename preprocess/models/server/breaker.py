"""A circuit breaker: when a server answers nothing but errors, wait instead of knocking.

It opens after many errors in a row, lets one request through after a pause, and closes with the
first answer. Pauses double. When the server has given nothing for the whole of the patience the run
ends; everything that was answered is kept.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from axolotl_ual.errors import BackendError

_FIRST_PAUSE: Final = 2.0
_LONGEST_PAUSE: Final = 60.0
_PATIENCE_AT_START: Final = 30.0
"""A server that has never answered is more likely to be wrong than to be restarting."""


class Breaker:
    """Counts errors in a row.

    Args:
        threshold: errors in a row that open it.
        patience: seconds without one answer after which the run ends.
        where: what the server is called in messages.
        say: prints a line for the user.
    """

    def __init__(
        self, threshold: int, patience: float, where: str, say: Callable[[str], None]
    ) -> None:
        self._threshold = threshold
        self._patience = patience
        self._where = where
        self._say = say
        self._in_a_row = 0
        self._since = 0.0
        self._pause = _FIRST_PAUSE
        self._open_until: float | None = None
        self._probing = False
        self._closed = asyncio.Event()
        self._closed.set()
        self.has_worked = False

    def succeeded(self) -> None:
        """The server answered."""
        self.has_worked = True
        self._in_a_row = 0
        if self._open_until is not None:
            self._say(f"{self._where} answers again")
            self._open_until = None
            self._pause = _FIRST_PAUSE
            self._closed.set()

    def failed(self, reason: str) -> None:
        """The server gave an error, or nothing.

        Raises:
            BackendError: it has done nothing else for too long.
        """
        now = time.monotonic()
        if not self._in_a_row:
            self._since = now
        self._in_a_row += 1
        if self._in_a_row < self._threshold:
            return
        patience = self._patience if self.has_worked else min(self._patience, _PATIENCE_AT_START)
        if now - self._since >= patience:
            raise BackendError(
                f"{self._where} has answered nothing but errors for {now - self._since:.0f} s; "
                f"the last: {reason}",
                "run the same command again when it works: what was answered is in the cache and "
                "is not asked again (`patience` is how long to wait)",
            )
        if self._open_until is None or self._probing:
            left = max(0.1, patience - (now - self._since))
            pause = min(self._pause, left)
            self._say(
                f"{self._where} answers nothing but errors ({reason}); pausing for {pause:.0f} s"
            )
            self._open_until = now + pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            self._probing = False
            self._closed.clear()

    async def wait(self) -> None:
        """Return when a request may be sent; at once while the server works."""
        while self._open_until is not None:
            remaining = self._open_until - time.monotonic()
            if remaining > 0 or self._probing:
                try:
                    await asyncio.wait_for(self._closed.wait(), max(0.05, remaining))
                except asyncio.TimeoutError:
                    continue
            else:
                self._probing = True
                return
