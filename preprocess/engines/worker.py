"""A worker: builds what works from the recipe, and does blocks of a command's work. An actor.

It asks with a session of its own, of which cache, budget and limits are the coordinator's. What it
keeps for itself is how a server takes requests: its dialect, its pacing and its patience.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from axolotl_ual.errors import ConfigError, UALError
from axolotl_ual.settings.server import ServerConfig

from ..calls.ask import Session
from ..models.server.limiter import Limiter
from .leases import LeasedBudget
from .problem import Problem, coordinator_is_gone
from .said import is_count
from .shared import SharedBreaker, SharedCache, SharedLimiter, SharedRecord
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
class Done:
    """A block that was done.

    Attributes:
        result: of its rows.
        unscored: answers that gave no score, with the row's place in the block.
        counts: lines that count its rows: a block that is done again is counted once.
    """

    result: Any
    unscored: list[dict[str, Any]]
    counts: list[str]


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
            make_record=lambda endpoint: SharedRecord(endpoint, coordinator),
            breaker=SharedBreaker(coordinator),
        )
        self._work: Work | None = None

    def ready(self) -> Problem | None:
        """Build what works; None where nothing is wrong."""
        try:
            self._work = self._job.work(self._session)
        except UALError as error:
            return Problem.of(error)
        return None

    def do(self, start: int, rows: list[Any]) -> Done | Problem:
        """Do the rows of a block, of which the first has the number `start`."""
        assert self._work is not None, "`ready` comes first"
        import ray

        progress = _Told(start, self._coordinator)
        brought: Done | Problem
        try:
            result = self._work.do(rows, progress)
            brought = Done(result, self._unscored.take(), progress.counts)
            # Its lines are to be there before it is.
            ray.get(progress.tell())
        except UALError as error:
            brought = Problem.of(error)
        except ray.exceptions.RayActorError:
            brought = Problem.of(coordinator_is_gone())
        finally:
            self._budget.give_back()
            self._unscored.take()
        return brought

    def _limiter(self, config: ServerConfig, section: str) -> Limiter:
        if self._job.workers > config.max_concurrency:
            raise ConfigError(
                f"{section}.max_concurrency: {config.max_concurrency}: so many requests in flight "
                f"are not enough for {self._job.workers} workers",
                "raise it, or set `engine.workers` to fewer",
            )
        return SharedLimiter(config, section, self._job.workers, self._coordinator)


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
        self.counts: list[str] = []

    def advance(self, done: int = 1) -> None:
        self._done += done
        if time.monotonic() - self._at > _TOLD_EVERY:
            self.tell()

    def status(self, text: str) -> None:
        """Nothing: the command makes its own, from what all workers did."""

    def say(self, line: str) -> None:
        if is_count(line):
            self.counts.append(line)
        else:
            self._lines.append(line)
            self.tell()

    def tell(self) -> Any:
        self._at = time.monotonic()
        lines, self._lines = self._lines, []
        return self._coordinator.tell.remote(self._block, self._done, lines)
