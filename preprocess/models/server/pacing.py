"""How many requests may be in flight, and how fast they may start: pure logic over a given clock.

Concurrency starts at three quarters of what is allowed and grows by one with every answer while it
is used up and latency holds; it is halved by the first 429 and whenever most answers are errors.

A rate is only imposed once the server asks for one with a 429, which tells that its budget is used
up at that moment. Between two such moments it let through

    r = (requests accepted) / (time between)

which is its limit whatever the size of its bucket, as long as the bucket did not run over. So each
429 sets the rate a little below r, once for all requests that were on their way. The rate then
rises again: fast while it is far from where the 429 came, slowly near it, faster the longer nothing
happens. A limit is touched now and then, and otherwise kept just below.

Where most requests are rejected, all wait for the time that Retry-After names. And a used-up budget
lets through at most its limit: rejections at a rate well below what was let through after an
earlier 429 come from something else, and are left to the retries for a while.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Final

_FIRST_SHARE: Final = 0.75
_RAMP_SECONDS: Final = 0.15
"""The first requests are spread over this time, so that a refusal of the very first is noticed."""
_RAMP_GROWTH: Final = 4.0
"""With every answer so many more may start in a second, until this holds nothing back."""
_LATENCY_FACTOR: Final = 1.5
"""Concurrency does not grow while latency is beyond this many times its best."""
_MOST: Final = 0.6
"""A share of rejections, or of errors, that counts as most."""

_FIRST_RATE: Final = 8.0
"""The least that is tried after the first 429."""
_LEAST_RATE: Final = 1.0
"""Slower limits are kept to by pausing."""
_UNKNOWN_BURST_SECONDS: Final = 0.5
"""The first 429 comes after a burst of unknown size: it is taken to be worth this time."""
_ENOUGH: Final = 5
"""Fewer requests than this between two 429s measure nothing."""
_SMALL_CUT: Final = 0.75
_DEEPEST_CUT: Final = 0.5
_BELOW: Final = 0.97
"""Of the limit as it was measured."""
_LONGEST_PAUSE: Final = 60.0

_SEARCH_SECONDS: Final = 0.5
"""The rate doubles in this time until the second 429 tells where the limit is."""
_NEAR: Final = 0.9
_APPROACH_SECONDS: Final = 1.5
_FEW: Final = 4
"""The rate rises by much only over the time of so many requests."""
_GROWTH: Final = 0.005
"""Of the rate, per second, near the limit."""
_CALM_SECONDS: Final = 3.0
"""Growth doubles with every such span without a 429, so that a limit that was lifted is found."""
_LARGEST_GROWTH: Final = 0.5

_PROOF_SECONDS: Final = 1.0
_PROOF_REQUESTS: Final = 4
_CLOCK_SECONDS: Final = 0.02
"""What the times between requests may differ by here and at the server."""
_PROVEN: Final = 0.95
"""A 429 at a rate below this part of what was proven to be let through is no rate limit."""
_NOISE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Start:
    """A request that was started: its number and when."""

    number: int
    at: float


class _Window:
    """Requests that were sent and rejected within the last second, or the last twenty."""

    _SECONDS: Final = 1.0
    _REQUESTS: Final = 20

    def __init__(self) -> None:
        self._events: deque[tuple[float, int, int]] = deque()
        self.sent = 0
        self.rejected = 0

    def add(self, now: float, sent: int = 0, rejected: int = 0) -> None:
        self._events.append((now, sent, rejected))
        self.sent += sent
        self.rejected += rejected
        while self._events[0][0] < now - self._SECONDS and self.sent > self._REQUESTS:
            _, old_sent, old_rejected = self._events.popleft()
            self.sent -= old_sent
            self.rejected -= old_rejected

    @property
    def mostly_rejected(self) -> bool:
        return self.rejected > 3 and self.rejected > _MOST * max(self.sent, self._REQUESTS // 2)


class _Interval:
    """What was let through since the last 429 that was heeded."""

    def __init__(self, now: float) -> None:
        self.restart(0, now)

    def restart(self, number: int, now: float) -> None:
        """Begin after the request of this number."""
        self.began = now
        self.number = number
        self.rejected = 0
        self._before_pause = 0

    def pause(self, number: int, last: Start) -> None:
        """Go on after a pause; of what was sent after `last`, all counts as rejected."""
        self._before_pause += max(0, last.number - self.number - self.rejected)
        self.number = number
        self.rejected = 0

    def accepted(self, until: Start) -> int:
        return max(0, self._before_pause + until.number - self.number - self.rejected)

    def rate(self, until: Start, burst_seconds: float = 0.0) -> float:
        return self.accepted(until) / max(until.at - self.began + burst_seconds, 1e-3)


class _Proof:
    """The highest rate that was seen to be let through after a 429."""

    def __init__(self) -> None:
        self._mark: Start | None = None
        self._let_through = 0
        self._latest = 0.0
        self.rate = 0.0

    def rejected(self, start: Start) -> None:
        if self._mark is None or start.at > self._mark.at + _PROOF_SECONDS:
            self._mark, self._let_through, self._latest = start, 0, start.at

    def succeeded(self, start: Start) -> None:
        if self._mark is None or start.number <= self._mark.number:
            return
        self._let_through += 1
        self._latest = max(self._latest, start.at)
        if self._let_through >= _PROOF_REQUESTS:
            seconds = self._latest - self._mark.at + _CLOCK_SECONDS
            self.rate = max(self.rate, (self._let_through - 1.5) / seconds)


class Pacing:
    """Adaptive concurrency and rate.

    Args:
        max_concurrency: never more in flight than this.
        now: the clock's reading at the start; later calls pass later readings.

    Attributes:
        limit: requests that may be in flight.
        rate: requests that may start in a second; infinite until the server rejects some.
        in_flight: requests that were started and not finished.
    """

    def __init__(self, max_concurrency: int, now: float) -> None:
        self._most = max_concurrency
        self.limit = float(max(1, math.ceil(_FIRST_SHARE * max_concurrency)))
        self.in_flight = 0
        self.rate = math.inf
        self._started = 0
        self._next_start = self._paused_until = now
        self._ramp_rate = max(10.0, self.limit / _RAMP_SECONDS)
        self._ramping = True
        # Of the concurrency:
        self._fast_below = math.inf
        self._latency = 0.0
        self._best_latency = math.inf
        self._error_share = 0.0
        self._halved_at_number = 0
        # Of the rate:
        self._window = _Window()
        self._interval = _Interval(now)
        self._proof = _Proof()
        self._searching = True
        self._ceiling = math.inf
        self._grown_at = now
        self._pauses = 0
        self._noise_until = now

    def wait(self, now: float) -> float:
        """Seconds until a request may start; 0 for at once, infinite until one finishes."""
        if self.in_flight >= int(self.limit):
            return math.inf
        if self.rate < math.inf:
            self._grow(now)
        return max(0.0, self._paused_until - now, self._next_start - now)

    def pause(self, now: float) -> float:
        """Seconds for which everyone waits because most requests are rejected."""
        return max(0.0, self._paused_until - now)

    def started(self, now: float) -> Start:
        """A request is sent."""
        self.in_flight += 1
        self._started += 1
        self._window.add(now, sent=1)
        rate = min(self.rate, self._ramp_rate if self._ramping else math.inf)
        if rate < math.inf:
            # A timer that fires late may catch up a little, so that the mean rate is kept.
            slack = max(1.0 / rate, 0.01)
            self._next_start = max(self._next_start, now - slack) + 1.0 / rate
        return Start(self._started, now)

    def finished(self) -> None:
        """A request is no longer in flight, whatever came of it."""
        self.in_flight -= 1

    def succeeded(self, start: Start, latency: float) -> None:
        """An answer came, after `latency` seconds."""
        self._pauses = 0
        self._proof.succeeded(start)
        self._error_share *= 0.98
        self._latency = latency if not self._latency else 0.9 * self._latency + 0.1 * latency
        self._best_latency = min(self._best_latency * 1.0002, self._latency)
        if self._ramping:
            self._ramp_rate += _RAMP_GROWTH
            self._ramping = self._ramp_rate * self._latency < 4 * self.limit
        used_up = self.in_flight >= 0.8 * self.limit - 1
        if used_up and self._latency <= _LATENCY_FACTOR * self._best_latency:
            growth = 1.0 if self.limit < self._fast_below else 4.0 / self.limit
            self.limit = min(self._most, self.limit + growth)

    def failed(self, start: Start) -> None:
        """The server answered with an error of its own, or not at all."""
        self._error_share = 0.98 * self._error_share + 0.02
        if self._error_share > _MOST and start.number > self._halved_at_number:
            self._halve()
            self._fast_below = self.limit

    def rejected(self, start: Start, now: float, retry_after: float | None) -> None:
        """The server answered 429."""
        self._ramping = False
        self._window.add(now, rejected=1)
        self._proof.rejected(start)
        interval = self._interval
        if start.number <= interval.number:
            return
        interval.rejected += 1
        if self.rate < math.inf and self._window.mostly_rejected:
            self._pause(start, now, retry_after)
        elif now < self._noise_until:
            return
        elif self.rate == math.inf:
            self._halve()
            self._searching = True
            self._set_rate(max(_FIRST_RATE, interval.rate(start, _UNKNOWN_BURST_SECONDS)), now)
        elif self.rate < _PROVEN * self._proof.rate:
            self._noise_until = now + _NOISE_SECONDS
            self._searching = True
        elif interval.accepted(start) < _ENOUGH:
            self._set_rate(_SMALL_CUT * self.rate, now)
        else:
            measured = min(self.rate, interval.rate(start))
            self._searching = False
            self._set_rate(max(_DEEPEST_CUT * self.rate, _BELOW * measured), now)

    def _pause(self, start: Start, now: float, retry_after: float | None) -> None:
        """Everyone waits."""
        pause = 2.0**self._pauses if retry_after is None else retry_after
        self._pauses += 1
        self._paused_until = max(self._paused_until, now + min(pause, _LONGEST_PAUSE))
        self._searching = self._searching or self._pauses > 1
        self._ceiling = self.rate
        self.rate = max(_LEAST_RATE, self.rate / 2)
        self._grown_at = self._paused_until
        self._interval.pause(self._started, start)
        self._proof = _Proof()
        self._noise_until = now

    def _halve(self) -> None:
        self.limit = max(1.0, self.limit / 2)
        self._error_share = 0.0
        self._halved_at_number = self._started

    def _set_rate(self, rate: float, now: float) -> None:
        self._ceiling = self.rate
        self.rate = max(_LEAST_RATE, rate)
        self._next_start = now + 1.0 / self.rate
        self._grown_at = now
        self._interval.restart(self._started, now)

    def _grow(self, now: float) -> None:
        """Let the rate rise, where it is what holds requests back."""
        elapsed = min(now - self._grown_at, 1.0)
        if elapsed < 0.05:
            return
        self._grown_at = now
        if self._next_start < now - 0.1:
            return
        few = _FEW / self.rate
        if self._searching:
            self.rate *= 2.0 ** (elapsed / max(_SEARCH_SECONDS, few))
        elif self.rate < _NEAR * self._ceiling:
            self.rate += (self._ceiling - self.rate) * elapsed / max(_APPROACH_SECONDS, few)
        else:
            calm = min(int((now - self._interval.began) / _CALM_SECONDS), 10)
            self.rate *= 1.0 + min(_LARGEST_GROWTH, _GROWTH * 2.0**calm) * elapsed
        if self._latency and self.rate > 4 * self._most / self._latency:
            self.rate = math.inf
