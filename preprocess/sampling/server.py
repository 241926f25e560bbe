"""n responses to each prompt from an OpenAI-compatible server.

A server that does not heed `n` gives one choice; the others are then asked for one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from axolotl_ual.settings.pairs import SamplingConfig

from ..calls.ask import Asker, Place
from ..calls.budget import Meter
from ..calls.cache import Answer
from ..calls.outcomes import Outcome
from ..calls.task import Question, Questions, Reading
from ..data.messages import said_with_calls
from ..data.prompt import Prompt
from ..data.responses import Response
from ..data.sample import Sample
from ..models.server.dialect import Chat
from ..models.server.prices import BYTES_PER_TOKEN
from ..models.server.replies import Completion
from ..progress import Progress
from .base import Outlook, Sampled, dump_responses, load_responses, prompt_sample, seed_of


@dataclass(frozen=True)
class Sampling:
    """The task: all n responses to a prompt (repeat 0), or one more.

    Attributes:
        settings: of the sampling.
        model: name of the model.
        seed: base of all seeds.
        likely: tokens of a response.
        shaping: further keys of the server's section that can change a response.
    """

    settings: SamplingConfig
    model: str
    seed: int
    likely: float = 0.0
    shaping: Mapping[str, Any] = field(default_factory=dict, hash=False)

    needs_logprobs = False
    reminder = ""

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What shapes a response besides the prompt."""
        return {
            "kind": "sample",
            "model": self.model,
            "n": self.settings.n,
            "temperature": self.settings.temperature,
            "top_p": self.settings.top_p,
            "max_tokens": self.settings.max_tokens,
            "seed": self.seed,
            **self.shaping,
        }

    @property
    def max_tokens(self) -> int:
        """Of a response."""
        return self.settings.max_tokens

    def sample(self, item: Prompt) -> Sample:
        """The prompt as turns."""
        return prompt_sample(item)

    def chat(self, item: Prompt, repeat: int) -> Chat:
        """The request."""
        return Chat(
            messages=item.for_server(),
            max_tokens=self.settings.max_tokens,
            temperature=self.settings.temperature,
            seed=seed_of(item, self.seed, repeat),
            prompt_tokens=sum(len(text) for _, text in item.messages) // BYTES_PER_TOKEN,
            n=self.settings.n if repeat == 0 else 1,
            top_p=self.settings.top_p if self.settings.top_p < 1 else None,
            logprobs=True,
            tools=item.tools,
            plain=item.texts() if item.chat else None,
        )

    def read(self, completion: Completion) -> Reading:
        """Keep all choices; one that was refused is a response that failed."""
        choices = [_response(choice) for choice in (completion, *completion.further)]
        return Reading(text=dump_responses(choices))

    def read_stated(self, completion: Completion) -> Reading:
        """`read` needs no log-probabilities."""
        return self.read(completion)

    def likely_tokens(self, item: Prompt) -> float:
        """As long as is expected of all."""
        return self.likely

    def responses(self, prompt: Prompt, repeat: int, answer: Answer) -> list[Response]:
        """The responses in an answer, with their seeds; failed ones where it holds none.

        A prompt that the server refuses is refused for all of its responses.
        """
        number = 1 if repeat else self.settings.n
        if answer.outcome is not Outcome.SCORED:
            return [Response.failed(answer.outcome.value) for _ in range(number)]
        seed = seed_of(prompt, self.seed, repeat)
        found = load_responses(answer.text)[:number]
        return [each if each.failure else replace(each, seed=seed) for each in found]


@dataclass(frozen=True)
class ServerSampler:
    """Samples from an OpenAI-compatible server.

    Attributes:
        task: what is asked.
        asker: of the server.
    """

    task: Sampling
    asker: Asker

    def check(self) -> None:
        """Find what is missing before anything is sent.

        Raises:
            ConfigError: a key, or a price where spending is limited.
        """
        self.asker.check()

    def plan(self, prompts: Sequence[Prompt]) -> Outlook:
        """Tell which prompts are left, and what they would take."""
        known: dict[Prompt, list[Response]] = {}
        left = Left(self, lambda: prompts, known.__setitem__)
        endpoint = self.asker.endpoint
        line = (
            f"sampling: {self.task.settings.n} responses to each prompt from "
            f"{endpoint.config.model} at {endpoint.server.url}; {left.prompts:,} of "
            f"{len(set(prompts)):,} distinct prompts are left to ask, in "
            f"{left.work.requests:,} requests{left.manner}"
        )
        return Outlook(line, known, left.likely, left.work)

    def sample(self, prompts: Sequence[Prompt], progress: Progress) -> Sampled:
        """Ask for n responses in one request, then for those that did not come, one by one.

        Raises:
            BackendError: the server cannot be used at all.
            ConfigError: there is no key, or no price where spending is limited.
            LimitError: as much as may be spent was spent.
        """
        self.check()
        meter = self.asker.session.meter(progress, self.task.settings.n * len(prompts))
        responses = self.draw(prompts, meter, lambda row: {"prompt_id": row})
        meter.finish()
        facts = {
            "model": self.task.model,
            "logprobs": self.asker.gives_logprobs,
            **self.asker.facts,
        }
        return Sampled(responses, meter.usage(), facts)

    def draw(self, prompts: Sequence[Prompt], meter: Meter, place: Place) -> list[list[Response]]:
        """Ask for what the cache does not hold, as a part of more work.

        Args:
            prompts: what is answered.
            meter: of the work; its progress advances with each prompt.
            place: what a prompt is called in `unscored.jsonl`, by its number.

        Returns:
            n responses to each prompt, failures included.
        """
        drawn = _Drawn(self.task, prompts, meter)
        n = self.task.settings.n
        for questions in (drawn.first(), drawn.further()):
            self.asker.run(questions, drawn.settle, meter, lambda number: place(number // n))
        return drawn.responses()

    def firsts(self, prompts: Callable[[], Iterable[Prompt]]) -> Questions:
        """The request for all responses to each prompt."""
        return Questions(
            [self.task], lambda: (Question(self.task, prompt, 0, []) for prompt in prompts())
        )


class Left:
    """What a server has left to answer.

    Args:
        sampler: who asks.
        prompts: all of them.
        on_complete: called for each prompt that the cache answers, with its responses.

    Attributes:
        prompts: number of distinct ones that are not complete in the cache.
        likely: tokens of a response: the mean of those that were had, else half of max_tokens.
        manner: what the cache tells of the server, in words.
        work: all of it.
    """

    def __init__(
        self,
        sampler: ServerSampler,
        prompts: Callable[[], Iterable[Prompt]],
        on_complete: Callable[[Prompt, list[Response]], object],
    ) -> None:
        self._task = sampler.task
        self._n = sampler.task.settings.n
        self._partly: dict[Prompt, list[Response]] = {}
        self._on_complete = on_complete
        self._gives_one = False
        self._kept_answers = self._kept_tokens = 0
        at_once = sampler.asker.plan(sampler.firsts(prompts), self._recall_first)
        one_by_one = sampler.asker.plan(self._further(), self._recall_one)
        missing = [prompt for prompt, had in self._partly.items() if len(had) < self._n]
        for prompt in self._partly.keys() - set(missing):
            on_complete(prompt, self._partly[prompt])
        self.prompts = at_once.requests + len(missing)
        self.likely = sampler.task.settings.max_tokens / 2
        if self._kept_answers:
            self.likely = self._kept_tokens / self._kept_answers
        self.manner = " (this server gives one response a request)" if self._gives_one else ""
        # The prompt counts once for a request, however many responses it gives.
        times = self._n if self._gives_one else 1
        most = at_once.most_answer + one_by_one.most_answer
        likely = self.likely * (at_once.completions + one_by_one.completions)
        how = "as long as those in the cache" if self._kept_answers else "half of max_tokens"
        self.work = replace(
            at_once.times(times) + one_by_one,
            answer=likely,
            most_answer=most,
            how=f"{at_once.how}; responses taken to be {how}",
        )

    def _recall_first(self, question: Question, answer: Answer) -> None:
        prompt = question.item
        had = self._task.responses(prompt, 0, answer)
        if answer.outcome is Outcome.SCORED:
            self._note(answer, len(had))
            self._gives_one = self._gives_one or len(had) == 1
        if len(had) < self._n:
            self._partly[prompt] = had
        else:
            self._on_complete(prompt, had)

    def _recall_one(self, question: Question, answer: Answer) -> None:
        self._note(answer, 1)
        self._partly[question.item] += _one(self._task, question.item, question.repeat, answer)

    def _note(self, answer: Answer, responses: int) -> None:
        if answer.completion_tokens:
            self._kept_answers += responses
            self._kept_tokens += answer.completion_tokens

    def _further(self) -> Questions:
        def make() -> Iterator[Question]:
            for prompt, had in list(self._partly.items()):
                for repeat in range(1, self._n - len(had) + 1):
                    yield Question(self._task, prompt, repeat, [])

        return Questions([self._task], make)


class _Drawn:
    """The responses of one call of `draw`; a place is a prompt's and a repeat's as one number."""

    def __init__(self, task: Sampling, prompts: Sequence[Prompt], meter: Meter) -> None:
        self._task = task
        self._prompts = prompts
        self._meter = meter
        self._n = task.settings.n
        self._at_once: list[list[Response]] = [[] for _ in prompts]
        self._one_by_one: dict[int, Response] = {}
        self._left = [self._n] * len(prompts)

    def first(self) -> Questions:
        """The request for all responses to each prompt."""
        return Questions(
            [self._task],
            lambda: (self._question(row, 0) for row in range(len(self._prompts))),
        )

    def further(self) -> Questions:
        """Questions for what the first requests left open; read when all of those are done."""
        return Questions(
            [self._task],
            lambda: (
                self._question(row, repeat)
                for row in range(len(self._prompts))
                for repeat in range(1, self._n - len(self._at_once[row]) + 1)
            ),
        )

    def settle(self, place: int, answer: Answer) -> None:
        """Take an answer."""
        row, repeat = divmod(place, self._n)
        prompt = self._prompts[row]
        if repeat:
            (self._one_by_one[place],) = _one(self._task, prompt, repeat, answer)
        else:
            self._at_once[row] = self._task.responses(prompt, repeat, answer)
        answers = 1 if repeat else len(self._at_once[row])
        self._left[row] -= answers
        self._meter.count(answers)
        if self._left[row] == 0:
            self._meter.progress.advance(1)

    def responses(self) -> list[list[Response]]:
        """N responses for each prompt, whatever order the answers came in."""
        groups = [list(group) for group in self._at_once]
        for place in sorted(self._one_by_one):
            groups[place // self._n].append(self._one_by_one[place])
        return groups

    def _question(self, row: int, repeat: int) -> Question:
        return Question(self._task, self._prompts[row], repeat, [row * self._n + repeat])


def _one(task: Sampling, prompt: Prompt, repeat: int, answer: Answer) -> list[Response]:
    """The response to a request for one more."""
    found = task.responses(prompt, repeat, answer)
    return found or [Response.failed(answer.outcome.value)]


def _response(choice: Completion) -> Response:
    if choice.refused:
        return Response.failed(Outcome.REFUSED.value)
    logprobs = _token_logprobs(choice)
    text, chat = choice.content.strip(), ""
    if choice.tool_calls:
        text, chat = said_with_calls(text, choice.tool_calls)
    return Response(
        text=text,
        chat=chat or None,
        finish_reason=choice.finish_reason,
        logprob_sum=sum(logprobs) if logprobs else None,
        logprob_mean=sum(logprobs) / len(logprobs) if logprobs else None,
        tokens=len(logprobs) if logprobs else None,
    )


def _token_logprobs(choice: Completion) -> list[float]:
    """Log-probabilities of all tokens; empty where one is missing or is no number."""
    values = [token.get("logprob") for token in choice.logprobs or []]
    numbers = [float(value) for value in values if isinstance(value, (int, float))]
    usable = len(numbers) == len(values) and all(-1e9 < number <= 1e-3 for number in numbers)
    return numbers if usable else []
