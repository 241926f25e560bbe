"""Uncertainty of a response: how far several answers to its instruction are from it.

    u_i = 1 / k * sum_a (1 - sim(y_i, r_ia))

over k answers r_i1 .. r_ik that a model gives to the instruction of row i, whose own response is
y_i. Five answers "Paris" say that a row with "Paris" is certain, and that one with "Lyon" is not.
This is 1 less the degree of y_i among the answers (Lin et al., "Generating with Confidence", 2024,
call it the confidence of one response).

The rival, `anchor: false`, leaves the response out and asks how open the instruction is,

    u_i = 1 / (k (k - 1)) * sum_{a != b} (1 - sim(r_ia, r_ib))

(Lin et al.'s uncertainty of an input; Wang et al., "Self-Consistency Improves Chain of Thought
Reasoning", 2023, vote over such answers). It gives "Paris" and "Lyon" the same 0. The anchored
number is larger where responses are worded as no model words them: it measures style as well, and
so do words more than embeddings.

Of a sentence (`unit: sentence`) y_ij it is asked how well each answer supports it,

    u_ij = 1 / k * sum_a (1 - max_s sim(y_ij, s))     s over the sentences of answer r_ia

as SelfCheckGPT does (Manakul, Liusie and Gales, 2023, arXiv 2303.08896), of the same answers.

    words:      sim = F1 of words, of pairs of characters in scripts without spaces (`similarity`)
    embedding:  sim = max(0, cos(e_a, e_b))          by a sentence-transformers model
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, groupby, islice
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from axolotl_ual.errors import ConfigError
from axolotl_ual.settings.estimators import SelfConsistencyConfig
from axolotl_ual.settings.pairs import SamplingConfig
from axolotl_ual.settings.ual import AnnotateConfig

from ..calls.ask import Session, row_of
from ..calls.plan import Plan
from ..data.prompt import Prompt
from ..data.prompts import prompt_of_sample
from ..data.responses import Response
from ..data.sample import Sample
from ..data.sentences import split_sentences
from ..labels.similarity import overlap, units
from ..progress import Progress, Uncounted
from ..sampling.server import Left, Sampling, ServerSampler
from .base import Estimation, Estimator, RowScores

SECTION: Final = "ual.annotate.self_consistency"
NO_INSTRUCTION: Final = "no instruction before the response"
TOO_FEW: Final = "fewer than two answers"
_UNCERTAINTY: Final = "uncertainty"
_WINDOW: Final = 2048
"""Rows whose answers are held at a time."""

Similarities = Callable[[Sequence[str]], npt.NDArray[np.float64]]
"""Similarity in [0, 1] of each pair of texts, in the order of `itertools.combinations`."""


@dataclass(frozen=True)
class SelfConsistency:
    """Lets a model answer each instruction several times.

    Attributes:
        config: the `self_consistency:` section.
        sampler: draws the answers.
        by_sentence: whether samples are sentences, which answers support or not.
    """

    config: SelfConsistencyConfig
    sampler: ServerSampler
    by_sentence: bool = False

    def plan(self, samples: Sequence[Sample]) -> Plan:
        """Tell how much is left to ask. Sends nothing."""
        left = Left(self.sampler, lambda: _prompts(samples), lambda prompt, responses: None)
        return left.work.plan(
            f"{self.config.answers} answers to each instruction from {self.config.model} at "
            f"{self.sampler.asker.endpoint.server.url}: {left.work.requests:,} requests"
        )

    def check(self) -> None:
        """Find what is missing before anything is sent.

        Raises:
            ConfigError: a key, or a price where spending is limited.
        """
        self.sampler.check()

    def scorer(self) -> SelfConsistencyScorer:
        """What draws and compares answers, with its embedding model loaded.

        Raises:
            BackendError: the embedding model cannot be used.
            UALError: sentence-transformers is not installed and needed.
        """
        return SelfConsistencyScorer(self, self._similarities())

    def finish(self, scores: RowScores) -> Estimation:
        """A row's spread is its uncertainty."""
        return Estimation(
            scores.values[_UNCERTAINTY].astype(np.float32),
            scores.failures,
            scores.usage,
            scores.facts,
        )

    def _similarities(self) -> Similarities:
        if self.config.similarity == "words":
            return word_similarities
        from ..models.local.embedder import Embedder

        embedding = self.config.embedding
        embedder = Embedder.load(
            embedding.model, key=f"{SECTION}.embedding", device=embedding.device
        )
        return lambda texts: cosine_similarities(embedder.embed(texts))


@dataclass(frozen=True)
class SelfConsistencyScorer:
    """Draws answers to the instructions of rows, and compares them.

    Attributes:
        settings: of the estimator.
        similarities: of the answers to one instruction.
    """

    settings: SelfConsistency
    similarities: Similarities

    def score(self, samples: Sequence[Sample], progress: Progress) -> RowScores:
        """Sample what the cache does not hold, and compare.

        Raises:
            BackendError: the server cannot be used.
            LimitError: as much as may be spent was spent.
        """
        config, sampler = self.settings.config, self.settings.sampler
        uncertainty = np.full(len(samples), np.nan)
        failures: Counter[str] = Counter()
        session = sampler.asker.session
        meter = session.meter(Uncounted(progress), config.answers * len(samples))
        questions = sampler.firsts(lambda: _prompts(samples))
        session.run(sampler.asker.bring_batches(questions, meter))
        row = 0
        for window in _windows(samples):
            prompts = [prompt for prompt, _ in window]
            asked = {row + at: prompt for at, prompt in enumerate(prompts) if prompt is not None}
            drawn = sampler.draw(list(asked.values()), meter, partial(_place, list(asked)))
            meter.count(config.answers * (len(prompts) - len(asked)))
            answers = iter(drawn)
            for prompt, response in window:
                own = response if config.anchor else None
                value = None if prompt is None else self._compared(next(answers), own)
                if isinstance(value, float):
                    uncertainty[row] = value
                else:
                    failures[value or NO_INSTRUCTION] += 1
                row += 1
            progress.advance(len(prompts))
        meter.finish()
        facts: dict[str, Any] = {
            "model": config.model,
            "answers": config.answers,
            "similarity": config.similarity,
            "anchor": config.anchor,
        }
        return RowScores({_UNCERTAINTY: uncertainty}, failures, usage=meter.usage(), facts=facts)

    def _compared(self, answers: Sequence[Response], own: str | None) -> float | str:
        if self.settings.by_sentence and own is not None:
            return lack_of_support(answers, self.similarities, own)
        return spread(answers, self.similarities, own)


def spread(answers: Sequence[Response], similarities: Similarities, own: str | None) -> float | str:
    """u_i of one row, or the reason why there is none.

    Args:
        answers: to the instruction of the row.
        similarities: of texts.
        own: the response of the row; None compares the answers with each other.
    """
    texts = _usable(answers)
    if isinstance(texts, str):
        return texts
    if own is None:
        return float(1.0 - similarities(texts).mean())
    # The pairs of the first text come first.
    return float(1.0 - similarities([own, *texts])[: len(texts)].mean())


def lack_of_support(
    answers: Sequence[Response], similarities: Similarities, sentence: str
) -> float | str:
    """u_ij of one sentence, or the reason why there is none.

    Args:
        answers: to the instruction of its row.
        similarities: of texts.
        sentence: of the row's response.
    """
    texts = _usable(answers)
    if isinstance(texts, str):
        return texts
    parts = [split_sentences(text) for text in texts]
    flat = [part for of_answer in parts for part in of_answer]
    own = similarities([sentence.strip(), *flat])[: len(flat)]
    firsts = np.cumsum([0, *(len(of_answer) for of_answer in parts[:-1])])
    return float(1.0 - np.maximum.reduceat(own, firsts).mean())


def _usable(answers: Sequence[Response]) -> list[str] | str:
    """The texts of answers, or the reason why they are too few."""
    texts = [answer.text for answer in answers if answer.text and not answer.text.isspace()]
    if len(texts) < 2:
        return next((answer.failure for answer in answers if answer.failure), TOO_FEW)
    return texts


def word_similarities(texts: Sequence[str]) -> npt.NDArray[np.float64]:
    """Overlap of the words of each pair; 1 for two without words."""
    return np.array([overlap(a, b) for a, b in combinations([units(t) for t in texts], 2)])


def cosine_similarities(embeddings_NE: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Cosine of each pair of rows, below 0 as 0."""
    norms_N = np.linalg.norm(embeddings_NE, axis=1, keepdims=True)
    unit_NE = embeddings_NE.astype(np.float64) / np.maximum(norms_N, 1e-12)
    cosines_NN = unit_NE @ unit_NE.T
    pairs: npt.NDArray[np.float64] = cosines_NN[np.triu_indices(len(unit_NE), 1)]
    return pairs.clip(0.0, 1.0)


def _windows(samples: Sequence[Sample]) -> Iterator[list[tuple[Prompt | None, str]]]:
    """Prompt and response of each row, some rows at a time; None where there is no prompt."""
    source = iter(samples)
    while window := list(islice(source, _WINDOW)):
        prompts = [prompt_of_sample(sample) for sample in window]
        yield [
            (prompt if any(text for _, text in prompt.messages) else None, _response(sample))
            for prompt, sample in zip(prompts, window, strict=True)
        ]


def _response(sample: Sample) -> str:
    """What follows the prompt: the trained turns at the end."""
    trained = groupby(sample.turns, key=lambda turn: turn.trained)
    *_, last = ["".join(turn.text for turn in turns) for is_trained, turns in trained if is_trained]
    return last


def _place(rows: Sequence[int], number: int) -> dict[str, Any]:
    """What an answered prompt is called: its row."""
    return row_of(rows[number])


def _prompts(samples: Sequence[Sample]) -> Iterator[Prompt]:
    """All prompts that there are."""
    for window in _windows(samples):
        yield from (prompt for prompt, _ in window if prompt is not None)


def build(annotate: AnnotateConfig, session: Session) -> Estimator:
    """Make the estimator that a recipe asks for.

    Raises:
        ConfigError: the section is missing, or its price list cannot be read.
    """
    config = annotate.self_consistency
    if config is None:
        raise ConfigError("ual.annotate.self_consistency: this section is needed")
    settings = SamplingConfig(
        backend="api",
        n=config.answers,
        temperature=config.temperature,
        top_p=config.top_p,
        max_tokens=config.max_tokens,
        api=config,
    )
    task = Sampling(settings, config.model, config.seed, shaping=config.answer_shaping)
    sampler = ServerSampler(task, session.asker(config, SECTION))
    return SelfConsistency(config, sampler, annotate.unit == "sentence")
