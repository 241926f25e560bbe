"""Many questions, each asked once: the stream between a lazy source of questions and an answerer.

Questions are taken from the source in chunks, looked up in the cache in one query a chunk, and
queued for the workers where they are not known. Nothing grows with the number of questions: the
source waits for the queue, and a question that is asked already is not asked again beside it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from axolotl_ual.errors import LimitError

from ..data.sample import Sample
from .cache import Cache, Judgement
from .outcomes import KEPT

_SMALL_CHUNK: Final = 32
_LARGE_CHUNK: Final = 1024
"""Chunks grow while everything is found in the cache and nobody waits for a request."""


@dataclass(slots=True)
class Question:
    """What is asked about one sample, and for which rows.

    Attributes:
        key: in the cache.
        sample: what it is about.
        repeat: index among intended repeats.
        rows: those that wait for the answer.
    """

    key: bytes
    sample: Sample
    repeat: int
    rows: list[int] = field(default_factory=list)


Ask = Callable[[Question], Awaitable[Judgement]]
Settle = Callable[[int, Judgement, bool], None]
"""Called for each row with its judgement and whether it came from the cache."""


class Stream:
    """Answers questions, from the cache or by asking.

    Args:
        cache: where answers are kept.
        asker: number of the asker in the cache.
        ask: gives the judgement of one question.
        settle: takes it, for each row.
        is_stale: tells that a kept judgement is to be asked for again.
        workers: questions that are worked on at a time; more than may be in flight, so that those
            that wait for another try hold nothing up.
        asked_again: keys of stale judgements that were asked for again already.
    """

    def __init__(
        self,
        cache: Cache,
        asker: int,
        ask: Ask,
        settle: Settle,
        is_stale: Callable[[Judgement], bool],
        workers: int,
        asked_again: Iterable[bytes] = (),
    ) -> None:
        self._cache = cache
        self._asker = asker
        self._ask = ask
        self._settle = settle
        self._is_stale = is_stale
        self._workers = workers
        self._queue: asyncio.Queue[Question | None] = asyncio.Queue(maxsize=workers)
        self._open: dict[bytes, Question] = {}
        self._asked_again = set(asked_again)
        self._limit: LimitError | None = None

    async def run(self, questions: Iterable[Question]) -> None:
        """Answer all questions.

        Raises:
            UALError: a question ended the run; what was answered is in the cache.
        """
        tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(self._work()) for _ in range(self._workers)
        ]
        tasks.append(asyncio.create_task(self._feed(questions)))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
            if self._limit is not None:
                raise self._limit
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._cache.flush()

    async def _feed(self, questions: Iterable[Question]) -> None:
        source = iter(questions)
        size = _LARGE_CHUNK
        while chunk := list(itertools.islice(source, size)):
            unknown = self._look_up(chunk)
            size = _SMALL_CHUNK if unknown else _LARGE_CHUNK
            for question in unknown:
                await self._queue.put(question)
            await asyncio.sleep(0)
            if self._limit is not None:
                break
        for _ in range(self._workers):
            await self._queue.put(None)

    def _look_up(self, chunk: list[Question]) -> list[Question]:
        """Settle what is known, join what is asked already, and return the rest."""
        distinct: dict[bytes, Question] = {}
        for question in chunk:
            first = distinct.setdefault(question.key, question)
            if first is not question:
                first.rows.extend(question.rows)
        known = self._cache.find(key for key in distinct if key not in self._open)
        unknown = []
        for key, question in distinct.items():
            judgement = known.get(key)
            if key in self._open:
                self._open[key].rows.extend(question.rows)
            elif judgement is not None and not self._to_ask_again(key, judgement):
                for row in question.rows:
                    self._settle(row, judgement, True)
            else:
                self._open[key] = question
                unknown.append(question)
        return unknown

    def _to_ask_again(self, key: bytes, judgement: Judgement) -> bool:
        if key in self._asked_again or not self._is_stale(judgement):
            return False
        self._asked_again.add(key)
        return True

    async def _work(self) -> None:
        while (question := await self._queue.get()) is not None:
            if self._limit is not None:
                continue
            try:
                judgement = await self._ask(question)
            except LimitError as error:
                # What is in flight is paid for: the others finish what they have begun.
                self._limit = error
                continue
            if judgement.outcome in KEPT:
                await self._cache.put(question.key, self._asker, judgement)
            del self._open[question.key]
            for row in question.rows:
                self._settle(row, judgement, False)
