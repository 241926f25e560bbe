"""How many requests may be in flight, and how fast they may start: pure logic over a given clock.

Concurrency starts at half of what is allowed and grows by one with every answer while it is used
up and latency holds; when most answers are errors it is halved.

A rate is only imposed once the server asks for one with a 429. The first 429 stops new requests
until the answers to those in flight are in; what the server accepted up to then, halved, is the
first estimate of its limit. From there the rate grows fast until the next 429, and slowly after
it: each 429 sets the rate a little below what was accepted, so a token bucket is followed at a few
per cent below its limit and only touched now and then. Where most requests are rejected, all wait
for the time that Retry-After names. Rejections that do not become fewer as the rate falls have
nothing to do with it, and are left to the retries for a while.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

_RAMP_SECONDS: Final = 0.1
"""The first requests are spread over this time, so that a refusal of the very first is noticed."""
_WINDOW_SECONDS: Final = 1.0
_BACK_OFF: Final = 0.97
"""After a 429 the rate is this part of what was accepted."""
_SEARCH_GROWTH: Final = 0.4
_STEADY_GROWTH: Final = 0.005
"""Growth of the rate per second, before the second 429 and after it."""
_CALM_SECONDS: Final = 10.0
"""Growth doubles with every such span without a 429, so that a limit that was lifted is found."""
_LARGEST_GROWTH: Final = 0.5
_MOST: Final = 0.5
"""A share of rejections, or of errors, that counts as nearly all."""
_FUTILE_CUTS: Final = 3
_LATENCY_FACTOR: Final = 2.0
_SLOWEST_RATE: Final = 0.2


class Window:
    """Requests that were sent and rejected within the last second."""

    def __init__(self) -> None:
        self._events: deque[tuple[float, int, int]] = deque()
        self.sent = 0
        self.rejected = 0

    def add(self, now: float, sent: int = 0, rejected: int = 0) -> None:
        """Count events and forget those that are too old."""
        self._events.append((now, sent, rejected))
        self.sent += sent
        self.rejected += rejected
        while self._events[0][0] < now - _WINDOW_SECONDS:
            _, old_sent, old_rejected = self._events.popleft()
            self.sent -= old_sent
            self.rejected -= old_rejected

    @property
    def share(self) -> float:
        """Rejections per request sent."""
        return min(1.0, self.rejected / self.sent) if self.sent else float(self.rejected > 0)


class Pacing:
    """Adaptive concurrency and rate.

    Args:
        max_concurrency: never more in flight than this.
        now: the clock's reading at the start; later calls pass later readings.

    Attributes:
        limit: requests that may be in flight.
        rate: requests that may start in a second; infinite until the server rejects some.
        in_flight: requests that were started and not finished.
        paused_until: reading of the clock before which nothing starts.
    """

    def __init__(self, max_concurrency: int, now: float) -> None:
        self._most = max_concurrency
        self.limit = float(max(1, math.ceil(max_concurrency / 2)))
        self._additive_from = math.inf
        self.in_flight = 0
        self.paused_until = now
        self.rate = math.inf
        self._ramp_rate = max(10.0, self.limit / _RAMP_SECONDS)
        self._ramping = True
        self._next_start = now
        self._window = Window()
        self._latency = 0.0
        self._best_latency = math.inf
        self._error_share = 0.0
        self._settled_at = now
        self._grown_at = now
        self._calm_since = now
        self._searching = True
        self._estimate_at: float | None = None
        self._started_at = now
        self._started = self._rejected = 0
        self._futile_cuts = 0
        self._last_cut = (-math.inf, 0.0)
        self._rate_before_cuts = math.inf
        self._immune_until = now

    def wait(self, now: float) -> float:
        """Seconds until a request may start; 0 for at once, infinite until one finishes."""
        if self.in_flight >= int(self.limit):
            return math.inf
        self._grow_rate(now)
        return max(0.0, self.paused_until - now, self._next_start - now)

    def started(self, now: float) -> None:
        """A request is sent."""
        self.in_flight += 1
        self._started += 1
        self._window.add(now, sent=1)
        rate = min(self.rate, self._ramp_rate if self._ramping else math.inf)
        if rate < math.inf:
            # A timer that fires late may catch up a little, so that the mean rate is kept.
            slack = max(2.0 / rate, 0.02)
            self._next_start = max(self._next_start, now - slack) + 1.0 / rate

    def finished(self) -> None:
        """A request is no longer in flight, whatever came of it."""
        self.in_flight -= 1

    def succeeded(self, latency: float) -> None:
        """An answer came, after `latency` seconds."""
        self._ramping = False
        used_up = self.in_flight >= 0.8 * self.limit - 1
        self._error_share *= 0.98
        self._latency = latency if not self._latency else 0.9 * self._latency + 0.1 * latency
        self._best_latency = min(self._best_latency * 1.0002, self._latency)
        if used_up and self._latency <= _LATENCY_FACTOR * self._best_latency:
            fast = self.limit < self._additive_from
            self.limit = min(self._most, self.limit + (1.0 if fast else 4.0 / self.limit))

    def failed(self, now: float) -> None:
        """The server answered with an error of its own, or not at all."""
        self._ramping = False
        self._error_share = 0.98 * self._error_share + 0.02
        if self._error_share > _MOST and now >= self._settled_at:
            self._halve(now)

    def rejected(self, now: float, retry_after: float | None) -> None:
        """The server answered 429."""
        self._ramping = False
        self._rejected += 1
        self._window.add(now, rejected=1)
        if now < self._settled_at or now < self._immune_until:
            return
        if self._window.share > _MOST and self.rate < math.inf:
            pause = retry_after if retry_after is not None else 1.0
            self.paused_until = max(self.paused_until, now + pause)
            self._halve(now)
            self._cut(now, self.rate / 2)
            self._settled_at = self.paused_until + self._settling()
        elif self.rate == math.inf:
            self._halve(now)
            self.paused_until = max(self.paused_until, now + self._settling())
            self._settled_at = self.paused_until
            self._estimate_at = self.paused_until
            self._rate_before_cuts = math.inf
        else:
            self._searching = False
            self._cut(now, self.rate * (1.0 - self._window.share) * _BACK_OFF)

    def _settling(self) -> float:
        """Seconds after which the answers show what a change did."""
        return max(0.1, min(self._latency or _WINDOW_SECONDS, 5.0))

    def _halve(self, now: float) -> None:
        self.limit = max(1.0, self.limit / 2)
        self._additive_from = self.limit
        self._error_share = 0.0
        self._settled_at = now + self._settling()

    def _cut(self, now: float, rate: float) -> None:
        last, share = self._last_cut
        futile = now - last < 3 * self._settling() + 2 and self._window.share >= 0.5 * share > 0
        if not futile:
            self._futile_cuts = 0
            self._rate_before_cuts = self.rate
        self._futile_cuts += 1
        if self._futile_cuts > _FUTILE_CUTS and self._window.share <= _MOST:
            self.rate = self._rate_before_cuts
            self._immune_until = now + _CALM_SECONDS
            self._futile_cuts = 0
        else:
            self.rate = max(_SLOWEST_RATE, rate)
        self._last_cut = (now, self._window.share)
        self._settled_at = max(self._settled_at, now + self._settling() + 0.25)
        self._calm_since = self._grown_at = now

    def _grow_rate(self, now: float) -> None:
        if self._estimate_at is not None and now >= self._estimate_at:
            accepted = max(1, self._started - self._rejected)
            self.rate = max(_SLOWEST_RATE, accepted / (now - self._started_at) / 2)
            self._estimate_at = None
            self._calm_since = self._grown_at = now
        if self.rate == math.inf or now - self._grown_at < 0.1:
            return
        growth = _SEARCH_GROWTH
        if not self._searching:
            calm = (now - self._calm_since) / _CALM_SECONDS
            growth = min(_LARGEST_GROWTH, _STEADY_GROWTH * 2.0 ** int(min(calm, 10)))
        if self.in_flight < 0.5 * self.limit or self._next_start > now - 0.1:
            self.rate *= 1.0 + growth * min(now - self._grown_at, 1.0)
        self._grown_at = now
        if self._latency and self.rate > 4 * self._most / self._latency:
            self.rate, self._searching = math.inf, True
            self._started_at, self._started, self._rejected = now, 0, 0
