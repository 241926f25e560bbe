"""Uncertainty of the instruction: how far several answers to it are from each other.

    u_i = 1 / (k (k - 1)) * sum_{a != b} (1 - sim(r_ia, r_ib))

over k answers r_i1 .. r_ik that a model gives to the instruction of row i. The response of the row
plays no part: what is measured is how open the instruction is (Wang et al., "Self-Consistency
Improves Chain of Thought Reasoning", 2023, vote over such answers; Lin et al., "Generating with
Confidence", 2024, take their mean dissimilarity).

    words:      sim = 2 |A n B| / (|A| + |B|)        multisets of words, case and punctuation aside
    embedding:  sim = max(0, cos(e_a, e_b))          by a sentence-transformers model
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from axolotl_ual.columns import ManifestUsage
from axolotl_ual.errors import ConfigError
from axolotl_ual.settings.estimators import SelfConsistencyConfig
from axolotl_ual.settings.pairs import SamplingConfig
from axolotl_ual.settings.ual import AnnotateConfig

from ..calls.budget import Meter, price_of, total_usage
from ..calls.cache import Cache
from ..calls.plan import Plan, RunOptions
from ..data.prompt import Prompt
from ..data.prompts import prompt_of_sample
from ..data.sample import Sample
from ..models.server.client import find_server
from ..progress import Progress, Uncounted
from ..sampling.responses import Response
from ..sampling.server import ApiSampler, Left
from .base import Estimation, Estimator

SECTION: Final = "ual.annotate.self_consistency"
NO_INSTRUCTION: Final = "no instruction before the response"
TOO_FEW: Final = "fewer than two answers"
_WINDOW: Final = 2048
"""Rows whose answers are held at a time."""
_WORD: Final = re.compile(r"\w+")

Similarities = Callable[[Sequence[str]], npt.NDArray[np.float64]]
"""Similarity in [0, 1] of each pair of texts, in the order of `itertools.combinations`."""


@dataclass(frozen=True)
class SelfConsistency:
    """Lets a model answer each instruction several times.

    Attributes:
        config: the `self_consistency:` section.
        sampler: draws the answers.
        cache: folder of the durable cache; None is the user's cache directory.
    """

    config: SelfConsistencyConfig
    sampler: ApiSampler
    cache: str | None

    def plan(self, samples: Sequence[Sample]) -> Plan:
        """Tell how much is left to ask. Sends nothing."""
        left = Left(self.sampler)
        with Cache(self.cache) as cache:
            for prompts in _windows(samples):
                left.add((prompt for prompt in prompts if prompt is not None), cache)
        work = left.work()
        return work.plan(
            f"{self.config.answers} answers to each instruction from {self.config.model} at "
            f"{self.sampler.server.url}: {work.requests:,} requests"
        )

    def check(self) -> None:
        """Find what is missing before anything is sent.

        Raises:
            ConfigError: a key, or a price where spending is limited.
        """
        self.sampler.check()

    def estimate(self, samples: Sequence[Sample], progress: Progress) -> Estimation:
        """Sample what the cache does not hold, and compare.

        Raises:
            BackendError: the server or the embedding model cannot be used.
            ConfigError: there is no key, no price where spending is limited, or the cache cannot
                be used.
            LimitError: as much as may be spent was spent.
            UALError: sentence-transformers is not installed and needed.
        """
        self.check()
        similarities = self._similarities()
        uncertainty = np.full(len(samples), np.nan, dtype=np.float32)
        failures: Counter[str] = Counter()
        usages: list[ManifestUsage] = []
        meter = Meter(self.sampler.purse, self.config.answers * len(samples))
        row = 0
        with Cache(self.cache) as cache:
            for prompts in _windows(samples):
                asked = [prompt for prompt in prompts if prompt is not None]
                sampled = self.sampler.sample(asked, cache, Uncounted(progress), meter)
                usages.append(sampled.usage)
                meter.count(self.config.answers * (len(prompts) - len(asked)))
                answers = iter(sampled.responses)
                for prompt in prompts:
                    value = None if prompt is None else spread(next(answers), similarities)
                    if isinstance(value, float):
                        uncertainty[row] = value
                    else:
                        failures[value or NO_INSTRUCTION] += 1
                    row += 1
                progress.advance(len(prompts))
        facts = {
            "model": self.config.model,
            "answers": self.config.answers,
            "similarity": self.config.similarity,
        }
        return Estimation(uncertainty, dict(failures), total_usage(usages), facts)

    def _similarities(self) -> Similarities:
        if self.config.similarity == "words":
            return word_similarities
        from ..models.local.embedder import Embedder

        embedding = self.config.embedding
        embedder = Embedder.load(
            embedding.model, key=f"{SECTION}.embedding", device=embedding.device
        )
        return lambda texts: cosine_similarities(embedder.embed(texts))


def spread(answers: Sequence[Response], similarities: Similarities) -> float | str:
    """u_i of one row, or the reason why there is none."""
    texts = [answer.text for answer in answers if answer.text]
    if len(texts) < 2:
        return next((answer.failure for answer in answers if answer.failure), TOO_FEW)
    return float(1.0 - similarities(texts).mean())


def word_similarities(texts: Sequence[str]) -> npt.NDArray[np.float64]:
    """Overlap of the words of each pair: the F1 of their multisets; 1 for two without words."""
    bags = [Counter(_WORD.findall(text.casefold())) for text in texts]
    sizes = [bag.total() for bag in bags]
    return np.array(
        [
            2 * (bags[a] & bags[b]).total() / (sizes[a] + sizes[b]) if sizes[a] + sizes[b] else 1.0
            for a, b in combinations(range(len(texts)), 2)
        ]
    )


def cosine_similarities(embeddings_NE: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Cosine of each pair of rows, below 0 as 0."""
    norms_N = np.linalg.norm(embeddings_NE, axis=1, keepdims=True)
    unit_NE = embeddings_NE.astype(np.float64) / np.maximum(norms_N, 1e-12)
    cosines_NN = unit_NE @ unit_NE.T
    pairs: npt.NDArray[np.float64] = cosines_NN[np.triu_indices(len(unit_NE), 1)]
    return pairs.clip(0.0, 1.0)


def _windows(samples: Sequence[Sample]) -> Iterator[list[Prompt | None]]:
    """The prompt of each row, some rows at a time; None where nothing stands before a response."""
    source = iter(samples)
    while window := list(islice(source, _WINDOW)):
        prompts = [prompt_of_sample(sample) for sample in window]
        yield [prompt if any(text for _, text in prompt.messages) else None for prompt in prompts]


def build(annotate: AnnotateConfig, base_model: str | None, options: RunOptions) -> Estimator:
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
    server = find_server(config, SECTION)
    price = price_of(config, server)
    sampler = ApiSampler(settings, config, server, config.seed, price, options.purse)
    return SelfConsistency(config, sampler, annotate.cache)
