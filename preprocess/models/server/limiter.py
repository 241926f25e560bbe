"""The gate that every request passes: adaptive pacing and the limits a user has set."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from axolotl_ual.settings.server import ServerConfig

from .pacing import Pacing, Start

_BURST_SECONDS: Final = 0.25
"""What starts late, because a timer or a process was, is caught up with for so long."""
_WAY_SECONDS: Final = 0.25
"""A request may be so much longer on its way than one that is sent after it."""
_MINUTE: Final = 60.0


class Bucket:
    """A token bucket that starts nearly empty, so that no minute ever holds more than its limit.

    In any span of T seconds at most capacity + rate T tokens are taken, so the rate is

        (per_minute + 1 - capacity) / (minute + way)

    which is 0.991 of the limit, or more: no minute of the server's holds one request too many. Of
    tokens, of which a request takes more than the capacity at once, it may be what one takes.

    Args:
        per_minute: tokens that flow in.
        now: the clock's reading.
    """

    def __init__(self, per_minute: float, now: float) -> None:
        self._capacity = max(1.0, per_minute / _MINUTE * _BURST_SECONDS)
        self._rate = (per_minute + 1.0 - self._capacity) / (_MINUTE + _WAY_SECONDS)
        self._level = 1.0
        self._at = now

    def wait(self, now: float, tokens: float) -> float:
        """Seconds until `tokens` can be taken."""
        self._capacity = max(self._capacity, tokens)
        self._fill(now)
        # A rounding error of the clock is no reason for another wait.
        return 0.0 if self._level >= tokens - 1e-9 else (tokens - self._level) / self._rate

    def take(self, now: float, tokens: float) -> None:
        """Take tokens; give them back with a negative number."""
        self._fill(now)
        self._level = min(self._capacity, self._level - tokens)

    def _fill(self, now: float) -> None:
        self._level = min(self._capacity, self._level + (now - self._at) * self._rate)
        self._at = now


class Limiter:
    """Lets requests start, first come first served.

    Args:
        max_concurrency: the most requests in flight.
        requests_per_minute: a limit of the account, or None.
        tokens_per_minute: a limit of the account, or None.
        clock: seconds.
    """

    def __init__(
        self,
        max_concurrency: int,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        now = clock()
        self.pacing = Pacing(max_concurrency, now)
        self._requests = Bucket(requests_per_minute, now) if requests_per_minute else None
        self._tokens = Bucket(tokens_per_minute, now) if tokens_per_minute else None
        self._waiting: deque[tuple[asyncio.Future[Start], int]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def start(self, tokens: int) -> Start:
        """Wait until a request of about so many tokens may be sent."""
        if not self._waiting and self._wait(tokens) <= 0:
            return self._start(tokens)
        turn: asyncio.Future[Start] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, tokens))
        self._pump()
        return await turn

    def finish(self, reserved: int, used: int | None = None) -> None:
        """A request is over.

        Args:
            reserved: the tokens that it was started with.
            used: what it took, where the server said so.
        """
        self.pacing.finished()
        if self._tokens is not None and used is not None:
            self._tokens.take(self._clock(), used - reserved)
        if self._waiting:
            self._pump()

    def abort(self, error: Exception) -> None:
        """End all waits with an error."""
        waiting, self._waiting = self._waiting, deque()
        for turn, _ in waiting:
            if not turn.done():
                turn.set_exception(error)

    def pause(self) -> float:
        """Seconds for which nobody may start because the server asks for it."""
        return self.pacing.pause(self._clock())

    def _wait(self, tokens: int) -> float:
        now = self._clock()
        seconds = self.pacing.wait(now)
        if self._requests is not None:
            seconds = max(seconds, self._requests.wait(now, 1))
        if self._tokens is not None:
            seconds = max(seconds, self._tokens.wait(now, tokens))
        return seconds

    def _start(self, tokens: int) -> Start:
        now = self._clock()
        if self._requests is not None:
            self._requests.take(now, 1)
        if self._tokens is not None:
            self._tokens.take(now, tokens)
        return self.pacing.started(now)

    def _pump(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:
            turn, tokens = self._waiting[0]
            if turn.done():
                self._waiting.popleft()
                continue
            seconds = self._wait(tokens)
            if seconds > 0:
                if seconds < math.inf:
                    loop = asyncio.get_running_loop()
                    self._timer = loop.call_later(seconds, self._pump)
                return
            self._waiting.popleft()
            turn.set_result(self._start(tokens))


def limiter_of(config: ServerConfig, section: str) -> Limiter:
    """The gate of a server section that no other process shares.

    Args:
        config: the section.
        section: its name.
    """
    return Limiter(config.max_concurrency, config.requests_per_minute, config.tokens_per_minute)
