"""One question and its answer: the request, paid for, and what its completion is worth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ..models.server.client import ChatBackend, NoCompletion
from ..models.server.endpoint import Endpoint
from ..models.server.replies import Completion, Kind
from .budget import Budget, Meter, ask_paid
from .cache import Answer
from .outcomes import Outcome
from .task import NoLogprobs, Question, Reading, Task, Unparsable

_WITHOUT_COMPLETION: Final = {Kind.REFUSED: Outcome.REFUSED, Kind.TOO_LONG: Outcome.TOO_LONG}


class Exchange:
    """Asks one endpoint, and remembers its manners.

    Args:
        endpoint: who is asked.
        budget: of the command.
        say: prints a line for the user.

    Attributes:
        endpoint: likewise.
        budget: likewise.
        backend: an async context manager, to be entered before asking.
    """

    def __init__(self, endpoint: Endpoint, budget: Budget, say: Callable[[str], None]) -> None:
        self.endpoint = endpoint
        self.budget = budget
        self.backend = ChatBackend(endpoint.config, endpoint.server, say)

    async def ask(self, question: Question, meter: Meter) -> Answer:
        """Ask as soon as the budget allows it.

        Raises:
            BackendError: no further question would be answered.
            LimitError: no further question may be paid for.
        """
        task = question.task
        chat = task.chat(question.item, question.repeat)
        meter.note(chat, self.endpoint)
        try:
            completion = await ask_paid(self.backend, chat, self.endpoint, self.budget)
        except NoCompletion as nothing:
            if task.needs_logprobs and not self.backend.gives_logprobs:
                return Answer(Outcome.NO_LOGPROBS, text=nothing.message)
            outcome = self.without_completion(nothing.kind) or Outcome.FAILED
            return Answer(outcome, text=self.endpoint.server.redact(nothing.message))
        return self.read(task, completion)

    def read(self, task: Task[Any], completion: Completion) -> Answer:
        """What a completion is worth."""
        outcome, reading = Outcome.SCORED, Reading()
        tokens = completion.completion_tokens
        if completion.prompt_cut:
            text = "the server cut the prompt to its context"
            return Answer(Outcome.TOO_LONG, None, None, text, completion.prompt_tokens, tokens)
        try:
            reading = task.read(completion)
        except NoLogprobs:
            outcome = Outcome.NO_LOGPROBS
        except Unparsable:
            outcome = Outcome.UNPARSABLE
            if completion.refused:
                outcome = Outcome.REFUSED
            elif completion.cut:
                # Kept with the limit that cut it, however the server counts: more room is what
                # makes it worth asking again.
                outcome, tokens = Outcome.CUT, task.max_tokens
        text = completion.content if reading.text is None else reading.text
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
