"""The sections of the estimators that give a sample its uncertainty."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, field_validator, model_validator

from axolotl_ual.settings.server import OPERATIONAL, Section, ServerConfig

_TOKENS_WITH_REASON = 512


class JudgeConfig(ServerConfig):
    """A judge behind an OpenAI-compatible `/v1/chat/completions`."""

    temperature: float = Field(0.0, ge=0, le=2, description="Sampling temperature of the judge.")
    max_tokens: int = Field(
        64, ge=8, description="Completion tokens allowed; raise it for models that reason first."
    )
    max_sample_tokens: int = Field(
        16_000,
        ge=64,
        description="Longer samples are shown by their heads and tails (4 bytes count as a token).",
    )
    rubric: str = Field(
        "uncertainty-v1", min_length=1, description="One of ours by name, or a .jinja file."
    )
    score: Literal["verbalized", "expected"] = Field(
        "verbalized",
        description="verbalized: a stated number. expected: the expectation over the digits, by "
        "their log-probabilities; finer and cheaper, where the server gives them.",
    )
    reason: bool | None = Field(
        None,
        description="Ask for a reason before the numbers; the rubric must be one that can, such "
        "as uncertainty-v2. null is no.",
    )
    repeats: int = Field(
        1, ge=1, le=100, description="Times each sample is judged; the mean and spread are kept."
    )

    @model_validator(mode="after")
    def _a_reason_has_room(self) -> JudgeConfig:
        if self.reason and "max_tokens" not in self.model_fields_set:
            self.max_tokens = _TOKENS_WITH_REASON
        return self


class PanelConfig(Section):
    """Several judges, each with its own server."""

    judges: list[JudgeConfig] = Field(min_length=2, description="Sections like `judge:`.")
    combine: Literal["mean", "median"] = Field(
        "mean", description="Over the judges that gave a score."
    )


class LocalModelConfig(Section):
    """A local causal language model."""

    model: str | None = Field(None, description="Folder or Hub name; null is the base_model.")
    max_length: int = Field(2048, ge=2, description="Tokens of prompt and response together.")
    batch_tokens: int = Field(
        8192, ge=1, description="Padded tokens in a batch.", json_schema_extra=OPERATIONAL
    )
    device: str = Field(
        "auto", description="auto, cpu, cuda, cuda:1, ...", json_schema_extra=OPERATIONAL
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto is the checkpoint's own on a GPU, float32 on a CPU."
    )


class MappedModelConfig(LocalModelConfig):
    """A local model whose scores have no scale of their own."""

    mapping: Literal["rank", "minmax", "clipped", "ratio"] = Field(
        "rank",
        description=(
            "How scores become numbers in [0, 1]: rank is a row's place in their order, evenly "
            "spread whatever the scores; minmax keeps their distances; clipped too, between the "
            "5th and the 95th percentile; ratio divides by the largest."
        ),
    )


class PerplexityConfig(MappedModelConfig):
    """Mean negative log-likelihood of the response."""


class EntropyConfig(MappedModelConfig):
    """Mean predictive entropy at the tokens of the response."""


class DropoutConfig(MappedModelConfig):
    """Spread of the mean negative log-likelihood over passes with dropout on."""

    passes: int = Field(8, ge=2, le=1000, description="Forward passes over each sample.")
    rate: float | None = Field(
        None, gt=0, lt=1, description="Dropout probability; null is the model's or adapter's own."
    )
    seed: int = Field(0, ge=0, description="Of the dropout masks.")


class PTrueConfig(LocalModelConfig):
    """1 - P(True): the model is asked whether the response is right."""


class AnswerEmbeddingConfig(Section):
    """A sentence-transformers model."""

    model: str = Field(
        "sentence-transformers/all-MiniLM-L6-v2", min_length=1, description="Folder or Hub name."
    )
    device: str = Field(
        "auto", description="auto, cpu, cuda, cuda:1, ...", json_schema_extra=OPERATIONAL
    )


class SelfConsistencyConfig(ServerConfig):
    """A model behind an OpenAI-compatible server that answers the instruction itself."""

    answers: int = Field(5, ge=2, le=256, description="Answers to each instruction.")
    temperature: float = Field(1.0, gt=0, le=2, description="Sampling temperature.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus: the mass that is sampled from.")
    max_tokens: int = Field(512, ge=1, description="Tokens of an answer.")
    seed: int = Field(0, ge=0, description="Of the sampling, where the server takes one.")
    anchor: bool = Field(
        True,
        description="true: the answers are compared with the row's own response. false: with each "
        "other, so that the response plays no part.",
    )
    similarity: Literal["words", "embedding"] = Field(
        "words",
        description="words: overlap of words, of pairs of characters in scripts without spaces. "
        "embedding: cosine under a sentence-transformers "
        "model on this machine.",
    )
    embedding: AnswerEmbeddingConfig = Field(default_factory=AnswerEmbeddingConfig)


class DistilledConfig(Section):
    """Some rows by the judge, the others as a regression on embeddings predicts."""

    rows: int = Field(2000, ge=100, description="Rows that the judge rates.")
    seed: int = Field(0, ge=0, description="Of the choice of these rows.")
    regressor: Literal["ridge", "neighbours"] = Field(
        "ridge",
        description="ridge: linear, its penalty by cross-validation. neighbours: mean of the ten "
        "nearest by cosine, weighted by nearness.",
    )
    embedding: AnswerEmbeddingConfig = Field(default_factory=AnswerEmbeddingConfig)
    least_correlation: float = Field(
        0.3,
        ge=-1,
        lt=1,
        description="The run stops where the rank correlation of predictions with ratings, on rows "
        "that a fit has not seen, is below it.",
    )


Single = Literal[
    "judge", "panel", "perplexity", "entropy", "mc_dropout", "p_true", "self_consistency", "custom"
]
"""Estimators that an ensemble can mix."""


class EnsembleConfig(Section):
    """Several estimators as one: a weighted mean of them, or their product."""

    members: dict[Single, float] = Field(
        min_length=2, description="Weight, above 0, of each estimator; each has its own section."
    )
    mix: Literal["rank", "value", "product"] = Field(
        "rank",
        description="rank: uncertainties are ranked before they are averaged. product: multiplied, "
        "each to the power of its share of the weights times their number.",
    )

    @field_validator("members")
    @classmethod
    def _weights_are_positive(cls, members: dict[Single, float]) -> dict[Single, float]:
        for name, weight in members.items():
            if not 0 < weight < math.inf:
                raise ValueError(f"the weight of `{name}` must be above 0, not {weight:g}")
        return members
