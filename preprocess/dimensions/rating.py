"""A judge's view of sampled responses: which claims are supported, how far principles are kept.

Requests go through the durable cache, each once; what is asked is in `aspects.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from axolotl_ual.columns import ManifestUsage
from axolotl_ual.settings.pairs import PairsConfig, PairsJudgeConfig

from ..calls.budget import Meter, ask_paid, check_price, price_of
from ..calls.cache import Cache, Judgement, KeyMaker
from ..calls.outcomes import CUT, FAILED, REFUSED, SCORED, TOO_LONG, UNPARSABLE
from ..calls.prices import BYTES_PER_TOKEN, Price, Purse
from ..calls.stream import Question, Stream
from ..data.prompt import Prompt
from ..data.sample import Sample, Turn
from ..judge.frame import fence
from ..judge.parse import Unparsable
from ..models.server.client import ChatBackend, Counts, NoCompletion, Server, check_key, find_server
from ..models.server.dialect import Chat
from ..models.server.replies import Kind
from ..progress import Progress
from .aspects import Aspect, frame
from .value import ValueScore, aggregate

FloatArray = npt.NDArray[np.float64]

SECTION: Final = "ual.pairs.judge"
_WITHOUT_COMPLETION: Final = {Kind.REFUSED: REFUSED, Kind.TOO_LONG: TOO_LONG}


@dataclass(frozen=True, slots=True)
class Reviewed:
    """One distinct response to one prompt."""

    prompt: Prompt
    text: str

    def sample(self) -> Sample:
        """The dialogue with the response marked."""
        return Sample((*self.prompt.sample().turns, Turn("assistant", self.text, trained=True)))


@dataclass(slots=True)
class Ratings:
    """What a judge said.

    Attributes:
        judgements: by aspect, response and repeat.
        usage: requests and tokens of this run.
    """

    judgements: list[list[list[Judgement]]]
    usage: ManifestUsage = field(default_factory=ManifestUsage)


@dataclass(frozen=True)
class Rater:
    """A judge that reviews responses.

    Attributes:
        config: of the judge.
        server: where it is.
        price: of the model's tokens, or None where it is not known.
        purse: of the command.
    """

    config: PairsJudgeConfig
    server: Server
    price: Price | None = None
    purse: Purse = field(default_factory=Purse)

    def keys(self, aspect: Aspect) -> KeyMaker:
        """Cache keys of an aspect's questions; max_tokens can cut an answer, not change it."""
        return KeyMaker(
            {
                **aspect.description,
                "model": self.config.model,
                "temperature": self.config.temperature,
                "max_sample_tokens": self.config.max_sample_tokens,
            }
        )

    def check(self) -> None:
        """Find what is missing before anything is sent.

        Raises:
            ConfigError: a key, or a price where spending is limited.
        """
        check_key(self.server)
        check_price(self.price, self.purse, self.config.model, self.server)

    def rate(
        self,
        aspects: Sequence[Aspect],
        responses: Sequence[Reviewed],
        cache: Cache,
        progress: Progress,
        repeats: range = range(1),
    ) -> Ratings:
        """Ask about every aspect of every response, once for each repeat.

        Args:
            aspects: what is asked.
            responses: what it is asked about, each once.
            cache: where answers are kept.
            progress: advances with each answer.
            repeats: numbers of the intended repeats.

        Raises:
            BackendError: the judge cannot be used at all.
            ConfigError: there is no key, or no price where spending is limited.
            LimitError: as much as may be spent was spent.
        """
        self.check()
        meter = Meter(self.purse, len(aspects) * len(responses) * len(repeats))
        run = _Run(self, aspects, responses, repeats, progress, meter)
        asyncio.run(run.ask_all(cache))
        usage = ManifestUsage(
            requests=run.counts.requests,
            cached=run.cached,
            prompt_tokens=run.counts.prompt_tokens,
            completion_tokens=run.counts.completion_tokens,
            cost_usd=meter.cost(self.price is not None, run.counts.requests),
        )
        return Ratings(run.judgements(), usage)

    def chat(self, aspect: Aspect, sample: Sample, repeat: int) -> Chat:
        """The request for one question."""
        text = frame(fence(sample, self.config.max_sample_tokens))
        instructions = aspect.instructions
        return Chat(
            messages=[
                {"role": "system", "content": instructions},
                {"role": "user", "content": text},
            ],
            temperature=self.config.temperature,
            seed=repeat if self.config.temperature > 0 else None,
            prompt_tokens=(len(instructions) + len(text)) // BYTES_PER_TOKEN,
            **aspect.limits(self.config),
        )

    async def ask(
        self, backend: ChatBackend, aspect: Aspect, sample: Sample, repeat: int
    ) -> Judgement:
        """Ask a question and read the answer."""
        try:
            chat = self.chat(aspect, sample, repeat)
            completion = await ask_paid(backend, chat, self.price, self.purse)
        except NoCompletion as nothing:
            outcome = _WITHOUT_COMPLETION.get(nothing.kind, FAILED)
            return Judgement(outcome, text=self.server.redact(nothing.message))
        score: float | None = None
        mass: float | None = None
        outcome = SCORED
        if completion.refused:
            outcome = REFUSED
        else:
            try:
                score, mass = aspect.read(completion)
            except Unparsable:
                outcome = CUT if completion.cut else UNPARSABLE
        tokens = completion.completion_tokens or (self.config.max_tokens if outcome == CUT else 0)
        text = self.server.redact(completion.content)
        return Judgement(outcome, score, mass, text, completion.prompt_tokens, tokens)

    def is_stale(self, judgement: Judgement) -> bool:
        """Whether an answer that was cut is worth asking for again: more tokens are allowed."""
        return judgement.outcome == CUT and judgement.completion_tokens < self.config.max_tokens


def build_rater(pairs: PairsConfig, purse: Purse) -> Rater | None:
    """The judge of a recipe; None where no dimension asks one.

    Raises:
        ConfigError: its price list cannot be read.
    """
    if pairs.judge is None or not pairs.judged:
        return None
    server = find_server(pairs.judge, SECTION)
    return Rater(pairs.judge, server, price_of(pairs.judge, server), purse)


class _Run:
    """One call of `Rater.rate`; a slot is (aspect, response, repeat) as one number."""

    def __init__(
        self,
        rater: Rater,
        aspects: Sequence[Aspect],
        responses: Sequence[Reviewed],
        repeats: range,
        progress: Progress,
        meter: Meter,
    ) -> None:
        self._rater = rater
        self._aspects = aspects
        self._responses = responses
        self._repeats = repeats
        self._progress = progress
        self._meter = meter
        self._settled: dict[int, Judgement] = {}
        self.cached = 0
        self.counts = Counts()

    async def ask_all(self, cache: Cache) -> None:
        rater = self._rater
        async with ChatBackend(rater.config, rater.server, self._progress.say) as backend:
            self.counts = backend.counts

            async def ask(question: Question) -> Judgement:
                aspect = self._aspects[question.rows[0] // self._per_aspect]
                return await rater.ask(backend, aspect, question.sample, question.repeat)

            stream = Stream(
                cache,
                cache.asker(rater.keys(self._aspects[0]).description),
                ask,
                self._settle,
                is_stale=rater.is_stale,
                workers=2 * rater.config.max_concurrency,
            )
            await stream.run(self._questions())
        self._meter.show(self._progress, last=True)

    @property
    def _per_aspect(self) -> int:
        return len(self._responses) * len(self._repeats)

    def judgements(self) -> list[list[list[Judgement]]]:
        slots = iter(range(len(self._aspects) * self._per_aspect))
        return [
            [[self._settled[next(slots)] for _ in self._repeats] for _ in self._responses]
            for _ in self._aspects
        ]

    def _questions(self) -> Iterator[Question]:
        slot = 0
        for aspect in self._aspects:
            keys = self._rater.keys(aspect)
            for response in self._responses:
                sample = response.sample()
                for repeat in self._repeats:
                    yield Question(keys.key(sample, repeat), sample, repeat, [slot])
                    slot += 1

    def _settle(self, slot: int, judgement: Judgement, cached: bool) -> None:
        self.cached += cached
        self._settled[slot] = judgement
        self._progress.advance(1)
        self._meter.count()
        self._meter.show(self._progress)


def factual_scores(ratings: Ratings) -> tuple[list[float], dict[int, str]]:
    """u_f of each response, NaN where there is none, and the reason for each that has none."""
    first = [repeats[0] for repeats in ratings.judgements[0]]
    reasons = {row: judged.outcome for row, judged in enumerate(first) if judged.score is None}
    return [float("nan") if j.score is None else j.score for j in first], reasons


def value_scores(ratings: Ratings) -> tuple[list[ValueScore | None], dict[int, str]]:
    """Value score of each response, None where a principle has no rating, and the reasons."""
    reasons: dict[int, str] = {}
    scores = []
    for row in range(len(ratings.judgements[0])):
        given = [aspect[row] for aspect in ratings.judgements]
        matrix = np.array(
            [[np.nan if j.score is None else j.score for j in repeats] for repeats in given]
        )
        score = aggregate(matrix)
        if score is None:
            missing = next(r[0] for r in given if all(j.score is None for j in r))
            reasons[row] = missing.outcome
        scores.append(score)
    return scores, reasons
