"""Concurrency and rate against simulated servers, in simulated time."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from axolotl_ual.preprocess.models.server.limiter import Bucket
from axolotl_ual.preprocess.models.server.pacing import Pacing, Start


@dataclass
class TokenBucketServer:
    """Lets `rate` requests a second through, with a bucket of `burst`; the others get a 429."""

    rate: float
    burst: float
    level: float = field(init=False)
    at: float = 0.0

    def __post_init__(self) -> None:
        self.level = self.burst

    def accepts(self, now: float) -> bool:
        self.level = min(self.burst, self.level + (now - self.at) * self.rate)
        self.at = now
        if self.level < 1:
            return False
        self.level -= 1
        return True


@dataclass
class Outcome:
    served: int = 0
    rejected: int = 0
    most_in_flight: int = 0


def simulate(
    accepts: Callable[[float], bool],
    pacing: Pacing,
    seconds: float,
    latency: float = 0.2,
    rejected_after: float = 0.005,
    seed: int = 0,
) -> Outcome:
    """Keep a client busy for so many simulated seconds."""
    rng, result, order = random.Random(seed), Outcome(), itertools.count()
    events: list[tuple[float, int, bool, float, Start]] = []
    now = 0.0
    while now < seconds:
        wait = pacing.wait(now)
        if wait <= 0:
            start = pacing.started(now)
            result.most_in_flight = max(result.most_in_flight, pacing.in_flight)
            served = accepts(now)
            took = latency * rng.uniform(1.0, 1.1) if served else rejected_after
            result.served += served
            result.rejected += not served
            heapq.heappush(events, (now + took, next(order), served, took, start))
            continue
        # Timers of an event loop are no finer than a millisecond.
        until = now + max(wait, 0.001)
        if events and events[0][0] <= until:
            now, _, served, took, start = heapq.heappop(events)
            pacing.finished()
            if served:
                pacing.succeeded(start, took)
            else:
                pacing.rejected(start, now, 1.0)
        else:
            now = until
    return result


@pytest.mark.parametrize("burst", [5, 20, 100, 200])
@pytest.mark.parametrize(("latency", "most"), [(0.02, 64), (0.2, 64), (0.2, 256), (1.0, 256)])
def test_a_rate_limit_is_used_up_and_hardly_touched(burst: int, latency: float, most: int) -> None:
    server = TokenBucketServer(100.0, burst)
    result = simulate(server.accepts, Pacing(most, 0.0), 50.0, latency)
    assert result.served >= 0.95 * 100 * 50
    assert result.rejected <= 0.01 * result.served


def test_concurrency_reaches_what_is_allowed_and_stays_there() -> None:
    pacing = Pacing(64, 0.0)
    result = simulate(lambda now: True, pacing, 5.0)
    assert result.most_in_flight == pacing.limit == 64
    assert pacing.rate == math.inf


def test_concurrency_does_not_grow_where_latency_does() -> None:
    """A server that works on four requests at a time, each for 0.1 s: the others queue."""
    pacing = Pacing(256, 0.0)
    free, events, now = [0.0] * 4, [], 0.0
    while now < 60.0:
        wait = pacing.wait(now)
        if wait <= 0:
            start = pacing.started(now)
            done = max(now, heapq.heappop(free)) + 0.1
            heapq.heappush(free, done)
            heapq.heappush(events, (done, start.number, start))
            continue
        until = now + max(wait, 0.001)
        if events and events[0][0] <= until:
            now, _, start = heapq.heappop(events)
            pacing.finished()
            pacing.succeeded(start, now - start.at)
        else:
            now = until
    assert pacing.limit < 220


@pytest.mark.parametrize("share", [0.05, 0.15, 0.3])
def test_rejections_that_do_not_depend_on_the_rate_do_not_lower_it(share: float) -> None:
    rng = random.Random(1)
    pacing = Pacing(64, 0.0)
    result = simulate(lambda now: rng.random() >= share, pacing, 30.0)
    ideal = 64 / 0.21 * 30
    assert result.served >= 0.7 * (1 - share) * ideal


def test_a_limit_that_is_lifted_or_lowered_is_followed() -> None:
    server = TokenBucketServer(100.0, 100)

    def accepts(now: float) -> bool:
        server.rate = 100.0 if now < 30 else 250.0 if now < 60 else 40.0
        return server.accepts(now)

    result = simulate(accepts, Pacing(64, 0.0), 100.0)
    allowed = 100 * 30 + 250 * 30 + 40 * 40
    assert result.served >= 0.8 * allowed
    assert result.rejected <= 0.03 * result.served


def test_all_wait_where_everything_is_rejected() -> None:
    """Closed until second 20: knocking once per Retry-After of a second, not at full speed."""
    pacing = Pacing(64, 0.0)
    result = simulate(lambda now: now > 20, pacing, 40.0)
    assert result.rejected < 100
    assert result.served > 0.5 * 20 * 64 / 0.21


def test_errors_halve_the_concurrency_and_answers_bring_it_back() -> None:
    pacing = Pacing(64, 0.0)
    for _ in range(200):
        start = pacing.started(0.0)
        pacing.finished()
        pacing.failed(start)
    assert pacing.limit < 32
    low = pacing.limit
    simulate(lambda now: True, pacing, 60.0)
    assert pacing.limit > 4 * low


@pytest.mark.parametrize("per_minute", [1, 30, 100, 3000])
@given(
    seed=st.integers(0, 2**32),
    late=st.sampled_from([0.0, 0.003, 0.05, 0.4]),
    silences=st.lists(st.integers(0, 6002), max_size=2),
)
@settings(max_examples=8, deadline=None)
@example(seed=0, late=0.0, silences=[1])
def test_no_minute_holds_more_than_its_limit(
    per_minute: int, seed: int, late: float, silences: list[int]
) -> None:
    """Whatever starts late, after any silence, and where the last is 0.25 s faster than the first.

    So between one request and the one that would be too many there are 60.25 s.
    """
    rng, bucket, now, taken = random.Random(seed), Bucket(per_minute, 0.0), 0.0, []
    for number in range(2 * per_minute + 3):
        now += 90.0 if number in silences else 0.0
        while (seconds := bucket.wait(now, 1)) > 0:
            now += seconds + rng.uniform(0.0, late)
        bucket.take(now, 1)
        taken.append(now)
    for first, one_too_many in zip(taken, taken[per_minute:], strict=False):
        assert one_too_many - first > 60.25 - 1e-6


@pytest.mark.parametrize("per_minute", [100, 3000, 60_000])
def test_what_starts_late_is_caught_up_with(per_minute: int) -> None:
    """Timers that are up to 5 ms late cost nothing: 0.98 of the limit is had."""
    rng, bucket, now, taken = random.Random(0), Bucket(per_minute, 0.0), 0.0, 0
    while now < 180.0:
        if seconds := bucket.wait(now, 1):
            now += seconds + rng.uniform(0.0, 0.005)
        else:
            bucket.take(now, 1)
            taken += 1
    assert taken >= 0.98 * per_minute * 3


def test_tokens_are_given_back() -> None:
    """60.25 in 60.25 s: one a second, and one at the start. Of 30 that were set aside 27 return."""
    bucket = Bucket(60.25, 0.0)
    assert bucket.wait(0.0, 30) == pytest.approx(29.0)
    bucket.take(29.0, 30)
    assert bucket.wait(29.0, 10) == pytest.approx(10.0)
    bucket.take(29.0, -27)
    assert bucket.wait(29.0, 10) == 0.0
