"""Scores of the response under a local causal language model, mapped to [0, 1].

What perplexity, entropy and MC dropout share: rows are read in windows, sorted by length, measured
in batches, and mapped over all samples of the run (`labels/ranks.py`), so an uncertainty is
relative to the data it was estimated with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from axolotl_ual.columns import ManifestUsage
from axolotl_ual.errors import ConfigError
from axolotl_ual.settings.estimators import LocalModelConfig, MappedModelConfig

from ..calls.plan import Plan
from ..data.rows import Sample
from ..labels.ranks import MAPPINGS, Scores
from ..models.local.causal import LocalModel, Measure
from ..models.local.encoding import Encoded, encode
from ..progress import Progress
from .base import Estimation

NOT_FINITE: Final = "the log-likelihood is not finite"

_WINDOW: Final = 8192
"""Samples that are held and sorted by length at a time."""
_PLANNED_SAMPLES: Final = 256
_CHARACTERS_PER_TOKEN: Final = 4

Score = Callable[[LocalModel, Sequence[Encoded]], Iterator[tuple[int, float]]]
"""Yields the index of a sequence and its score, in an order of its own."""


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
class LocalScores:
    """A score of each response, mapped to [0, 1].

    Attributes:
        name: of the estimator, as `ual.annotate.estimator` spells it.
        config: its section.
        model: folder or Hub name of the model.
        key: the YAML key that names the model.
        statistic: what the mean of the scores is called in the manifest.
        score: scores a batch of sequences.
        passes: forward passes over each sample.
    """

    name: str
    config: MappedModelConfig
    model: str
    key: str
    statistic: str
    score: Score
    passes: int = 1

    @property
    def section(self) -> str:
        """The YAML section, for error messages."""
        return f"ual.annotate.{self.name}"

    def plan(self, samples: Sequence[Sample]) -> Plan:
        """Tell the model, the rows and a rough number of tokens. Loads nothing."""
        tokens = self.passes * rough_tokens(samples)
        how = f"{self.name} under the local model {self.model} (device {self.config.device}, "
        return reading_plan(f"{how}mapped by {self.config.mapping})", len(samples), tokens)

    def estimate(self, samples: Sequence[Sample], progress: Progress) -> Estimation:
        """Score every sample and map the scores.

        Raises:
            BackendError: the model cannot be loaded or does not fit in memory.
            ConfigError: the device does not exist.
            UALError: torch or transformers is not installed.
        """
        local, max_length = load_model(self.config, self.model, self.key, self.section)
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
        for index, score in self.score(local, sequences):
            if np.isfinite(score):
                scores[rows[index]] = score
            else:
                tally.failures[NOT_FINITE] += 1
            tally.add(sequences[index])
            progress.advance(1)

    def _estimation(
        self, scores: Scores, tally: _Tally, local: LocalModel, max_length: int
    ) -> Estimation:
        facts: dict[str, Any] = {
            **model_facts(self.model, local, max_length),
            "mapping": self.config.mapping,
            self.statistic: float(np.nanmean(scores)) if np.isfinite(scores).any() else None,
            "prompts_cut": tally.prompts_cut,
            "responses_cut": tally.responses_cut,
        }
        return Estimation(
            uncertainty=MAPPINGS[self.config.mapping](scores),
            failures=dict(tally.failures),
            usage=ManifestUsage(
                prompt_tokens=self.passes * (tally.tokens - tally.scored_tokens),
                completion_tokens=self.passes * tally.scored_tokens,
            ),
            facts=facts,
        )


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
