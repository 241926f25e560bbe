"""A worker: builds what works from the recipe, and does blocks of a command's work. An actor.

It asks with a session of its own, of which cache, budget and limits are the coordinator's. What it
keeps for itself is how a server takes requests: its dialect, its pacing and its patience.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NoReturn

from axolotl_ual.errors import BackendError, ConfigError, UALError
from axolotl_ual.settings.server import ServerConfig

from ..calls.ask import Session
from ..calls.cache import Answer, Claimed, Entry, Values
from ..calls.outcomes import Outcome
from ..models.server.limiter import Limiter
from ..models.server.pacing import Start
from .leases import LeasedBudget
from .work import Work

_TOLD_EVERY: Final = 0.5


@dataclass(frozen=True, slots=True)
class Job:
    """What every worker of a command is to do.

    Attributes:
        work: makes the work, from the session of a worker.
        cache: folder of the durable cache; None is the user's cache directory.
        folder: the command's working folder.
        workers: how many share the work.
        limit: USD that all may spend, or None.
        retry_failed: ask again where an earlier answer was kept that gave no score.
    """

    work: Callable[[Session], Work]
    cache: str | None
    folder: str
    workers: int
    limit: float | None
    retry_failed: bool


@dataclass(frozen=True, slots=True)
class Problem:
    """An error of a worker, as it crosses processes.

    Attributes:
        kind: of the error.
        problem: what is wrong.
        fix: what the user can do.
    """

    kind: type[UALError]
    problem: str
    fix: str

    @classmethod
    def of(cls, error: UALError) -> Problem:
        """An error that was caught."""
        return cls(type(error), error.problem, error.fix)

    def throw(self) -> NoReturn:
        """Raise the error where it can be told."""
        raise self.kind(self.problem, self.fix)


@dataclass(frozen=True, slots=True)
class Done:
    """A block that was done.

    Attributes:
        result: of its rows.
        unscored: answers that gave no score, with the row's place in the block.
    """

    result: Any
    unscored: list[dict[str, Any]]


class Worker:
    """See above; an actor is made of it.

    Args:
        number: of this worker, given once in a command.
        job: of the command.
        coordinator: handle of the actor that all workers share.
    """

    def __init__(self, number: int, job: Job, coordinator: Any) -> None:
        with contextlib.suppress(OSError):
            os.chdir(job.folder)  # Another node may not have it.
        self._job = job
        self._coordinator = coordinator
        self._unscored = _Kept()
        self._budget = LeasedBudget(job.limit, lambda *of: coordinator.lease.remote(number, *of))
        self._session = Session(
            lambda: SharedCache(number, coordinator),
            self._budget,
            retry_failed=job.retry_failed,
            unscored=self._unscored,
            make_limiter=self._limiter,
        )
        self._work: Work | None = None

    def ready(self) -> Problem | None:
        """Build what works; None where nothing is wrong."""
        try:
            self._work = self._job.work(self._session)
        except UALError as error:
            return Problem.of(error)
        return None

    def do(self, block: int, rows: list[Any]) -> Done | Problem:
        """Do the rows of a block."""
        assert self._work is not None, "`ready` comes first"
        from ray.exceptions import RayActorError

        progress = _Told(block, self._coordinator)
        try:
            result = self._work.do(rows, progress)
        except UALError as error:
            return Problem.of(error)
        except RayActorError:
            return Problem.of(coordinator_is_gone())
        finally:
            self._budget.give_back()
            progress.tell()
            unscored = self._unscored.take()
        return Done(result, unscored)

    def _limiter(self, config: ServerConfig, section: str) -> Limiter:
        if self._job.workers > config.max_concurrency:
            raise ConfigError(
                f"{section}.max_concurrency: {config.max_concurrency}: so many requests in flight "
                f"are not enough for {self._job.workers} workers",
                "raise it, or set `engine.workers` to fewer",
            )
        return SharedLimiter(config, section, self._job.workers, self._coordinator)


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
        """Keep an answer; returns when it is committed."""
        kept: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(((key, about, answer), kept))
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send())
        await kept

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
                await self._coordinator.add.remote([entry for entry, _ in waiting])
            except Exception as error:
                for _, kept in waiting:
                    if not kept.done():
                        kept.set_exception(error)
                return
            for _, kept in waiting:
                if not kept.done():
                    kept.set_result(None)


class _Kept:
    """Answers without a score, kept until the block is done."""

    def __init__(self) -> None:
        self._lines: list[dict[str, Any]] = []

    def write(self, line: dict[str, Any]) -> None:
        self._lines.append(line)

    def take(self) -> list[dict[str, Any]]:
        lines, self._lines = self._lines, []
        return lines

    def close(self) -> None:
        self._lines.clear()


class _Told:
    """Progress in a block, told to the coordinator now and then."""

    def __init__(self, block: int, coordinator: Any) -> None:
        self._block = block
        self._coordinator = coordinator
        self._done = 0
        self._lines: list[str] = []
        self._at = 0.0

    def advance(self, done: int = 1) -> None:
        self._done += done
        if time.monotonic() - self._at > _TOLD_EVERY:
            self.tell()

    def status(self, text: str) -> None:
        """Nothing: the command makes its own, from what all workers did."""

    def say(self, line: str) -> None:
        self._lines.append(line)
        self.tell()

    def tell(self) -> None:
        self._at = time.monotonic()
        self._coordinator.tell.remote(self._block, self._done, self._lines)
        self._lines = []


def coordinator_is_gone() -> BackendError:
    """The error of a run without its coordinator, and so without its budget."""
    return BackendError(
        "the process that keeps cache and budget for all workers is gone",
        "run the same command again: what was answered is in the cache",
    )


def _get(reference: Any) -> Any:
    import ray

    return ray.get(reference)
