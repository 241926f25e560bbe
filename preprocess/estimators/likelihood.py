"""Uncertainty from how a local causal language model reads the response.

    perplexity:  nll_i = -(1 / T_i) * sum_t log p(y_t | x, y_<t)            nats per token
    entropy:     H_i = -(1 / T_i) * sum_t sum_v p_t(v) log p_t(v)           nats per token

over the T_i tokens of the trained turns, each given everything before it (system prompt, earlier
turns, its own turn so far), p_t(v) = p(v | x, y_<t) over the vocabulary.

`perplexity` is the logarithm of the perplexity of the response (Jelinek et al. 1977); as an
uncertainty score it is the length-normalised log-probability of Malinin and Gales, "Uncertainty
Estimation in Autoregressive Structured Prediction" (ICLR 2021). Rival: the sum over tokens, which
grows with length. `entropy` is the mean token entropy of Fomicheva et al., "Unsupervised Quality
Estimation for Neural Machine Translation" (TACL 2020), along the given response, which is read and
not sampled: it asks how spread the model's own choice is and not how likely the given one. Rival:
the entropy over whole sampled responses, by meaning (`dimensions/semantic.py`).

Rows are read in windows, sorted by length, measured in batches, and mapped over all samples of the
run by their rank or by min-max (`axolotl_ual.labels.ranks`), so an uncertainty is relative to the
data it was estimated with. MC dropout (`mc_dropout.py`) shares all of this.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from axolotl_ual.errors import ConfigError
from axolotl_ual.labels.ranks import MAPPINGS, Scores
from axolotl_ual.settings.estimators import LocalModelConfig, MappedModelConfig
from axolotl_ual.settings.ual import AnnotateConfig

from ..calls.plan import Plan
from ..data.rows import Sample
from ..models.local.causal import LocalModel, Measure, nll
from ..models.local.encoding import Encoded, encode
from ..progress import Progress
from .base import Estimation, RowScores

NOT_FINITE: Final = "the log-likelihood is not finite"

_SCORE: Final = "score"
_WINDOW: Final = 8192
"""Samples that are held and sorted by length at a time."""
_PLANNED_SAMPLES: Final = 256
_CHARACTERS_PER_TOKEN: Final = 4

Score = Callable[[LocalModel, Sequence[Encoded]], Iterator[tuple[int, float]]]
"""Yields the index of a sequence and its score, in an order of its own."""


@dataclass(frozen=True)
class LocalScores:
    """A score of each response, mapped to [0, 1].

    Attributes:
        name: of the estimator, as `ual.annotate.estimator` spells it.
        config: its section.
        model: folder or Hub name of the model.
        key: the YAML key that names the model.
        statistic: what the mean of the scores is called in the manifest.
        measure: scores a batch of sequences.
        passes: forward passes over each sample.
    """

    name: str
    config: MappedModelConfig
    model: str
    key: str
    statistic: str
    measure: Score
    passes: int = 1

    def check(self) -> None:
        """Nothing is sent, so nothing can be missing before."""

    def plan(self, samples: Sequence[Sample]) -> Plan:
        """Tell the model, the rows and a rough number of tokens. Loads nothing."""
        tokens = self.passes * rough_tokens(samples)
        how = f"{self.name} under the local model {self.model} (device {self.config.device}, "
        return reading_plan(f"{how}mapped by {self.config.mapping})", len(samples), tokens)

    def scorer(self) -> LocalScorer:
        """The model, loaded.

        Raises:
            BackendError: the model cannot be loaded or does not fit in memory.
            ConfigError: the device does not exist.
            UALError: torch or transformers is not installed.
        """
        section = f"ual.annotate.{self.name}"
        local, max_length = load_model(self.config, self.model, self.key, section)
        return LocalScorer(self, local, max_length)

    def finish(self, scores: RowScores) -> Estimation:
        """Map the scores of all rows."""
        values_N = scores.values[_SCORE]
        mean = float(np.nanmean(values_N)) if np.isfinite(values_N).any() else None
        return Estimation(
            uncertainty=MAPPINGS[self.config.mapping](values_N),
            failures=scores.failures,
            usage=scores.usage,
            facts={
                **scores.facts,
                "mapping": self.config.mapping,
                self.statistic: mean,
                **scores.counts,
            },
        )


@dataclass(frozen=True)
class LocalScorer:
    """Reads rows with a loaded model.

    Attributes:
        settings: of the estimator.
        local: the model.
        max_length: tokens that a sequence may have.
    """

    settings: LocalScores
    local: LocalModel
    max_length: int

    def score(self, samples: Sequence[Sample], progress: Progress) -> RowScores:
        """Score rows, some at a time."""
        found = RowScores(
            values={_SCORE: np.full(len(samples), np.nan)},
            counts=Counter(prompts_cut=0, responses_cut=0),
            facts=model_facts(self.settings.model, self.local, self.max_length),
        )
        for start in range(0, len(samples), _WINDOW):
            stop = min(start + _WINDOW, len(samples))
            window = [samples[index] for index in range(start, stop)]
            self._score_window(window, found.values[_SCORE][start:stop], found, progress)
        return found

    def _score_window(
        self, window: Sequence[Sample], scores: Scores, found: RowScores, progress: Progress
    ) -> None:
        """Write the scores of one window in place."""
        encoded = encode(window, self.local.tokenizer, self.max_length)
        found.failures.update(item for item in encoded if isinstance(item, str))
        rows = [row for row, item in enumerate(encoded) if isinstance(item, Encoded)]
        sequences = [item for item in encoded if isinstance(item, Encoded)]
        progress.advance(len(encoded) - len(sequences))
        for index, score in self.settings.measure(self.local, sequences):
            if np.isfinite(score):
                scores[rows[index]] = score
            else:
                found.failures[NOT_FINITE] += 1
            self._count(sequences[index], found)
            progress.advance(1)

    def _count(self, item: Encoded, found: RowScores) -> None:
        scored = int(item.scored.sum())
        found.usage.prompt_tokens += self.settings.passes * (len(item.ids) - scored)
        found.usage.completion_tokens += self.settings.passes * scored
        found.counts["prompts_cut"] += item.prompt_cut
        found.counts["responses_cut"] += item.response_cut


def token_entropy(logits_NV: Any, targets_N: Any) -> Any:
    """Entropy of the distribution at each token in nats: a measure."""
    logp_NV = logits_NV.log_softmax(dim=1)
    # p log p is 0 where p is: -inf logits would make it NaN.
    return -(logp_NV.exp() * logp_NV.clamp_min(-1e4)).sum(dim=1)


def mean_of(measure: Measure, batch_tokens: int) -> Score:
    """The mean of a measure over the tokens of the response."""

    def score(local: LocalModel, sequences: Sequence[Encoded]) -> Iterator[tuple[int, float]]:
        for index, values_T in local.measure(sequences, measure, batch_tokens):
            yield index, float(values_T.astype(np.float64).mean())

    return score


def name_model(config: LocalModelConfig, base_model: str | None, section: str) -> tuple[str, str]:
    """The model to load, and the YAML key that names it.

    Raises:
        ConfigError: neither the section nor `base_model` names a model.
    """
    if config.model is not None:
        return config.model, f"{section}.model"
    if not base_model:
        raise ConfigError(
            f"{section}.model: no model is named, and the recipe has no `base_model`",
            f"set `base_model`, or `{section}.model`, to a folder or a Hub name",
        )
    return base_model, "base_model"


def load_model(
    config: LocalModelConfig, model: str, key: str, section: str
) -> tuple[LocalModel, int]:
    """The model, and the tokens that a sequence may have."""
    local = LocalModel.load(
        model, key=key, device=config.device, dtype=config.dtype, section=section
    )
    return local, min(config.max_length, local.max_positions or config.max_length)


def model_facts(model: str, local: LocalModel, max_length: int) -> dict[str, Any]:
    """What the manifest says of a local model."""
    return {
        "model": model,
        "device": str(local.model.device),
        "dtype": str(local.model.dtype).removeprefix("torch."),
        "max_length": max_length,
        "chat_template": local.tokenizer.chat_template is not None,
    }


def reading_plan(how: str, rows: int, tokens: int) -> Plan:
    """The plan of an estimator that reads rows on this machine."""
    return Plan(
        [how, f"{rows:,} rows, about {tokens:,} tokens to read; no requests, no cost"],
    )


def rough_tokens(samples: Sequence[Sample]) -> int:
    """About how many tokens the samples have, from some of them."""
    step = max(1, len(samples) // _PLANNED_SAMPLES)
    looked_at = [samples[index] for index in range(0, len(samples), step)]
    characters = sum(len(turn.text) for sample in looked_at for turn in sample.turns)
    return characters * len(samples) // (max(1, len(looked_at)) * _CHARACTERS_PER_TOKEN)


def build_perplexity(annotate: AnnotateConfig, base_model: str | None) -> LocalScores:
    """`estimator: perplexity`.

    Raises:
        ConfigError: neither `perplexity.model` nor `base_model` names a model.
    """
    config = annotate.perplexity
    model, key = name_model(config, base_model, "ual.annotate.perplexity")
    measure = mean_of(nll, config.batch_tokens)
    return LocalScores("perplexity", config, model, key, "mean_nll", measure)


def build_entropy(annotate: AnnotateConfig, base_model: str | None) -> LocalScores:
    """`estimator: entropy`.

    Raises:
        ConfigError: neither `entropy.model` nor `base_model` names a model.
    """
    config = annotate.entropy
    model, key = name_model(config, base_model, "ual.annotate.entropy")
    measure = mean_of(token_entropy, config.batch_tokens)
    return LocalScores("entropy", config, model, key, "mean_entropy", measure)
