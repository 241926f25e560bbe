"""A response under review: what the tasks of a judge share, and the asking of all of them."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, ClassVar, Protocol, cast

import numpy as np
import numpy.typing as npt
from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from axolotl_ual.settings.pairs import PairsJudgeConfig

from ..calls.ask import Asker
from ..calls.budget import Meter
from ..calls.cache import Answer
from ..calls.task import Question, Questions, Reading
from ..data.prompt import Prompt
from ..data.responses import ResponseSet
from ..data.sample import Sample, Turn
from ..judge.frame import Fenced, framed_chat
from ..judge.rubric import TEMPLATES
from ..models.server.dialect import Chat
from ..models.server.replies import Completion

Answers = Sequence[Sequence[Sequence[Answer]]]
"""By task, response and repeat."""


@dataclass(frozen=True, slots=True)
class Reviewed:
    """One distinct response to one prompt."""

    prompt: Prompt
    text: str


@dataclass(frozen=True)
class Review(ABC):
    """A task about a response: the request without what is asked, which subclasses say.

    Attributes:
        config: of the judge.
        instructions: the system message.
    """

    kind: ClassVar[str]
    reminder: ClassVar[str]
    needs_logprobs: ClassVar[bool] = False
    config: PairsJudgeConfig
    instructions: str

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What shapes an answer besides the response."""
        return {
            "kind": self.kind,
            "instructions": hashlib.sha256(self.instructions.encode()).hexdigest(),
            "model": self.config.model,
            "temperature": self.config.temperature,
            "max_sample_tokens": self.config.max_sample_tokens,
            **self.config.answer_shaping,
        }

    @property
    def about(self) -> dict[str, Any]:
        """What is asked, in `unscored.jsonl`."""
        return {"dimension": self.kind}

    @property
    def max_tokens(self) -> int:
        """Of an answer, as the recipe says."""
        return self.config.max_tokens

    @property
    @abstractmethod
    def form(self) -> dict[str, Any]:
        """Fields of the request that say how the answer is to look."""

    @abstractmethod
    def read(self, completion: Completion) -> Reading:
        """Read a score."""

    @abstractmethod
    def likely_tokens(self, item: Reviewed) -> float:
        """Tokens that an answer is likely to have."""

    def read_stated(self, completion: Completion) -> Reading:
        """`read` needs no log-probabilities."""
        return self.read(completion)

    def sample(self, item: Reviewed) -> Sample:
        """The dialogue with the response marked."""
        return Sample((*item.prompt.sample().turns, Turn("assistant", item.text, trained=True)))

    def chat(self, item: Reviewed, repeat: int) -> Chat:
        """The request."""
        return framed_chat(
            self.config,
            self.instructions,
            _frame,
            self.sample(item),
            repeat,
            max_tokens=self.max_tokens,
            **self.form,
        )


def distinct_responses(
    data: ResponseSet, rows: npt.NDArray[np.int64]
) -> tuple[list[Reviewed], list[int]]:
    """The distinct (prompt, text) among some responses, and which of them each one is."""
    flat, prompt_of = data.flat(), data.prompt_of()
    place: dict[Reviewed, int] = {}
    of = [
        place.setdefault(Reviewed(data.prompts[prompt_of[row]], flat[row].text), len(place))
        for row in rows
    ]
    return list(place), of


def review_questions(
    tasks: Sequence[Review], responses: Sequence[Reviewed], repeats: range
) -> Questions:
    """Every task about every response, once for each repeat; places count in this order."""

    def make() -> Iterator[Question]:
        place = 0
        for task in tasks:
            for response in responses:
                for repeat in repeats:
                    yield Question(task, response, repeat, [place])
                    place += 1

    return Questions(tasks, make)


def review(
    asker: Asker,
    tasks: Sequence[Review],
    responses: Sequence[Reviewed],
    repeats: range,
    meter: Meter,
    place: Callable[[int], dict[str, Any]],
) -> Answers:
    """Ask every task about every response, once for each repeat.

    Args:
        asker: of the judge.
        tasks: what is asked.
        responses: what it is asked about, each once.
        repeats: numbers of the intended repeats.
        meter: of this work; its progress advances with each answer.
        place: what a response is called in `unscored.jsonl`.

    Returns:
        The answers, by task, response and repeat.

    Raises:
        BackendError: the judge cannot be used at all.
        LimitError: as much as may be spent was spent.
    """
    answers: dict[int, Answer] = {}

    def on_answer(number: int, answer: Answer) -> None:
        answers[number] = answer
        meter.count()
        meter.progress.advance(1)

    def named(number: int) -> dict[str, Any]:
        task, response = divmod(number // len(repeats), len(responses))
        return {**tasks[task].about, **place(response)}

    asker.run(review_questions(tasks, responses, repeats), on_answer, meter, named)
    numbers = iter(range(len(tasks) * len(responses) * len(repeats)))
    return [[[answers[next(numbers)] for _ in repeats] for _ in responses] for _ in tasks]


class _Template(Protocol):
    def instructions(self, *arguments: Any) -> str: ...

    def reading(self) -> str: ...

    def sample(self, marker: str, parts: Sequence[Any]) -> str: ...


@cache
def template(name: str) -> _Template:
    """One of our templates, by its name without the ending."""
    environment = ImmutableSandboxedEnvironment(
        autoescape=False, lstrip_blocks=True, trim_blocks=True, undefined=StrictUndefined
    )
    source = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    return cast("_Template", environment.from_string(source).module)


def reading() -> str:
    """What a judge is told about the frame."""
    return template("frame-v1").reading()


def _frame(fenced: Fenced) -> str:
    return str(template("frame-v1").sample(fenced.marker, fenced.parts))
