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
answered of it is in the cache; a row that kills whoever has it is given up (`blocks.py`). What
takes all rows is decided once, by the estimator's `finish`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from axolotl_ual.errors import BackendError, LimitError
from axolotl_ual.settings.ual import AnnotateConfig

from ..calls.ask import Session
from ..calls.outcomes import Outcome
from ..data.rows import Sample
from ..estimators.base import Estimator, RowScores, join_scores, row_without_scores
from ..progress import Progress
from .blocks import Block, Blocks, Lost
from .cluster import Place, connected, places
from .coordinator import Coordinator
from .problem import Problem, coordinator_is_gone, words_of_death
from .shown import Shown
from .work import Scoring, Work
from .worker import Done, Job, Worker

_AHEAD: Final = 2
"""Blocks that a worker has: one it works on, and the next."""
_LOOK_SECONDS: Final = 0.5
_FAILED_STARTS: Final = 3
"""Workers that may die one after the other before any is ready."""
_IN_VAIN: Final = 12
"""Workers beyond those of the run that may die while no block is done."""
_LAST_SECONDS: Final = 35.0
"""For answers that are in flight when a run ends with an error."""
_LOOK: Final = "look into Ray's logs on their node: a worker out of memory is the usual reason"


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
        place = Place("annotate", settings.engine, settings.cache, self._session, "row")
        return join_scores(do_on_ray(work, samples, place, progress, _without_scores))


def do_on_ray(
    work: Callable[[Session], Work],
    rows: Sequence[Any],
    place: Place,
    progress: Progress,
    without: Callable[[Lost, Any], Any],
) -> list[Any]:
    """Let workers do rows.

    Args:
        work: makes the work, from the session of a worker.
        rows: lazy; at least one.
        place: where.
        progress: advances by one for each row.
        without: makes the result of a row that no worker survives, from what another block gave.

    Returns:
        What the work gave for each block, in the order of the rows.

    Raises:
        UALError: Ray cannot be used, or as the work raises.
    """
    config, session = place.config, place.session
    with connected(config) as ray:
        room = places(ray, config)
        workers = config.workers or room
        workers = max(1, min(workers, -(-len(rows) // config.rows_per_block)))
        limit, again = session.budget.limit, session.retry_failed
        job = Job(work, place.cache, os.getcwd(), workers, limit, again)
        run = _Run(ray, job, place, Shown(progress, len(rows), workers))
        if room < workers:
            run.shown.say(
                f"the cluster has room for {room:,} of {workers:,} workers: others begin when "
                "there is some, and limits are shared by all"
            )
        try:
            results = run.work(Blocks(ray, rows, config.rows_per_block))
        finally:
            run.close()
    had = [result for result in results if not isinstance(result, Lost)]
    if not had:
        lost: Lost = results[0]
        raise BackendError(f"no worker survives any of the rows: {lost.words}", _LOOK)
    return [without(r, had[0]) if isinstance(r, Lost) else r for r in results]


class _Run:
    """One run over all rows.

    Attributes:
        shown: what the user sees.
    """

    def __init__(self, ray: Any, job: Job, place: Place, shown: Shown) -> None:
        self._ray = ray
        self._job = job
        self._place = place
        self.shown = shown
        # Unique, as a cluster may do several commands.
        self._name = f"{place.command} {secrets.token_hex(4)}"
        here = ray.get_runtime_context().get_node_id()
        affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=False)
        self._coordinator = (
            ray.remote(Coordinator)
            .options(
                name=f"{self._name}: coordinator",
                num_cpus=0,
                scheduling_strategy=affinity,
                # Ray lists some thousands of tasks of a job: its blocks, and not every answer.
                enable_task_events=False,
            )
            .remote(job.cache, job.limit)
        )
        self._hands: dict[int, _Hand] = {}
        self._active: dict[Any, tuple[_Hand, Block | None]] = {}
        self._results: dict[int, Any] = {}
        self._failed_starts = self._in_vain = self._named = 0
        self._stopped: Problem | None = None
        self._until = float("inf")

    def work(self, blocks: Blocks) -> list[Any]:
        """Do all blocks."""
        self._call(self._coordinator.where.remote())
        for _ in range(self._job.workers):
            self._hire()
        # A worker that waits for room is not waited for.
        while self._hand_out(blocks) and time.monotonic() < self._until:
            done, _ = self._ray.wait(list(self._active), timeout=_LOOK_SECONDS)
            for reference in done:
                self._take(reference, blocks)
            self._show()
        self._show()
        self.shown.finish()
        if self._stopped is not None:
            self._stopped.throw()
        return [self._results[start] for start in sorted(self._results)]

    def close(self) -> None:
        """End all actors."""
        for hand in self._hands.values():
            self._ray.kill(hand.actor)
        self._ray.kill(self._coordinator)

    def _hire(self) -> None:
        self._named += 1
        name = f"{self._name}: worker {self._named}"
        options: dict[str, Any] = {"name": name, "num_cpus": 1, "scheduling_strategy": "SPREAD"}
        if self._place.config.gpus_per_worker:
            options["num_gpus"] = self._place.config.gpus_per_worker
        make = self._ray.remote(Worker).options(**options)
        actor = make.remote(self._named, self._job, self._coordinator)
        hand = _Hand(self._named, actor)
        self._hands[hand.number] = hand
        self._active[actor.ready.options(name="build the scorer").remote()] = hand, None

    def _hand_out(self, blocks: Blocks) -> bool:
        """Give blocks to workers that have few, one each in turn; whether any is left or out."""
        hands = self._hands.values()
        is_left = self._stopped is None and bool(blocks)
        for ahead in range(1, _AHEAD + 1):
            for hand in hands:
                if not (is_left and hand.is_ready and len(hand.blocks) < ahead):
                    continue
                if any(block.deaths for block in hand.blocks):
                    continue
                if (block := blocks.next(beside=bool(hand.blocks))) is not None:
                    hand.blocks.append(block)
                    task = hand.actor.do.options(name=block.name)
                    self._active[task.remote(block.start, block.reference)] = hand, block
                    is_left = bool(blocks)
        return is_left or any(hand.blocks for hand in hands)

    def _take(self, reference: Any, blocks: Blocks) -> None:
        """Take what a worker brings: that it is ready, results, a problem, or its death."""
        if reference not in self._active:
            return  # Its worker is dead.
        hand, block = self._active.pop(reference)
        try:
            brought = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._lose(hand, words_of_death(error), blocks)
        else:
            self._accept(hand, block, brought)

    def _accept(self, hand: _Hand, block: Block | None, brought: Any) -> None:
        if block is not None:
            hand.blocks.remove(block)
        if isinstance(brought, Problem):
            self._stop(brought)
        elif block is None:
            hand.is_ready, self._failed_starts = True, 0
        elif isinstance(brought, Done):
            self._in_vain = 0
            self._results[block.start] = brought.result
            for line in brought.unscored:
                row = {key: n + block.start for key, n in line.items() if key == self._place.row}
                self._place.session.unscored.write({**line, **row})
            for count in brought.counts:
                self.shown.say(count)
            self.shown.finished(block)

    def _stop(self, problem: Problem) -> None:
        """Hand out no more; what is in flight is waited for, as it is paid."""
        if self._stopped is not None:
            return
        self._stopped = problem
        if not issubclass(problem.kind, LimitError):
            self._until = time.monotonic() + _LAST_SECONDS
            self._call(self._coordinator.stop.remote(problem))

    def _lose(self, hand: _Hand, words: str, blocks: Blocks) -> None:
        """A worker is dead, or its engine is: its blocks go to others, and another replaces it."""
        self._accept_last(hand)
        del self._hands[hand.number]
        self._active = {r: of for r, of in self._active.items() if of[0] is not hand}
        self._ray.kill(hand.actor)
        self._call(self._coordinator.bury.remote(hand.number))
        self._failed_starts += not hand.is_ready
        self._in_vain += 1
        for place, block in enumerate(hand.blocks):
            self.shown.dropped(block)
            if place:
                blocks.put_back(block)
            elif lost := blocks.blame(block, words):
                self._give_up(block, lost)
        if self._failed_starts >= _FAILED_STARTS:
            self._stop(Problem(BackendError, f"workers die as they start: {words}", _LOOK))
        elif self._in_vain >= _IN_VAIN + self._job.workers:
            what = (
                f"{self._in_vain} workers died, one after the other, and no block is done: {words}"
            )
            self._stop(Problem(BackendError, what, f"{_LOOK}; what was answered is in the cache"))
        elif self._stopped is None:
            self.shown.say(f"a worker died, another takes its place: {words}")
            self._hire()

    def _accept_last(self, hand: _Hand) -> None:
        """What a worker had done before it died is done."""
        of_it = [reference for reference, of in self._active.items() if of[0] is hand]
        for reference in of_it:
            done, _ = self._ray.wait([reference], timeout=0)
            with contextlib.suppress(self._ray.exceptions.RayError):
                if done:
                    brought = self._ray.get(reference)
                    self._accept(hand, self._active.pop(reference)[1], brought)

    def _give_up(self, block: Block, lost: Lost) -> None:
        """A row gets no result: it is no worker's, and no other row's, misfortune."""
        self._results[block.start], self._in_vain = lost, 0
        line = {self._place.row: lost.row, "outcome": Outcome.FAILED.value, "answer": lost.words}
        self._place.session.unscored.write(line)
        self.shown.say(
            f"{self._place.row} {lost.row:,} is left without a result: "
            f"{block.deaths} workers died over it, one after the other: {lost.words}"
        )
        self.shown.finished(block)

    def _show(self) -> None:
        news = self._call(self._coordinator.news.remote())
        at_work = {block.start for hand in self._hands.values() for block in hand.blocks}
        self._place.session.budget.spent = news.spent
        self.shown.look(news, at_work, sum(hand.is_ready for hand in self._hands.values()))

    def _call(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayActorError:
            raise coordinator_is_gone() from None


def _without_scores(_lost: Lost, like: RowScores) -> RowScores:
    return row_without_scores(like)
