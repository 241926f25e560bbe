"""What the workers of one command share: cache, claims, money, limits, news of servers and rows.

One small actor.

It runs on the node of the command, beside the cache file that every other run of the command uses:
an answer is committed there before it counts. Files of the workers' own, to be merged, would be
lost with their nodes, and the same question of two rows would be asked by two workers.

All methods run on one event loop and, but for `start`, without a pause in between.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from ..calls.breaker import Breaker
from ..calls.cache import Answer, Cache, Claimed, Entry
from ..calls.outcomes import Outcome
from ..models.server.limiter import Bucket
from ..models.server.track_record import TrackRecord
from .leases import Lease, Treasury
from .problem import Problem

_MOST_LINES: Final = 1000


@dataclass(slots=True)
class News:
    """What happened since the last look.

    Attributes:
        done: rows done, by the first row of their block.
        lines: to be shown to the user.
        spent: USD, by all workers in the whole run.
    """

    done: dict[int, int] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    spent: float = 0.0


class Turnstile:
    """Lets requests of all workers start, first come first served.

    Args:
        requests_per_minute: a limit, or None.
        tokens_per_minute: likewise.
    """

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        now = time.monotonic()
        self._requests = Bucket(requests_per_minute, now) if requests_per_minute else None
        self._tokens = Bucket(tokens_per_minute, now) if tokens_per_minute else None
        self._turn = asyncio.Lock()

    async def start(self, tokens: int) -> None:
        """Wait until a request of about so many tokens may be sent."""
        wanted = [(self._requests, 1), (self._tokens, tokens)]
        buckets = [(bucket, number) for bucket, number in wanted if bucket is not None]
        async with self._turn:
            while seconds := max(b.wait(time.monotonic(), number) for b, number in buckets):
                await asyncio.sleep(seconds)
            for bucket, number in buckets:
                bucket.take(time.monotonic(), number)

    def used(self, tokens: int) -> None:
        """A request took so many tokens more than it was started with."""
        if self._tokens is not None:
            self._tokens.take(time.monotonic(), tokens)


class Coordinator:
    """See above; an actor is made of it.

    Args:
        folder: of the durable cache; None is the user's cache directory.
        limit: USD that all workers may spend, or None.
    """

    def __init__(self, folder: str | None, limit: float | None) -> None:
        self._folder = folder
        self._treasury = Treasury(limit)
        self._breaker = Breaker()
        self._records: defaultdict[str, TrackRecord] = defaultdict(TrackRecord)
        self._claims: dict[bytes, int] = {}
        self._dead: set[int] = set()
        self._stopped: Problem | None = None
        self._retried: set[bytes] = set()
        self._turnstiles: dict[str, Turnstile] = {}
        self._news = News()

    @cached_property
    def _cache(self) -> Cache:
        # Opened on the thread that uses it, which is not the one that makes this.
        return Cache(self._folder)

    async def where(self) -> Path:
        """The folder of the cache."""
        return self._cache.folder

    async def find(self, keys: list[bytes]) -> dict[bytes, Answer]:
        """Those of the questions that were answered before."""
        return self._cache.find(keys)

    async def holds(self, about: str, outcome: Outcome) -> bool:
        """Whether an answer is kept that ended so."""
        return self._cache.holds(about, outcome)

    async def claim(self, worker: int, keys: Mapping[bytes, bool]) -> Claimed:
        """Let a worker ask questions, unless another does or they are answered.

        A retry is asked once in a command, whoever asks it.

        Args:
            worker: its number.
            keys: of the questions, and whether each is a retry.
        """
        if worker in self._dead:
            return Claimed()  # A last call of it, that nobody waits for.
        elsewhere = {key for key in keys if self._claims.get(key, worker) != worker}
        final = [key for key, retry in keys.items() if not retry or key in self._retried]
        known = self._cache.find(key for key in final if key not in elsewhere)
        for key, is_retry in keys.items():
            if key not in elsewhere and key not in known:
                self._claims[key] = worker
                if is_retry:
                    self._retried.add(key)
        return Claimed(known, frozenset(elsewhere))

    async def release(self, worker: int) -> None:
        """A worker asks nothing more of what it claimed."""
        left = {key for key, owner in self._claims.items() if owner == worker}
        self._retried -= left
        for key in left:
            del self._claims[key]

    async def add(self, entries: Iterable[Entry]) -> Problem | None:
        """Keep answers; returns when they are committed, and then why no more are to be asked."""
        kept = list(entries)
        self._cache.add(kept)
        for key, _, _ in kept:
            self._claims.pop(key, None)
        return self._stopped

    async def stop(self, problem: Problem) -> None:
        """Let workers end: what is in flight is kept, and nothing more is asked."""
        self._stopped = problem

    async def note(self, about: str, is_useful: bool) -> tuple[bool, bool]:
        """Count an answer of any worker.

        Args:
            about: who was asked what kind of question.
            is_useful: whether it gave what was asked for.

        Returns:
            Whether any was of use, and whether no more are to be paid for.
        """
        is_open = self._breaker.note(about, is_useful)
        return self._breaker.is_useful(about), is_open

    async def saw(self, endpoint: str, is_completion: bool) -> None:
        """A worker had an answer.

        Args:
            endpoint: who gave it.
            is_completion: whether it was one.
        """
        record = self._records[endpoint]
        if is_completion:
            record.completed()
        else:
            record.worked()

    async def recall(self, endpoint: str) -> TrackRecord:
        """What workers, also those that are dead, have seen of an endpoint."""
        return self._records[endpoint]

    async def lease(
        self, worker: int, spent: float, lost: float, held: float, cost: float
    ) -> Lease:
        """Lend a worker some of the budget; see `Treasury.lease`."""
        return self._treasury.lease(worker, spent, lost, held, cost)

    async def start(
        self,
        section: str,
        requests_per_minute: float | None,
        tokens_per_minute: float | None,
        tokens: int,
    ) -> None:
        """Wait until a request of a server section may be sent.

        Args:
            section: its name.
            requests_per_minute: its limit, or None.
            tokens_per_minute: likewise.
            tokens: that the request is likely to take.
        """
        if section not in self._turnstiles:
            self._turnstiles[section] = Turnstile(requests_per_minute, tokens_per_minute)
        await self._turnstiles[section].start(tokens)

    async def used(self, section: str, tokens: int) -> None:
        """A request of a section took so many tokens more than it was started with."""
        self._turnstiles[section].used(tokens)

    async def tell(self, block: int, done: int, lines: list[str]) -> None:
        """Take news of a worker.

        Args:
            block: first row of the block that it works on.
            done: rows of it that are done.
            lines: to be shown to the user.
        """
        self._news.done[block] = done
        self._news.lines += lines[: max(0, _MOST_LINES - len(self._news.lines))]

    async def news(self) -> News:
        """What happened since the last call."""
        news, self._news = self._news, News()
        news.spent = self._treasury.spent
        return news

    async def bury(self, worker: int) -> None:
        """A worker is dead: its claims are free, and what it held may have been spent."""
        self._dead.add(worker)
        self._treasury.close(worker)
        await self.release(worker)
