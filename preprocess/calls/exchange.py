"""One question and its answer: the request, paid for, and what its completion is worth."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from axolotl_ual.errors import BackendError, UALError

from ..models.server.client import ChatBackend, NoCompletion
from ..models.server.dialect import Chat
from ..models.server.endpoint import Endpoint
from ..models.server.limiter import Limiter
from ..models.server.replies import Completion, Kind
from ..models.server.track_record import TrackRecord
from .breaker import ENOUGH, Breaker
from .budget import Budget, Meter, ask_paid
from .cache import Answer, description
from .outcomes import Outcome
from .task import NoLogprobs, Question, Reading, Task, Unparsable

_WITHOUT_COMPLETION: Final = {Kind.REFUSED: Outcome.REFUSED, Kind.TOO_LONG: Outcome.TOO_LONG}
_TRIES_FOR_LOGPROBS: Final = 2
"""Further requests before a server is taken to give no log-probabilities."""
_SHOWN: Final = 200


class Exchange:
    """Asks one endpoint, and remembers its manners.

    Args:
        endpoint: who is asked.
        budget: of the command.
        say: prints a line for the user.
        limiter: the gate that its requests pass.
        breaker: counts answers of no use, of all that ask in this command.
        record: whether the endpoint has answered.

    Attributes:
        endpoint: likewise.
        budget: likewise.
        backend: an async context manager, to be entered before asking.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        budget: Budget,
        say: Callable[[str], None],
        limiter: Limiter,
        breaker: Breaker,
        record: TrackRecord,
    ) -> None:
        self.endpoint = endpoint
        self.budget = budget
        self.backend = ChatBackend(endpoint.config, endpoint.server, say, limiter, record)
        self._breaker = breaker
        self._no_use: BackendError | None = None
        self._gives_logprobs: bool | None = None
        self._trying = asyncio.Lock()

    async def ask(self, question: Question, meter: Meter) -> Answer:
        """Ask as soon as the budget allows it; once more where the answer cannot be read.

        Raises:
            BackendError: no further question would be answered, or none is of use.
            LimitError: no further question may be paid for.
        """
        if self._no_use is not None:
            raise self._no_use
        task = question.task
        chat = task.chat(question.item, question.repeat)
        meter.note(chat, self.endpoint)
        try:
            completion = await self._pay(chat)
        except NoCompletion as nothing:
            if task.needs_logprobs and not self.backend.gives_logprobs:
                return Answer(Outcome.NO_LOGPROBS, text=nothing.message)
            outcome = self.without_completion(nothing.kind) or Outcome.FAILED
            return Answer(outcome, text=self.endpoint.server.redact(nothing.message))
        answer = self.read(task, completion)
        if answer.outcome is Outcome.NO_LOGPROBS:
            answer = await self._without_logprobs(task, chat, completion, answer)
        self._note_use(task, answer)
        if answer.outcome is Outcome.UNPARSABLE and task.reminder:
            answer = await self._remind(task, chat, answer)
        return answer

    def read(self, task: Task[Any], completion: Completion) -> Answer:
        """What a completion is worth."""
        return self._read(task, completion, task.read)

    def _read(
        self, task: Task[Any], completion: Completion, read: Callable[[Completion], Reading]
    ) -> Answer:
        outcome, reading = Outcome.SCORED, Reading()
        tokens = completion.completion_tokens
        try:
            if completion.prompt_cut:
                raise Unparsable("the server cut the prompt")
            reading = read(completion)
        except NoLogprobs:
            outcome = Outcome.NO_LOGPROBS
        except Unparsable:
            outcome = Outcome.UNPARSABLE
            if completion.prompt_cut:
                outcome = Outcome.TOO_LONG
            elif completion.refused:
                outcome = Outcome.REFUSED
            elif completion.cut:
                # Kept with the limit that cut it, however the server counts: more room is what
                # makes it worth asking again.
                outcome, tokens = Outcome.CUT, task.max_tokens
        text = completion.content if reading.text is None else reading.text
        if not text and completion.thinking:
            text = f"(nothing but thinking: {completion.thinking[:_SHOWN]})"
        return Answer(
            outcome,
            reading.score,
            reading.mass,
            self.endpoint.server.redact(text),
            completion.prompt_tokens,
            tokens,
        )

    @staticmethod
    def without_completion(kind: Kind) -> Outcome | None:
        """The final outcome of a question without a completion; None where it may be had yet."""
        return _WITHOUT_COMPLETION.get(kind)

    async def _pay(self, chat: Chat) -> Completion:
        return await ask_paid(self.backend, chat, self.endpoint, self.budget)

    async def _without_logprobs(
        self, task: Task[Any], chat: Chat, completion: Completion, answer: Answer
    ) -> Answer:
        """An answer without log-probabilities, from a server that may give them to others.

        Where it gives them to most, the row has the number that was stated, on the same scale.
        """
        async with self._trying:
            for _ in range(_TRIES_FOR_LOGPROBS):
                if self._gives_logprobs is not None or not self.backend.gives_logprobs:
                    break
                try:
                    again = self.read(task, await self._pay(chat))
                except NoCompletion:
                    continue
                if again.outcome is Outcome.SCORED:
                    self._gives_logprobs = True
                    return again
            if self._gives_logprobs is None:
                self._gives_logprobs = False
        if not self._gives_logprobs:
            return answer
        return self._read(task, completion, task.read_stated)

    async def _remind(self, task: Task[Any], chat: Chat, answer: Answer) -> Answer:
        """Ask once more, and say what form the answer is to have.

        What ends the run now ends it at the next question: this answer was paid for, and is kept.
        """
        if self._no_use is not None:
            return answer
        try:
            completion = await self._pay(reminded(chat, task.reminder))
        except (NoCompletion, UALError):
            return answer
        again = self.read(task, completion)
        self._note_use(task, again)
        return answer if again.outcome is Outcome.NO_LOGPROBS else again

    def _note_use(self, task: Task[Any], answer: Answer) -> None:
        """Count answers until one is of use; where many are not, no more are asked for."""
        about = f"{self.endpoint.server.url} {description(task.identity)}"
        if answer.outcome is Outcome.SCORED:
            if task.needs_logprobs and answer.mass is not None:
                self._gives_logprobs = True
            self._breaker.note(about, True)
            self.backend.confirm()
        elif answer.outcome is not Outcome.NO_LOGPROBS and self._breaker.note(about, False):
            self._no_use = self._no_use or self._useless_answers(answer, task.max_tokens)

    def _useless_answers(self, answer: Answer, max_tokens: int) -> BackendError:
        server, model = self.endpoint.server, self.endpoint.config.model
        if answer.outcome is Outcome.CUT:
            fix = (
                f"raise {server.section}.max_tokens: answers were cut off by `max_tokens: "
                f"{max_tokens}`; what was cut is asked again then, and nothing else"
            )
        elif answer.outcome is Outcome.TOO_LONG:
            fix = "give the server a larger context (Ollama: num_ctx), or lower max_sample_tokens"
        else:
            fix = (
                f"{model} does not keep to the form that is asked for; use a more capable judge, "
                "or a server that takes a JSON schema, and then `--retry-failed`"
            )
        return BackendError(
            f"none of {ENOUGH} answers of {model} at {server.url} gave a score, so no more are "
            f"paid for; the last ({answer.outcome}): {answer.text[:_SHOWN]!r}",
            fix,
        )


def reminded(chat: Chat, reminder: str) -> Chat:
    """A request with a reminder behind its first message, which holds the instructions."""
    first, *others = chat.messages
    text = f"{first['content']}\n\nYour last answer to this could not be read. {reminder}"
    return replace(chat, messages=[{**first, "content": text}, *others])
