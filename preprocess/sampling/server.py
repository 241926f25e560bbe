"""n responses to each prompt from an OpenAI-compatible server.

A server that does not heed `n` gives one choice; the others are then asked for one by one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from axolotl_ual.columns import ManifestUsage
from axolotl_ual.settings.pairs import SamplingConfig
from axolotl_ual.settings.server import ServerConfig

from ..calls.budget import Meter, ask_paid, check_price
from ..calls.cache import Cache, Judgement, KeyMaker
from ..calls.outcomes import FAILED, REFUSED, SCORED, TOO_LONG
from ..calls.plan import TokenCounter, Work
from ..calls.prices import BYTES_PER_TOKEN, Price, Purse
from ..calls.stream import Question, Stream
from ..data.messages import said_with_calls
from ..data.prompt import Prompt
from ..models.server.client import ChatBackend, Counts, NoCompletion, Server, check_key
from ..models.server.dialect import Chat
from ..models.server.replies import Completion, Kind
from ..progress import Progress
from .base import Outlook, Sampled, dump_responses, load_responses, prompt_sample, seed_of
from .responses import Response

_WITHOUT_COMPLETION: Final = {Kind.REFUSED: REFUSED, Kind.TOO_LONG: TOO_LONG}


@dataclass(frozen=True)
class ApiSampler:
    """Samples from an OpenAI-compatible server.

    Attributes:
        settings: of the sampling.
        config: of the server.
        server: where it is.
        seed: base of all seeds.
        price: of the model's tokens, or None where it is not known.
        purse: of the command.
    """

    settings: SamplingConfig
    config: ServerConfig
    server: Server
    seed: int
    price: Price | None = None
    purse: Purse = field(default_factory=Purse)

    @property
    def keys(self) -> KeyMaker:
        """Cache keys: of the model and of what shapes a response, not of the address."""
        return KeyMaker(
            {
                "kind": "sample",
                "model": self.config.model,
                "n": self.settings.n,
                "temperature": self.settings.temperature,
                "top_p": self.settings.top_p,
                "max_tokens": self.settings.max_tokens,
                "seed": self.seed,
            }
        )

    def check(self) -> None:
        """Find what is missing before anything is sent.

        Raises:
            ConfigError: a key, or a price where spending is limited.
        """
        check_key(self.server)
        check_price(self.price, self.purse, self.config.model, self.server)

    def plan(self, prompts: Sequence[Prompt], cache: Cache) -> Outlook:
        """Tell which prompts are left, and what they would take."""
        left = Left(self)
        known = left.add(prompts, cache)
        work = left.work()
        line = (
            f"sampling: {self.settings.n} responses to each prompt from {self.config.model} at "
            f"{self.server.url}; {left.prompts:,} of {len(set(prompts)):,} distinct prompts are "
            f"left to ask, in {work.requests:,} requests{left.manner}"
        )
        return Outlook(line, known, left.answer, work)

    def sample(
        self,
        prompts: Sequence[Prompt],
        cache: Cache,
        progress: Progress,
        meter: Meter | None = None,
    ) -> Sampled:
        """Ask for n responses in one request, then for those that did not come, one by one.

        Args:
            prompts: what is answered.
            cache: where answers are kept.
            progress: advances with each prompt.
            meter: shows the cost where these prompts are a part of more.

        Raises:
            BackendError: the server cannot be used at all.
            ConfigError: there is no key, or no price where spending is limited.
            LimitError: as much as may be spent was spent.
        """
        self.check()
        own = Meter(self.purse, self.settings.n * len(prompts))
        run = _ApiRun(self, prompts, progress, meter or own)
        asyncio.run(run.ask_all(cache))
        return Sampled(
            run.responses,
            ManifestUsage(
                requests=run.counts.requests,
                cached=run.cached,
                prompt_tokens=run.counts.prompt_tokens,
                completion_tokens=run.counts.completion_tokens,
                cost_usd=own.cost(self.price is not None, run.counts.requests),
            ),
            {"model": self.config.model, "logprobs": run.gives_logprobs},
        )

    def chat(self, prompt: Prompt, repeat: int) -> Chat:
        """The request for all responses (repeat 0) or for one more."""
        return Chat(
            messages=prompt.for_server(),
            max_tokens=self.settings.max_tokens,
            temperature=self.settings.temperature,
            seed=seed_of(prompt, self.seed, repeat),
            prompt_tokens=sum(len(text) for _, text in prompt.messages) // BYTES_PER_TOKEN,
            n=self.settings.n if repeat == 0 else 1,
            top_p=self.settings.top_p if self.settings.top_p < 1 else None,
            logprobs=True,
            tools=prompt.tools,
            plain=prompt.texts() if prompt.chat else None,
        )

    async def ask(self, backend: ChatBackend, prompt: Prompt, repeat: int) -> Judgement:
        """Send a request and keep its choices."""
        chat = self.chat(prompt, repeat)
        try:
            completion = await ask_paid(backend, chat, self.price, self.purse)
        except NoCompletion as nothing:
            outcome = _WITHOUT_COMPLETION.get(nothing.kind, FAILED)
            return Judgement(outcome, text=self.server.redact(nothing.message))
        choices = [_response(choice, chat.seed) for choice in (completion, *completion.further)]
        return Judgement(
            SCORED,
            text=dump_responses(choices),
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
        )


class Left:
    """What a server has left to answer; prompts are added some at a time.

    Args:
        sampler: who asks.

    Attributes:
        prompts: distinct ones that are not complete in the cache.
    """

    def __init__(self, sampler: ApiSampler) -> None:
        self._sampler = sampler
        self._at_once = TokenCounter(sampler.config.model)
        self._one_by_one = TokenCounter(sampler.config.model)
        self._requests_at_once = self._requests_one_by_one = self._answers = 0
        self._gives_one = False
        self._seen: set[bytes] = set()
        self._kept_answers = self._kept_tokens = 0
        self.prompts = 0

    def add(self, prompts: Iterable[Prompt], cache: Cache) -> dict[Prompt, list[Response]]:
        """Count prompts.

        Returns:
            The responses of those that are complete in the cache.
        """
        keys = self._sampler.keys
        known: dict[Prompt, list[Response]] = {}
        distinct = {keys.key(prompt_sample(prompt)): prompt for prompt in prompts}
        first = cache.find(distinct)
        for key, prompt in distinct.items():
            responses, missing = self._recall(prompt, first.get(key), cache)
            if not missing:
                known[prompt] = responses
            elif key[:8] not in self._seen:
                self._seen.add(key[:8])
                self._count(prompt, missing, at_once=key not in first)
        return known

    @property
    def answer(self) -> float:
        """Tokens of a response: the mean of those that were had, else half of max_tokens."""
        if self._kept_answers:
            return self._kept_tokens / self._kept_answers
        return self._sampler.settings.max_tokens / 2

    @property
    def manner(self) -> str:
        """What the cache tells of the server, in words."""
        return " (this server gives one response a request)" if self._gives_one else ""

    def work(self) -> Work:
        """All of it: the prompt counts once for a request, however many responses it gives."""
        times = self._sampler.settings.n if self._gives_one else 1
        prompt = times * self._at_once.tokens + self._one_by_one.tokens
        how = "as long as those in the cache" if self._kept_answers else "half of max_tokens"
        return Work(
            price=self._sampler.price,
            requests=times * self._requests_at_once + self._requests_one_by_one,
            prompt=prompt,
            answer=round(self._answers * self.answer),
            most_prompt=prompt,
            most_answer=self._answers * self._sampler.settings.max_tokens,
            how=f"{self._at_once.how}; responses taken to be {how}",
        )

    def _recall(
        self, prompt: Prompt, first: Judgement | None, cache: Cache
    ) -> tuple[list[Response], int]:
        """The responses to a prompt that the cache holds, and how many are missing."""
        n = self._sampler.settings.n
        if first is None:
            return [], n
        if first.outcome != SCORED:
            return [Response.failed(first.outcome) for _ in range(n)], 0
        responses = load_responses(first.text)[:n]
        self._note(first, len(responses))
        self._gives_one = self._gives_one or len(responses) == 1
        sample, maker = prompt_sample(prompt), self._sampler.keys
        keys = [maker.key(sample, repeat) for repeat in range(1, n - len(responses) + 1)]
        further = cache.find(keys)
        for key in keys:
            if key in further:
                one = further[key]
                self._note(one, 1)
                found = load_responses(one.text) if one.outcome == SCORED else []
                responses.append((found or [Response.failed(one.outcome)])[0])
        return responses, n - len(responses)

    def _note(self, judgement: Judgement, answers: int) -> None:
        if judgement.completion_tokens:
            self._kept_answers += answers
            self._kept_tokens += judgement.completion_tokens

    def _count(self, prompt: Prompt, missing: int, at_once: bool) -> None:
        text = "".join(text for _, text in prompt.messages)
        self.prompts += 1
        self._answers += missing
        if at_once:
            self._requests_at_once += 1
            self._at_once.add(text)
        else:
            self._requests_one_by_one += missing
            self._one_by_one.add(text, missing)


class _ApiRun:
    """One call of `ApiSampler.sample`."""

    def __init__(
        self, sampler: ApiSampler, prompts: Sequence[Prompt], progress: Progress, meter: Meter
    ) -> None:
        self._sampler = sampler
        self._prompts = prompts
        self._progress = progress
        self._meter = meter
        self._n = sampler.settings.n
        self._at_once: list[list[Response]] = [[] for _ in prompts]
        self._one_by_one: dict[int, Response] = {}
        self._left = [self._n] * len(prompts)
        self.cached = 0
        self.counts = Counts()
        self.gives_logprobs = True

    async def ask_all(self, cache: Cache) -> None:
        sampler = self._sampler
        async with ChatBackend(sampler.config, sampler.server, self._progress.say) as backend:
            self.counts = backend.counts

            async def ask(question: Question) -> Judgement:
                prompt = self._prompts[question.rows[0] // sampler.settings.n]
                return await sampler.ask(backend, prompt, question.repeat)

            for questions in (self._first(), self._further()):
                stream = Stream(
                    cache,
                    cache.asker(sampler.keys.description),
                    ask,
                    self._settle,
                    is_stale=lambda judgement: False,
                    workers=2 * sampler.config.max_concurrency,
                )
                await stream.run(questions)
            self.gives_logprobs = backend.gives_logprobs
        self._meter.show(self._progress, last=True)

    @property
    def responses(self) -> list[list[Response]]:
        """N responses for each prompt, whatever order the answers came in."""
        groups = [list(group) for group in self._at_once]
        for slot in sorted(self._one_by_one):
            groups[slot // self._n].append(self._one_by_one[slot])
        return groups

    def _first(self) -> Iterator[Question]:
        for row, prompt in enumerate(self._prompts):
            yield self._question(prompt, row, 0)

    def _further(self) -> Iterator[Question]:
        """Questions for what the first requests left open; read when all of those are done."""
        for row, prompt in enumerate(self._prompts):
            for repeat in range(1, self._n - len(self._at_once[row]) + 1):
                yield self._question(prompt, row, repeat)

    def _question(self, prompt: Prompt, row: int, repeat: int) -> Question:
        sample = prompt_sample(prompt)
        slot = row * self._n + repeat
        return Question(self._sampler.keys.key(sample, repeat), sample, repeat, [slot])

    def _settle(self, slot: int, judgement: Judgement, cached: bool) -> None:
        self.cached += cached
        row, repeat = divmod(slot, self._n)
        scored = judgement.outcome == SCORED
        if repeat:
            found = load_responses(judgement.text) if scored else []
            self._one_by_one[slot] = (found or [Response.failed(judgement.outcome)])[0]
        elif scored:
            self._at_once[row] = load_responses(judgement.text)[: self._n]
        else:
            # A prompt that the server refuses is refused for all of its responses.
            self._at_once[row] = [Response.failed(judgement.outcome) for _ in range(self._n)]
        answers = 1 if repeat else len(self._at_once[row])
        self._left[row] -= answers
        self._meter.count(answers)
        self._meter.show(self._progress)
        if self._left[row] == 0:
            self._progress.advance(1)


def _response(choice: Completion, seed: int | None) -> Response:
    if choice.refused:
        return Response.failed(REFUSED)
    logprobs = _token_logprobs(choice)
    text, chat = choice.content.strip(), ""
    if choice.tool_calls:
        text, chat = said_with_calls(text, choice.tool_calls)
    return Response(
        text=text,
        chat=chat or None,
        finish_reason=choice.finish_reason,
        seed=seed,
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
