r"""Rows by workers on a Ray cluster: the same scores, in the same order, from the same recipe.

Plain actors over blocks, and not Ray Data. What is known of all rows before anything is paid for
(which are readable, which are trained, as what they are trained) is known to the command, so it is
the command that reads them, and it sends each block to a worker once; with Ray Data every node
would need the files and Axolotl to read them again. A map over batches gives no way to stop all
workers at one budget, to tell the rows done within a batch, or to send a block again alone when its
worker died, and it keeps the order only where it holds blocks back. Here the scores of a block are
some numbers a row, which are put in the places of their rows when they come.

    command: rows -> blocks -> worker 1 ... n (actors)     two blocks a worker are on their way
                                 \  |  /
                               coordinator (actor beside the cache)

Workers pull: a fast one gets more blocks. A block whose worker dies goes to another, and what was
answered of it is in the cache. What takes all rows is decided once, by the estimator's `finish`.
"""

from __future__ import annotations

import functools
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

from axolotl_ual.errors import BackendError, LimitError, words_of
from axolotl_ual.settings.engine import EngineConfig
from axolotl_ual.settings.ual import AnnotateConfig

from ..calls.ask import Session
from ..data.rows import Sample
from ..estimators.base import Estimator, RowScores, join_scores
from ..models.server.prices import usd
from ..progress import Progress
from .cluster import connected, places
from .coordinator import Coordinator, News
from .said import Said
from .work import Scoring, Work
from .worker import Done, Job, Problem, Worker, coordinator_is_gone

_AHEAD: Final = 2
"""Blocks that a worker has: one it works on, and the next."""
_LOOK_SECONDS: Final = 0.5
_TRIES: Final = 3
"""Workers that may die over one block."""
_FAILED_STARTS: Final = 3
"""Workers that may die one after the other before any is ready."""
_PLACES: Final = ("row", "prompt_id")
"""Of a line of `unscored.jsonl`: what counts from the first row of the block."""


@dataclass(slots=True)
class Block:
    """Rows that a worker takes at a time.

    Attributes:
        number: its place among all blocks.
        start: its first row.
        rows: how many.
        reference: of the rows in Ray's store.
        deaths: of workers that had it in hand.
    """

    number: int
    start: int
    rows: int
    reference: Any
    deaths: int = 0


@dataclass(slots=True)
class _Hand:
    """A worker, from here.

    Attributes:
        number: given once.
        actor: its handle.
        is_ready: whether its scorer is built.
        blocks: that it has, in the order in which it works on them.
    """

    number: int
    actor: Any
    is_ready: bool = False
    blocks: deque[Block] = field(default_factory=deque)


class RayEngine:
    """Works rows off on Ray.

    Args:
        settings: the recipe's `ual.annotate`, with the engine.
        base_model: the recipe's.
        session: of the command; its budget, and its file of answers without a score.
    """

    def __init__(self, settings: AnnotateConfig, base_model: str | None, session: Session) -> None:
        self._settings = settings
        self._base_model = base_model
        self._session = session

    def run(self, estimator: Estimator, samples: Sequence[Sample], progress: Progress) -> RowScores:
        """Score N rows.

        Raises:
            UALError: Ray cannot be used, or as the scorers raise.
        """
        settings = self._settings
        work = functools.partial(Scoring, settings, self._base_model)
        place = Place(settings.engine, settings.cache, self._session)
        return join_scores(do_on_ray(work, samples, place, progress))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a command does its work.

    Attributes:
        config: the engine.
        cache: folder of the durable cache; None is the user's cache directory.
        session: of the command; its budget, and its file of answers without a score.
    """

    config: EngineConfig
    cache: str | None
    session: Session


def do_on_ray(
    work: Callable[[Session], Work], rows: Sequence[Any], place: Place, progress: Progress
) -> list[Any]:
    """Let workers do rows.

    Args:
        work: makes the work, from the session of a worker.
        rows: lazy; at least one.
        place: where.
        progress: advances by one for each row.

    Returns:
        What the work gave for each block, in the order of the rows.

    Raises:
        UALError: Ray cannot be used, or as the work raises.
    """
    config, session = place.config, place.session
    with connected(config) as ray:
        workers = config.workers or places(ray, config)
        workers = max(1, min(workers, -(-len(rows) // config.rows_per_block)))
        limit, again = session.budget.limit, session.retry_failed
        job = Job(work, place.cache, os.getcwd(), workers, limit, again)
        run = _Run(ray, job, config, session, progress)
        try:
            return run.work(rows)
        finally:
            run.close()


class _Run:
    """One run over all rows."""

    def __init__(
        self, ray: Any, job: Job, config: EngineConfig, session: Session, progress: Progress
    ) -> None:
        self._ray = ray
        self._job = job
        self._config = config
        self._session = session
        self._progress = progress
        self._said = Said(progress)
        here = ray.get_runtime_context().get_node_id()
        affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=False)
        self._coordinator = (
            ray.remote(Coordinator)
            .options(num_cpus=0, scheduling_strategy=affinity, name=None)
            .remote(job.cache, job.limit)
        )
        self._hands: dict[int, _Hand] = {}
        self._active: dict[Any, tuple[_Hand, Block | None]] = {}
        self._again: deque[Block] = deque()
        self._results: dict[int, Any] = {}
        self._failed_starts = self._named = 0
        self._shown: Counter[int] = Counter()
        self._stopped: Problem | None = None

    def work(self, rows: Sequence[Any]) -> list[Any]:
        """Do all rows."""
        blocks = self._blocks(rows)
        self._call(self._coordinator.where.remote())
        for _ in range(self._job.workers):
            self._hire()
        while True:
            self._hand_out(blocks)
            if not self._active:
                break
            done, _ = self._ray.wait(list(self._active), timeout=_LOOK_SECONDS)
            for reference in done:
                self._take(reference)
            self._show(len(rows))
        self._show(len(rows))
        self._said.finish()
        if self._stopped is not None:
            self._stopped.throw()
        return [self._results[number] for number in sorted(self._results)]

    def close(self) -> None:
        """End all actors."""
        for hand in self._hands.values():
            self._ray.kill(hand.actor)
        self._ray.kill(self._coordinator)

    def _blocks(self, rows: Sequence[Any]) -> Iterator[Block]:
        source, start, number = iter(rows), 0, 0
        while part := list(islice(source, self._config.rows_per_block)):
            yield Block(number, start, len(part), self._ray.put(part))
            start, number = start + len(part), number + 1

    def _hire(self) -> None:
        options: dict[str, Any] = {"num_cpus": 1, "scheduling_strategy": "SPREAD"}
        if self._config.gpus_per_worker:
            options["num_gpus"] = self._config.gpus_per_worker
        self._named += 1
        actor = (
            self._ray.remote(Worker)
            .options(**options)
            .remote(self._named, self._job, self._coordinator)
        )
        hand = _Hand(self._named, actor)
        self._hands[hand.number] = hand
        self._active[actor.ready.remote()] = hand, None

    def _hand_out(self, blocks: Iterator[Block]) -> None:
        """Give blocks to workers that have few, one each in turn."""
        if self._stopped is not None:
            return
        for ahead in range(1, _AHEAD + 1):
            for hand in self._hands.values():
                if hand.is_ready and len(hand.blocks) < ahead:
                    block = self._again.popleft() if self._again else next(blocks, None)
                    if block is None:
                        return
                    hand.blocks.append(block)
                    name = f"rows {block.start}-{block.start + block.rows - 1}"
                    task = hand.actor.do.options(name=name)
                    reference = task.remote(block.number, block.reference)
                    self._active[reference] = hand, block

    def _take(self, reference: Any) -> None:
        """Take what a worker brings: that it is ready, scores, a problem, or its death."""
        if reference not in self._active:
            return  # The run was stopped.
        hand, block = self._active.pop(reference)
        try:
            brought = self._ray.get(reference)
        except self._ray.exceptions.RayActorError as error:
            self._lose(hand, block, words_of(error))
            return
        if block is not None:
            hand.blocks.remove(block)
        if isinstance(brought, Problem):
            self._stop(brought)
        elif block is None:
            hand.is_ready, self._failed_starts = True, 0
        elif isinstance(brought, Done):
            self._results[block.number] = brought.result
            for line in brought.unscored:
                moved: dict[str, Any] = {
                    key: line[key] + block.start for key in _PLACES if key in line
                }
                self._session.unscored.write({**line, **moved})
            self._advance(block.number, block.rows)

    def _stop(self, problem: Problem) -> None:
        """Hand out no more; under --max-cost what is in flight is waited for, as it is paid."""
        if self._stopped is None:
            self._stopped = problem
        if not issubclass(problem.kind, LimitError):
            self._active.clear()

    def _lose(self, hand: _Hand, block: Block | None, words: str) -> None:
        """A worker is dead: its blocks go to others, and another takes its place."""
        if block is not None:
            self._again.append(block)
        if self._hands.pop(hand.number, None) is None:
            return
        deadly = hand.blocks[0] if hand.blocks else None
        if deadly is not None:
            deadly.deaths += 1
        self._call(self._coordinator.bury.remote(hand.number))
        self._failed_starts += not hand.is_ready
        if self._failed_starts >= _FAILED_STARTS:
            self._stop(Problem(BackendError, f"workers die as they start: {words}", _LOOK))
        elif deadly is not None and deadly.deaths >= _TRIES:
            rows = f"rows {deadly.start:,} to {deadly.start + deadly.rows - 1:,}"
            what = f"{_TRIES} workers died over {rows}, one after the other: {words}"
            self._stop(Problem(BackendError, what, f"{_LOOK}; a smaller rows_per_block narrows it"))
        elif self._stopped is None:
            self._said.say(f"a worker died, another takes its place: {words}")
            self._hire()

    def _show(self, total: int) -> None:
        news: News = self._call(self._coordinator.news.remote())
        for block, done in news.done.items():
            self._advance(block, done)
        for line in news.lines:
            self._said.say(line)
        self._session.budget.spent = news.spent
        done = sum(self._shown.values())
        ready = sum(hand.is_ready for hand in self._hands.values())
        parts = [f"{ready} of {self._job.workers} workers"]
        if news.spent:
            parts.append(f"${usd(news.spent)} of about ${usd(news.spent * total / max(done, 1))}")
        self._progress.status(", ".join(parts))

    def _advance(self, block: int, done: int) -> None:
        """Count rows of a block that are done; those that are done again count once."""
        if done > self._shown[block]:
            self._progress.advance(done - self._shown[block])
            self._shown[block] = done

    def _call(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayActorError:
            raise coordinator_is_gone() from None


_LOOK: Final = "look into Ray's logs on their node: a worker out of memory is the usual reason"
