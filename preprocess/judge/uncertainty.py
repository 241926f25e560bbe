"""One judge: a model with a rubric and a way to score. Asks questions and reads the answers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from axolotl_ual.settings.estimators import JudgeConfig

from ..calls.budget import ask_paid, highest_cost
from ..calls.cache import Judgement, KeyMaker
from ..calls.outcomes import CUT, FAILED, NO_LOGPROBS, REFUSED, SCORED, TOO_LONG, UNPARSABLE
from ..calls.prices import BYTES_PER_TOKEN, Price, Purse
from ..calls.stream import Question
from ..data.sample import Sample
from ..models.server.client import ChatBackend, NoCompletion, Server
from ..models.server.dialect import Chat
from ..models.server.replies import Completion, Kind
from .frame import fence
from .parse import NoLogprobs, Unparsable, expected_score, parse_verbalized
from .rubric import SCHEMA, TOP_LOGPROBS, Rubric, Score

_WITHOUT_COMPLETION: Final = {Kind.REFUSED: REFUSED, Kind.TOO_LONG: TOO_LONG}
_DIGIT_TOKENS: Final = 3
"""Room for a digit where a tokenizer puts a blank before it."""


@dataclass(slots=True)
class Shown:
    """What was changed in the samples that were shown in this run.

    Attributes:
        shortened: samples beyond the token budget.
        replaced: samples with characters that UTF-8 cannot carry.
    """

    shortened: int = 0
    replaced: int = 0


@dataclass(frozen=True)
class Judge:
    """A model with a rubric.

    Attributes:
        config: its section.
        server: where it is.
        rubric: what it is told.
        score: how its answers become numbers.
        price: of its tokens, or None where it is not known.
    """

    config: JudgeConfig
    server: Server
    rubric: Rubric
    score: Score
    price: Price | None = None

    @cached_property
    def keys(self) -> KeyMaker:
        """Cache keys of this judge's questions.

        max_tokens is left out: it cannot change an answer, only cut it, and answers that were cut
        are known (`is_stale`).
        """
        return KeyMaker(
            {
                "kind": "judge",
                "model": self.config.model,
                "rubric": self.rubric.sha256,
                "score": self.score,
                "temperature": self.config.temperature,
                "max_sample_tokens": self.config.max_sample_tokens,
            }
        )

    @cached_property
    def instructions(self) -> str:
        """The system message."""
        return self.rubric.instructions(self.score)

    @property
    def facts(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "model": self.config.model,
            "rubric": self.rubric.name,
            "rubric_sha256": self.rubric.sha256,
            "score": self.score,
        }

    def question(self, sample: Sample, row: int, repeat: int) -> Question:
        """One question about one row."""
        return Question(self.keys.key(sample, repeat), sample, repeat, [row])

    def chat(self, sample: Sample, repeat: int, shown: Shown) -> Chat:
        """The request for a question."""
        fenced = fence(sample, self.config.max_sample_tokens)
        shown.shortened += fenced.left_out > 0
        shown.replaced += fenced.replaced > 0
        text = self.rubric.sample(fenced)
        expected = self.score == "expected"
        return Chat(
            messages=[
                {"role": "system", "content": self.instructions},
                {"role": "user", "content": text},
            ],
            max_tokens=_DIGIT_TOKENS if expected else self.config.max_tokens,
            temperature=self.config.temperature,
            response_format=None if expected else SCHEMA,
            top_logprobs=TOP_LOGPROBS if expected else 0,
            seed=repeat if self.config.temperature > 0 else None,
            prompt_tokens=(len(self.instructions) + len(text)) // BYTES_PER_TOKEN,
        )

    def highest_cost(self, chat: Chat) -> float:
        """USD that a request can cost at most; 0 where no price is known."""
        return highest_cost(self.price, chat)

    async def ask(
        self, backend: ChatBackend, question: Question, shown: Shown, purse: Purse
    ) -> Judgement:
        """Ask a question and read the answer.

        Raises:
            BackendError: no further question would be answered.
            LimitError: no further question may be paid for.
        """
        chat = self.chat(question.sample, question.repeat, shown)
        try:
            completion = await ask_paid(backend, chat, self.price, purse)
        except NoCompletion as nothing:
            outcome = _WITHOUT_COMPLETION.get(nothing.kind, FAILED)
            if self.score == "expected" and not backend.gives_logprobs:
                outcome = NO_LOGPROBS
            return Judgement(outcome, text=nothing.message)
        judgement = self.read(completion)
        return judgement._replace(text=self.server.redact(judgement.text))

    def read(self, completion: Completion) -> Judgement:
        """Turn a completion into a judgement."""
        score: float | None = None
        mass: float | None = None
        outcome = SCORED
        if completion.refused:
            outcome = REFUSED
        else:
            try:
                if self.score == "expected":
                    score, mass = expected_score(completion.content, completion.logprobs or [])
                else:
                    score = parse_verbalized(completion.content)
            except Unparsable:
                outcome = CUT if completion.cut and self.score == "verbalized" else UNPARSABLE
            except NoLogprobs:
                outcome = NO_LOGPROBS
        tokens = completion.completion_tokens
        if outcome == CUT and not tokens:
            tokens = self.config.max_tokens
        return Judgement(outcome, score, mass, completion.content, completion.prompt_tokens, tokens)

    def is_stale(self, judgement: Judgement) -> bool:
        """Whether a kept judgement is worth asking for again: more tokens are allowed by now."""
        return judgement.outcome == CUT and judgement.completion_tokens < self.config.max_tokens
