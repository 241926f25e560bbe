"""What workers share, from a worker: cache, limits of a minute, breaker, what is known of servers.

The coordinator has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from axolotl_ual.errors import ConfigError
from axolotl_ual.settings.server import ServerConfig

from ..calls.breaker import Breaker
from ..calls.cache import Answer, Claimed, Entry, Values
from ..calls.outcomes import Outcome
from ..models.server.limiter import Limiter
from ..models.server.pacing import Start
from ..models.server.track_record import TrackRecord
from .problem import Problem


class SharedLimiter(Limiter):
    """A worker's part of the requests in flight; the limits of a minute are for all together.

    Args:
        config: of the server section.
        section: its name.
        workers: that share it.
        coordinator: where the turnstile is.
    """

    def __init__(self, config: ServerConfig, section: str, workers: int, coordinator: Any) -> None:
        super().__init__(config.max_concurrency // workers)
        self._limits = (section, config.requests_per_minute, config.tokens_per_minute)
        self._coordinator = coordinator

    async def start(self, tokens: int) -> Start:
        """Wait until a request of about so many tokens may be sent."""
        start = await super().start(tokens)
        if not any(self._limits[1:]):
            return start
        try:
            await self._coordinator.start.remote(*self._limits, tokens)
        except BaseException:
            super().finish(tokens)
            raise
        return replace(start, at=self._clock())

    def finish(self, reserved: int, used: int | None = None) -> None:
        """A request is over."""
        super().finish(reserved, used)
        if self._limits[2] and used is not None:
            self._coordinator.used.remote(self._limits[0], used - reserved)


class SharedCache:
    """The coordinator's cache, from a worker.

    Answers that come while some are on their way are sent together after them.

    Args:
        worker: its number.
        coordinator: where the cache is.
    """

    def __init__(self, worker: int, coordinator: Any) -> None:
        self._worker = worker
        self._coordinator = coordinator
        self._waiting: list[tuple[Entry, asyncio.Future[None]]] = []
        self._sending: asyncio.Task[None] | None = None
        self._stopped: Problem | None = None

    @property
    def folder(self) -> Path:
        """There is none here.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "engine.kind: ray: `mode: batch` keeps its batches in files beside the cache, which "
            "workers do not share",
            "set `mode: live`, or `engine.kind: local`: one process sends batches as well as many",
        )

    def find(self, keys: Iterable[bytes]) -> dict[bytes, Answer]:
        """Those of the questions that were answered before."""
        wanted = list(keys)
        found: dict[bytes, Answer] = _get(self._coordinator.find.remote(wanted)) if wanted else {}
        return found

    def holds(self, about: str, outcome: Outcome) -> bool:
        """Whether an answer is kept that ended so."""
        return bool(_get(self._coordinator.holds.remote(about, outcome)))

    async def claim(self, keys: Mapping[bytes, bool]) -> Claimed:
        """Take questions to ask them."""
        claimed: Claimed = await self._coordinator.claim.remote(self._worker, keys)
        return claimed

    def release(self) -> None:
        """Leave what was claimed, and was not answered, to others."""
        self._coordinator.release.remote(self._worker)

    async def put(self, key: bytes, about: str, answer: Answer) -> None:
        """Keep an answer; returns when it is committed.

        Raises:
            UALError: it is kept, and another worker found that nothing more is to be asked.
        """
        kept: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(((key, about, answer), kept))
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send())
        await kept
        if self._stopped is not None:
            self._stopped.throw()

    def add(self, entries: Iterable[Entry]) -> None:
        """Keep several, all or none."""
        _get(self._coordinator.add.remote(list(entries)))

    def values(self, identity: Mapping[str, Any]) -> Values:
        """The table of what was computed, by what shapes it."""
        return Values(self, identity)

    def flush(self) -> None:
        """Keep what is waiting."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            self.add(entry for entry, _ in waiting)

    def close(self) -> None:
        """Keep what is waiting."""
        self.flush()

    async def _send(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            try:
                adding = self._coordinator.add.remote([entry for entry, _ in waiting])
                self._stopped = await adding
            except Exception as error:
                for _, kept in waiting:
                    if not kept.done():
                        kept.set_exception(error)
                return
            for _, kept in waiting:
                if not kept.done():
                    kept.set_result(None)


class SharedBreaker(Breaker):
    """Answers of no use are counted over all workers.

    Args:
        coordinator: where they are.
    """

    def __init__(self, coordinator: Any) -> None:
        super().__init__()
        self._coordinator = coordinator
        self._open: set[str] = set()
        self._learning: set[asyncio.Task[None]] = set()

    def note(self, about: str, is_useful: bool) -> bool:
        """Count an answer; what the others had is known soon after."""
        if not self.is_useful(about):
            task = asyncio.ensure_future(self._learn(about, is_useful))
            self._learning.add(task)
            task.add_done_callback(self._learning.discard)
        return super().note(about, is_useful)

    def is_open(self, about: str) -> bool:
        """Whether no more are to be paid for."""
        return not self.is_useful(about) and (about in self._open or super().is_open(about))

    async def _learn(self, about: str, is_useful: bool) -> None:
        any_useful, is_open = await self._coordinator.note.remote(about, is_useful)
        if any_useful:
            self._useful.add(about)
        elif is_open:
            self._open.add(about)


class SharedRecord(TrackRecord):
    """Any worker's answer counts: one that takes the place of another waits for its server as long.

    Args:
        endpoint: what is asked.
        coordinator: where its record is.
    """

    def __init__(self, endpoint: str, coordinator: Any) -> None:
        super().__init__()
        self._endpoint = endpoint
        self._coordinator = coordinator

    async def recall(self) -> None:
        """Learn what other workers have seen."""
        if not self.has_completed:
            seen: TrackRecord = await self._coordinator.recall.remote(self._endpoint)
            self.has_worked |= seen.has_worked
            self.has_completed |= seen.has_completed

    def worked(self) -> None:
        """The server answered."""
        if not self.has_worked:
            self._coordinator.saw.remote(self._endpoint, False)
        super().worked()

    def completed(self) -> None:
        """The model gave a completion."""
        if not self.has_completed:
            self._coordinator.saw.remote(self._endpoint, True)
        super().completed()


def _get(reference: Any) -> Any:
    import ray

    return ray.get(reference)
