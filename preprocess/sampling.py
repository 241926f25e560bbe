"""n responses to each prompt, from a server or a local model, through the durable cache.

What was sampled once is never sampled again: a server's answer is kept as it comes, a local batch
when it is done. Seeds come from the prompt's content, so nothing depends on the order of the data.
A server that does not heed `n` gives one choice; the others are then asked for one by one.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Protocol

import orjson

from axolotl_ual.columns import ManifestUsage
from axolotl_ual.errors import ConfigError
from axolotl_ual.pairs_config import PairsConfig, SamplingConfig
from axolotl_ual.server_config import ServerConfig

from .asking import Question, Stream
from .backends.api import ChatBackend, Counts, NoCompletion, Server, check_key, find_server
from .backends.dialect import Chat
from .backends.replies import Completion, Kind
from .cache import Cache, Judgement, KeyMaker
from .fence import BYTES_PER_TOKEN
from .outcomes import FAILED, REFUSED, SCORED, TOO_LONG
from .progress import Progress
from .responses import Prompt, Response
from .turns import Sample, Turn

SECTION: Final = "ual.pairs.sampling"
_WITHOUT_COMPLETION: Final = {Kind.REFUSED: REFUSED, Kind.TOO_LONG: TOO_LONG}


@dataclass(slots=True)
class Sampled:
    """What sampling gave.

    Attributes:
        responses: n for each of P prompts, failures included.
        usage: requests and tokens of this run.
        facts: for the manifest.
    """

    responses: list[list[Response]]
    usage: ManifestUsage = field(default_factory=ManifestUsage)
    facts: dict[str, Any] = field(default_factory=dict)


class Sampler(Protocol):
    """Draws n responses to each prompt."""

    def plan(self, prompts: Sequence[Prompt], cache: Cache) -> str:
        """Say what is left to be done, without doing it."""
        ...

    def sample(self, prompts: Sequence[Prompt], cache: Cache, progress: Progress) -> Sampled:
        """Sample what the cache does not hold.

        Raises:
            BackendError: the server or the model cannot be used at all.
        """
        ...


def build_sampler(pairs: PairsConfig, base_model: str | None, template: str | None) -> Sampler:
    """The sampler that a recipe asks for.

    Args:
        pairs: the recipe's `ual.pairs`.
        base_model: the recipe's; what a local sampler uses by default.
        template: the recipe's own chat template, for a local model.

    Raises:
        ConfigError: no model is named.
    """
    settings = pairs.sampling
    if settings.backend == "api" and settings.api is not None:
        server = find_server(settings.api, f"{SECTION}.api")
        return ApiSampler(settings, settings.api, server, pairs.seed)
    model = settings.local.model or base_model
    if model is None:
        raise ConfigError(
            f"{SECTION}.local.model: there is no model to sample from",
            "name one there, or a base_model in the recipe",
        )
    from .local_sampling import LocalSampler

    return LocalSampler(settings, model, pairs.seed, template)


def seed_of(prompt: Prompt, base: int, number: int) -> int:
    """A seed of 31 bits, as servers take it, for one draw from one prompt."""
    digest = hashlib.sha256(f"{base}:{number}:{prompt.digest()}".encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1


def prompt_sample(prompt: Prompt) -> Sample:
    """The prompt in the shape that cache keys are made of."""
    return Sample(tuple(Turn(role, content, trained=False) for role, content in prompt.messages))


def dump_responses(responses: Iterable[Response]) -> str:
    """Responses as text for the cache."""
    return orjson.dumps([asdict(response) for response in responses]).decode()


def load_responses(text: str) -> list[Response]:
    """The other way."""
    return [Response(**fields) for fields in orjson.loads(text)]


@dataclass(frozen=True)
class ApiSampler:
    """Samples from an OpenAI-compatible server.

    Attributes:
        settings: of the sampling.
        config: of the server.
        server: where it is.
        seed: base of all seeds.
    """

    settings: SamplingConfig
    config: ServerConfig
    server: Server
    seed: int

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

    def plan(self, prompts: Sequence[Prompt], cache: Cache) -> str:
        """Say how many prompts are left."""
        keys = {self.keys.key(prompt_sample(prompt)) for prompt in prompts}
        known = cache.find(keys)
        return (
            f"sampling: {self.settings.n} responses to each prompt from {self.config.model} at "
            f"{self.server.url}; {len(keys) - len(known):,} of {len(keys):,} distinct prompts are "
            "left to ask"
        )

    def sample(self, prompts: Sequence[Prompt], cache: Cache, progress: Progress) -> Sampled:
        """Ask for n responses in one request, then for those that did not come, one by one."""
        check_key(self.server)
        run = _ApiRun(self, prompts, progress)
        asyncio.run(run.ask_all(cache))
        return Sampled(
            run.responses,
            ManifestUsage(
                requests=run.counts.requests,
                cached=run.cached,
                prompt_tokens=run.counts.prompt_tokens,
                completion_tokens=run.counts.completion_tokens,
            ),
            {"model": self.config.model, "logprobs": run.gives_logprobs},
        )

    def chat(self, prompt: Prompt, repeat: int) -> Chat:
        """The request for all responses (repeat 0) or for one more."""
        return Chat(
            messages=prompt.as_dicts(),
            max_tokens=self.settings.max_tokens,
            temperature=self.settings.temperature,
            seed=seed_of(prompt, self.seed, repeat),
            prompt_tokens=sum(len(text) for _, text in prompt.messages) // BYTES_PER_TOKEN,
            n=self.settings.n if repeat == 0 else 1,
            top_p=self.settings.top_p if self.settings.top_p < 1 else None,
            logprobs=True,
        )

    async def ask(self, backend: ChatBackend, prompt: Prompt, repeat: int) -> Judgement:
        """Send a request and keep its choices."""
        chat = self.chat(prompt, repeat)
        try:
            completion = await backend.ask(chat)
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


class _ApiRun:
    """One call of `ApiSampler.sample`."""

    def __init__(self, sampler: ApiSampler, prompts: Sequence[Prompt], progress: Progress) -> None:
        self._sampler = sampler
        self._prompts = prompts
        self._progress = progress
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
        self._left[row] -= 1 if repeat else len(self._at_once[row])
        if self._left[row] == 0:
            self._progress.advance(1)


def _response(choice: Completion, seed: int | None) -> Response:
    if choice.refused:
        return Response.failed(REFUSED)
    logprobs = _token_logprobs(choice)
    return Response(
        text=choice.content.strip(),
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
