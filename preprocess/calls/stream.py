"""Many questions, each asked once: the stream between a lazy source of questions and an endpoint.

Questions are looked up in the cache some at a time and queued for the workers where they are
pending. Nothing grows with the number of questions: the source waits for the queue, and a question
that is asked already is not asked again beside it, here or in another process of the command.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from axolotl_ual.errors import BackendError, LimitError

from .cache import Answer, AnswerCache, description
from .outcomes import KEPT
from .pending import Pending
from .task import Question

_LOOKS_AGAIN: Final = 0.1
"""Seconds until a question that another process asks is looked for again."""

_TO_KEEP: Final = 0.5
"""Seconds to keep the last answers, when a run ends."""

Settle = Callable[[Question, Answer, bool], None]
"""Takes a question's answer, and whether it came from the cache."""


class _Open:
    """Questions that wait for their answers."""

    def __init__(self) -> None:
        self._questions: dict[bytes, Question] = {}

    def join(self, question: Question) -> bool:
        first = self._questions.get(question.key)
        if first is not None:
            first.rows.extend(question.rows)
        return first is not None

    def add(self, question: Question) -> None:
        self._questions[question.key] = question

    def close(self, question: Question) -> None:
        del self._questions[question.key]


class Stream:
    """Answers questions, from the cache or by asking.

    Args:
        cache: where answers are kept.
        pending: tells what is to be asked.
        ask: gives the answer to one question.
        settle: takes it.
        workers: questions that are worked on at a time; more than may be in flight, so that those
            that wait for another try hold nothing up.
        end: sends no more from then on, and returns when nothing is in flight, or may be for long.
    """

    def __init__(
        self,
        cache: AnswerCache,
        pending: Pending,
        ask: Callable[[Question], Awaitable[Answer]],
        settle: Settle,
        workers: int,
        end: Callable[[BackendError], Awaitable[None]],
    ) -> None:
        self._cache = cache
        self._pending = pending
        self._ask = ask
        self._settle = settle
        self._workers = workers
        self._end = end
        self._queue: asyncio.Queue[Question | None] = asyncio.Queue(maxsize=workers)
        self._open = _Open()
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
            done, running = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                if running and isinstance(error := task.exception(), BackendError):
                    # What is in flight is paid for.
                    await self._end(error)
                    await asyncio.wait(running, timeout=_TO_KEEP)
                task.result()
            if self._limit is not None:
                raise self._limit
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._cache.flush()
            self._cache.release()

    async def _feed(self, questions: Iterable[Question]) -> None:
        def on_known(question: Question, answer: Answer) -> None:
            self._settle(question, answer, True)

        # What another process asks is waited for at the end only, when all that was claimed here
        # is on its way: so no two wait for each other.
        later: list[Question] = []
        for found in self._pending(questions, self._open, on_known):
            later += await self._start(found)
            await asyncio.sleep(0)
            if self._limit is not None:
                break
        while later and self._limit is None:
            await asyncio.sleep(_LOOKS_AGAIN)
            later = await self._start(later)
        for _ in range(self._workers):
            await self._queue.put(None)

    async def _start(self, questions: list[Question]) -> list[Question]:
        """Queue those that are to be asked here; those that another process asks are left."""
        if not questions:
            return []
        claimed = await self._cache.claim({q.key: q.is_retry for q in questions})
        left = []
        for question in questions:
            answer = claimed.known.get(question.key)
            if answer is not None:
                self._open.close(question)
                self._settle(question, answer, True)
            elif question.key in claimed.elsewhere:
                left.append(question)
            else:
                self._pending.retried(question)
                await self._queue.put(question)
        return left

    async def _work(self) -> None:
        while (question := await self._queue.get()) is not None:
            if self._limit is not None:
                continue
            try:
                answer = await self._ask(question)
            except LimitError as error:
                # What is in flight is paid for: the others finish what they have begun.
                self._limit = error
                continue
            if answer.outcome in KEPT:
                about = description(question.task.identity)
                await self._cache.put(question.key, about, answer)
            self._open.close(question)
            self._settle(question, answer, False)
