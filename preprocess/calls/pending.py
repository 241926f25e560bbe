"""What is to be asked: the one rule that asking, batches and --dry-run share.

A question is asked where the cache holds no answer to it, and once more in a command where the
answer that it holds gave no score and either was cut by fewer tokens than the task allows, or
--retry-failed asks for it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Protocol

from .cache import Answer, AnswerCache, KeyMaker
from .outcomes import WITHOUT_SCORE, Outcome
from .task import Question, Task

_SMALL_CHUNK: Final = 32
_LARGE_CHUNK: Final = 1024
"""Chunks grow while everything is found in the cache and nobody waits for a request."""

OnKnown = Callable[[Question, Answer], None]


class Asked(Protocol):
    """Questions that are asked already."""

    def join(self, question: Question) -> bool:
        """Let a question share the answer of an equal one, if there is one."""
        ...

    def add(self, question: Question) -> None:
        """Note a question that is going to be asked."""
        ...


class Once:
    """Tells equal questions apart where no answer is waited for."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def join(self, question: Question) -> bool:
        """Whether an equal one was noted."""
        return self._short(question) in self._seen

    def add(self, question: Question) -> None:
        """Note a question."""
        self._seen.add(self._short(question))

    @staticmethod
    def _short(question: Question) -> int:
        # Eight bytes tell a million questions apart and take a fraction of the memory.
        return int.from_bytes(question.key[:8], "big")


class Pending:
    """Finds what is to be asked.

    Args:
        cache: open.
        retry_failed: ask again where a kept answer gave no score.
    """

    def __init__(self, cache: AnswerCache, retry_failed: bool) -> None:
        self._cache = cache
        self._retry_failed = retry_failed
        self._retried: set[bytes] = set()

    def __call__(
        self, questions: Iterable[Question], asked: Asked, on_known: OnKnown
    ) -> Iterator[list[Question]]:
        """Go through questions, some at a time.

        Args:
            questions: all of them.
            asked: those that are asked already.
            on_known: called for those that the cache answers.

        Yields:
            Distinct questions to ask, an empty list where a part holds none.
        """
        source = iter(questions)
        size = _LARGE_CHUNK
        while chunk := list(itertools.islice(source, size)):
            found = self._look_up(chunk, asked, on_known)
            size = _SMALL_CHUNK if found else _LARGE_CHUNK
            yield found

    def retried(self, question: Question) -> None:
        """Note that a question is asked: what it is answered is final for this command."""
        if question.is_retry:
            self._retried.add(question.key)

    def _look_up(self, chunk: list[Question], asked: Asked, on_known: OnKnown) -> list[Question]:
        distinct: dict[bytes, Question] = {}
        for question in _with_keys(chunk):
            first = distinct.setdefault(question.key, question)
            if first is not question:
                first.rows.extend(question.rows)
        left = [question for question in distinct.values() if not asked.join(question)]
        known = self._cache.find(question.key for question in left)
        found = []
        for question in left:
            answer = known.get(question.key)
            if answer is not None:
                question.is_retry = self._is_due(question, answer)
                if not question.is_retry:
                    on_known(question, answer)
                    continue
            asked.add(question)
            found.append(question)
        return found

    def _is_due(self, question: Question, answer: Answer) -> bool:
        """Whether a kept answer is worth asking for again."""
        if answer.outcome is Outcome.NO_LOGPROBS:
            return True  # Another server may give them; it is remembered of each server.
        if question.key in self._retried or answer.outcome not in WITHOUT_SCORE:
            return False
        has_more_room = answer.completion_tokens < question.task.max_tokens
        return self._retry_failed or (answer.outcome is Outcome.CUT and has_more_room)


def _with_keys(questions: Iterable[Question]) -> Iterator[Question]:
    task: Task[Any] | None = None
    keys: KeyMaker | None = None
    for question in questions:
        if keys is None or question.task is not task:
            task, keys = question.task, KeyMaker(question.task.identity)
        question.key = keys.key(question.task.sample(question.item), question.repeat)
        yield question
