"""Uncertainty from the likelihood of the response under a local causal language model.

    nll_i = -(1 / T_i) * sum_t log p(y_t | x, y_<t)        nats per token

over the T_i tokens of the trained turns, each given everything before it (system prompt, earlier
turns, its own turn so far). This is the logarithm of the perplexity of the response
(Jelinek et al. 1977); as an uncertainty score it is the length-normalised log-probability of
Malinin and Gales, "Uncertainty Estimation in Autoregressive Structured Prediction" (ICLR 2021).
Rivals: the sum over tokens, which grows with length; the predictive entropy, which averages over
responses sampled from the model and not over the one at hand.

Scores become numbers in [0, 1] over all samples of the run by their rank or by min-max
(`mapping.py`), so an uncertainty is relative to the data it was estimated with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from axolotl_ual.columns import ManifestUsage
from axolotl_ual.config import AnnotateConfig, PerplexityConfig
from axolotl_ual.errors import ConfigError

from ..backends.encoding import Encoded, encode
from ..backends.local import LocalModel, nll
from ..mapping import MAPPINGS, Scores
from ..progress import Progress
from ..rows import Sample
from .base import Estimation, Estimator, Plan

NOT_FINITE = "the log-likelihood is not finite"
SECTION = "ual.annotate.perplexity"

_WINDOW: Final = 8192
"""Samples that are held and sorted by length at a time."""
_PLANNED_SAMPLES: Final = 256
_CHARACTERS_PER_TOKEN: Final = 4


@dataclass(slots=True)
class _Tally:
    """What `estimate` counts on its way."""

    failures: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    scored_tokens: int = 0
    prompts_cut: int = 0
    responses_cut: int = 0

    def add(self, item: Encoded) -> None:
        self.tokens += len(item.ids)
        self.scored_tokens += int(item.scored.sum())
        self.prompts_cut += item.prompt_cut
        self.responses_cut += item.response_cut


@dataclass(frozen=True)
class Perplexity:
    """Mean negative log-likelihood of the response, mapped to [0, 1].

    Attributes:
        config: the `perplexity:` section.
        model: folder or Hub name of the model.
        key: the YAML key that names the model.
    """

    config: PerplexityConfig
    model: str
    key: str

    def plan(self, samples: Sequence[Sample]) -> Plan:
        """Tell the model, the rows and a rough number of tokens. Loads nothing."""
        step = max(1, len(samples) // _PLANNED_SAMPLES)
        looked_at = [samples[index] for index in range(0, len(samples), step)]
        characters = sum(len(turn.text) for sample in looked_at for turn in sample.turns)
        tokens = characters * len(samples) // (max(1, len(looked_at)) * _CHARACTERS_PER_TOKEN)
        return Plan(
            [
                f"perplexity under the local model {self.model} (device {self.config.device}, "
                f"mapped by {self.config.mapping})",
                f"{len(samples):,} rows, about {tokens:,} tokens to read; no requests, no cost",
            ]
        )

    def estimate(self, samples: Sequence[Sample], progress: Progress) -> Estimation:
        """Score every sample and map the scores.

        Raises:
            BackendError: the model cannot be loaded or does not fit in memory.
            ConfigError: the device does not exist.
            UALError: torch or transformers is not installed.
        """
        local = LocalModel.load(
            self.model,
            key=self.key,
            device=self.config.device,
            dtype=self.config.dtype,
            section=SECTION,
        )
        max_length = min(self.config.max_length, local.max_positions or self.config.max_length)
        tally = _Tally()
        scores = np.full(len(samples), np.nan)
        for start in range(0, len(samples), _WINDOW):
            stop = min(start + _WINDOW, len(samples))
            window = [samples[index] for index in range(start, stop)]
            encoded = encode(window, local.tokenizer, max_length)
            self._score_window(local, encoded, scores[start:stop], tally, progress)
        return self._estimation(scores, tally, local, max_length)

    def _score_window(
        self,
        local: LocalModel,
        encoded: Sequence[Encoded | str],
        scores: Scores,
        tally: _Tally,
        progress: Progress,
    ) -> None:
        """Write the scores of one window in place."""
        tally.failures.update(item for item in encoded if isinstance(item, str))
        rows = [row for row, item in enumerate(encoded) if isinstance(item, Encoded)]
        sequences = [item for item in encoded if isinstance(item, Encoded)]
        progress.advance(len(encoded) - len(sequences))
        for index, nll_T in local.measure(sequences, nll, self.config.batch_tokens):
            mean = float(nll_T.astype(np.float64).mean())
            if np.isfinite(mean):
                scores[rows[index]] = mean
            else:
                tally.failures[NOT_FINITE] += 1
            tally.add(sequences[index])
            progress.advance(1)

    def _estimation(
        self, scores: Scores, tally: _Tally, local: LocalModel, max_length: int
    ) -> Estimation:
        facts: dict[str, Any] = {
            "model": self.model,
            "mapping": self.config.mapping,
            "device": str(local.model.device),
            "dtype": str(local.model.dtype).removeprefix("torch."),
            "max_length": max_length,
            "chat_template": local.tokenizer.chat_template is not None,
            "mean_nll": float(np.nanmean(scores)) if np.isfinite(scores).any() else None,
            "prompts_cut": tally.prompts_cut,
            "responses_cut": tally.responses_cut,
        }
        return Estimation(
            uncertainty=MAPPINGS[self.config.mapping](scores),
            failures=dict(tally.failures),
            usage=ManifestUsage(
                prompt_tokens=tally.tokens - tally.scored_tokens,
                completion_tokens=tally.scored_tokens,
            ),
            facts=facts,
        )


def build(annotate: AnnotateConfig, base_model: str | None) -> Estimator:
    """Make the estimator that a recipe asks for.

    Raises:
        ConfigError: neither `perplexity.model` nor `base_model` names a model.
    """
    if annotate.perplexity.model is not None:
        return Perplexity(annotate.perplexity, annotate.perplexity.model, f"{SECTION}.model")
    if not base_model:
        raise ConfigError(
            f"{SECTION}.model: no model is named, and the recipe has no `base_model`",
            f"set `base_model`, or `{SECTION}.model`",
        )
    return Perplexity(annotate.perplexity, base_model, "base_model")
