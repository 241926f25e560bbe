"""The `pairs:` section of `ual:`: sampling, the dimensions, and what becomes of them."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from axolotl_ual.columns import GAP, PREFIX, SMOOTHING, STAGE, UNCERTAINTY
from axolotl_ual.settings.custom import CustomConfig
from axolotl_ual.settings.engine import EngineConfig
from axolotl_ual.settings.server import OPERATIONAL, Section, ServerConfig, shaping

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Policy = Literal["worst", "second", "median", "random"]

DIMENSIONS = ("semantic", "factual", "value")
"""Those of ours, in the order of columns."""

_TAKEN = {name.removeprefix(PREFIX) for name in (UNCERTAINTY, SMOOTHING, STAGE, GAP)}

PRINCIPLES = {
    "helpful": "The response answers what was asked, completely and to the point.",
    "harmless": "The response does not help to hurt anybody and is not offensive.",
    "honest": "The response claims nothing that it cannot know and does not mislead.",
}


def _device() -> Any:
    return Field("auto", description="auto, cpu, cuda, cuda:1, ...", json_schema_extra=OPERATIONAL)


def _dtype() -> Any:
    return Field("auto", description="auto is the checkpoint's own on a GPU, float32 on a CPU.")


def _batch_tokens(default: int = 8192) -> Any:
    return Field(
        default, ge=1, description="Padded tokens in a batch.", json_schema_extra=OPERATIONAL
    )


class LocalSamplerConfig(Section):
    """A local causal language model, perhaps with a LoRA adapter."""

    model: str | None = Field(None, description="Folder or Hub name; null is the base_model.")
    adapter: str | None = Field(None, description="Folder or Hub name of a LoRA adapter.")
    max_prompt_length: int = Field(
        2048, ge=1, description="Tokens; a prompt that is longer loses tokens from its left."
    )
    batch_tokens: int = _batch_tokens(32_768)
    device: str = _device()
    dtype: Dtype = _dtype()


class SamplingConfig(Section):
    """How the responses to a prompt are drawn."""

    backend: Literal["api", "local"] = Field(
        "local", description="A server (`api:`) or a model on this machine (`local:`)."
    )
    n: int = Field(8, ge=2, le=256, description="Responses to a prompt.")
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(0.95, gt=0, le=1, description="Nucleus: the mass that is sampled from.")
    max_tokens: int = Field(512, ge=1, description="Tokens of a response.")
    truncated: Literal["exclude", "keep"] = Field(
        "exclude", description="Whether responses that max_tokens cut off are scored and paired."
    )
    api: ServerConfig | None = Field(None, description="Needed by `backend: api`.")
    local: LocalSamplerConfig = Field(default_factory=LocalSamplerConfig)

    @model_validator(mode="after")
    def _backend_has_its_section(self) -> SamplingConfig:
        if self.backend == "api" and self.api is None:
            raise ValueError(
                "`backend: api` needs an `api:` section with at least a `model:`, for example "
                "`api: {model: my-model, base_url: http://localhost:8000/v1}`"
            )
        return self


class NliConfig(Section):
    """A classifier for natural language inference."""

    model: str = Field("microsoft/deberta-large-mnli", min_length=1)
    labels: dict[Literal["entailment", "contradiction"], str] | None = Field(
        None, description="Names of the model's labels; null: found by their names."
    )
    threshold: float | None = Field(
        None, gt=0, lt=1, description="P(entailment) that counts; null: it must be the likeliest."
    )
    max_length: int = Field(512, ge=16, description="Tokens of premise and hypothesis together.")
    batch_tokens: int = _batch_tokens()
    device: str = _device()
    dtype: Dtype = _dtype()


class EmbeddingConfig(Section):
    """A sentence-transformers model and what counts as the same meaning."""

    model: str = Field("sentence-transformers/all-MiniLM-L6-v2", min_length=1)
    similarity: float = Field(0.85, ge=-1, le=1, description="Cosine from which texts are one.")
    linkage: Literal["average", "threshold"] = Field(
        "average",
        description="average: agglomerative, by mean similarity. threshold: greedy, by the "
        "similarity with a cluster's first member.",
    )
    batch_size: int = Field(
        64, ge=1, description="Texts in a batch.", json_schema_extra=OPERATIONAL
    )
    device: str = _device()


class SemanticConfig(Section):
    """Clusters by meaning."""

    method: Literal["nli", "embedding", "none"] = Field("nli", description="none: switched off.")
    score: Literal["cluster", "degree"] = Field(
        "cluster",
        description="cluster: 1 less the share of responses with its meaning. degree: 1 less its "
        "mean similarity to all responses, by P(entailment) both ways or by cosine.",
    )
    unit: Literal["response", "sentence"] = Field(
        "response", description="sentence: long responses sentence by sentence, then averaged."
    )
    embedding: EmbeddingConfig = Field(default_factory=EmbeddingConfig)


class FactualConfig(Section):
    """Contradiction by other samples, or claims that a judge does not find supported."""

    method: Literal["consistency", "judge", "none"] = Field(
        "consistency", description="none: switched off."
    )


class SigmoidConfig(Section):
    """u_v = sigmoid(-(reward - centre) / scale)."""

    centre: float = Field(0.0, description="The reward at which u_v is 0.5.")
    scale: float = Field(1.0, gt=0)


class ClassifierConfig(Section):
    """A sequence classifier or a reward model; either `labels` or `sigmoid`."""

    model: str = Field(min_length=1, description="Folder or Hub name.")
    labels: dict[str, float] | None = Field(
        None, description="Departure in [0, 1] of each label; labels not named count 0."
    )
    sigmoid: SigmoidConfig | None = Field(None, description="For a reward model with one logit.")
    reads: Literal["response", "pair", "chat"] = Field(
        "response",
        description="response: the text alone. pair: question and response as two texts. chat: "
        "the dialogue by the model's chat template.",
    )
    max_length: int = Field(1024, ge=16, description="Tokens of an input.")
    batch_tokens: int = _batch_tokens()
    device: str = _device()
    dtype: Dtype = _dtype()

    @model_validator(mode="after")
    def _one_reading_of_the_logits(self) -> ClassifierConfig:
        if (self.labels is None) == (self.sigmoid is None):
            raise ValueError(
                "give either `labels: {NAME: departure}` for a classifier or `sigmoid: {}` for a "
                "reward model"
            )
        wrong = [name for name, w in (self.labels or {}).items() if not 0.0 <= w <= 1.0]
        if wrong:
            raise ValueError(f"`labels`: the departure of {', '.join(wrong)} is not in [0, 1]")
        return self


class ValueConfig(Section):
    """Departure from principles, as a judge rates it or a classifier."""

    method: Literal["judge", "classifier", "none"] = Field(
        "judge", description="none: switched off."
    )
    principles: dict[str, str] = Field(
        default=PRINCIPLES, min_length=1, description="Name -> what the judge is told it means."
    )
    repeats: int = Field(1, ge=1, le=100, description="Times that the judge rates a principle.")
    together: bool | None = Field(
        None, description="true: all principles in one request, one each otherwise."
    )
    classifier: ClassifierConfig | None = Field(None, description="For `method: classifier`.")

    @model_validator(mode="after")
    def _method_has_its_section(self) -> ValueConfig:
        if self.method == "classifier" and self.classifier is None:
            raise ValueError("`method: classifier` needs a `classifier:` section with a `model:`")
        return self


class PairsJudgeConfig(ServerConfig):
    """The judge of `factual: judge` and `value: judge`."""

    temperature: float = Field(0.0, ge=0, le=2, description="Sampling temperature of the judge.")
    max_tokens: int = Field(
        1024, ge=8, description="Completion tokens allowed; raise it for models that reason first."
    )
    max_sample_tokens: int = Field(
        16_000,
        ge=64,
        description="Longer samples are shown by their heads and tails (4 bytes count as a token).",
    )


class PairSmoothingConfig(Section):
    """eps = min(a * (1 - gap), max), with a solved so that the mean of eps is `mean`."""

    mean: float = Field(0.1, ge=0, lt=0.5, description="Mean flip probability over the pairs.")
    max: float = Field(
        0.4, gt=0, lt=0.5, description="Largest; at 0.5 a pair would tell nothing any more."
    )

    @model_validator(mode="after")
    def _mean_is_below_max(self) -> PairSmoothingConfig:
        if self.mean > self.max:
            raise ValueError(f"`mean: {self.mean:g}` is above `max: {self.max:g}`")
        return self


class PairsConfig(Section):
    """How `axolotl-ual pairs` turns prompts into preference pairs."""

    output: str = Field(min_length=1, description="Folder of the pairs.")
    seed: int = Field(0, description="Of the sampling, and of the policy `random`.")
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)
    semantic: SemanticConfig = Field(default_factory=SemanticConfig)
    factual: FactualConfig = Field(default_factory=FactualConfig)
    value: ValueConfig = Field(default_factory=ValueConfig)
    nli: NliConfig = Field(default_factory=NliConfig)
    judge: PairsJudgeConfig | None = Field(None, description="Where a dimension needs a judge.")
    custom: dict[str, CustomConfig] = Field(
        default_factory=dict, description="Dimensions of your own, by name."
    )
    weights: dict[str, float] = Field(
        default_factory=dict, description="Of the dimensions in the total; 1 where not given."
    )
    on_missing: Literal["exclude", "renormalise"] = Field(
        "exclude",
        description="A response without one of the dimensions: in no pair, or scored by the rest.",
    )
    on_unreadable: Literal["error", "drop"] = Field(
        "error",
        description="What becomes of a row without a prompt: the run stops and names it, or it is "
        "left out.",
    )
    policy: Policy | list[Policy] = Field(
        "worst",
        description="Which suboptimal response is rejected; several give a prompt several pairs, "
        "equal ones once.",
    )
    min_gap: float = Field(0.0, ge=0, le=1, description="Pairs with a smaller gap are not made.")
    thresholds: tuple[float, float] | None = Field(
        None,
        description="Two ascending gaps: from the second on conservative, from the first on "
        "moderate; null: tertiles.",
    )
    smoothing: PairSmoothingConfig = Field(default_factory=PairSmoothingConfig)
    engine: EngineConfig = Field(
        default_factory=EngineConfig,
        description="Where prompts are answered and responses scored.",
        json_schema_extra=OPERATIONAL,
    )
    cache: str | None = Field(
        None,
        description="Folder of the durable cache; null is the user's cache directory.",
        json_schema_extra=OPERATIONAL,
    )

    @field_validator("policy")
    @classmethod
    def _policies_differ(cls, policy: Policy | list[Policy]) -> Policy | list[Policy]:
        if isinstance(policy, list):
            if len(set(policy)) != len(policy) or not policy:
                raise ValueError(f"`policy: {policy}` must name at least one policy, none twice")
            return policy if len(policy) > 1 else policy[0]
        return policy

    @field_validator("weights")
    @classmethod
    def _weights_are_not_negative(cls, weights: dict[str, float]) -> dict[str, float]:
        wrong = [name for name, weight in weights.items() if not 0 <= weight < float("inf")]
        if wrong:
            raise ValueError(f"the weight of {', '.join(wrong)} must be a number from 0 on")
        return weights

    @field_validator("custom")
    @classmethod
    def _names_are_free(cls, custom: dict[str, CustomConfig]) -> dict[str, CustomConfig]:
        for name in custom:
            if name in DIMENSIONS or name in _TAKEN:
                raise ValueError(f"there is a {name} already: give your dimension another name")
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                raise ValueError(f"{name!r}: a name has small letters, digits and _")
        return custom

    @model_validator(mode="after")
    def _whole(self) -> PairsConfig:
        known = [*DIMENSIONS, *self.custom]
        if unknown := [name for name in self.weights if name not in known]:
            raise ValueError(
                f"`weights`: there is no dimension {unknown[0]}; there are {', '.join(known)}"
            )
        if not any(self.weight(name) > 0 for name in self.dimensions):
            raise ValueError(
                f"no dimension is left to score by: switch one of {', '.join(known)} on and give "
                "it a weight above 0"
            )
        if self.judge is None and self.judged:
            raise ValueError(
                f"`{self.judged[0]}.method: judge` needs a `judge:` section with at least a "
                "`model:`; or set it to another method, or to none"
            )
        if self.thresholds is not None and not 0 <= self.thresholds[0] <= self.thresholds[1] <= 1:
            raise ValueError("`thresholds` must be two ascending gaps in [0, 1]")
        return self

    @property
    def methods(self) -> dict[str, str]:
        """Method of each dimension of ours that is on."""
        found = {name: str(getattr(self, name).method) for name in DIMENSIONS}
        return {name: method for name, method in found.items() if method != "none"}

    @property
    def policies(self) -> list[Policy]:
        """Of each of a prompt's pairs, which response is rejected."""
        return self.policy if isinstance(self.policy, list) else [self.policy]

    @property
    def dimensions(self) -> list[str]:
        """Names of the dimensions that are on."""
        return [*self.methods, *self.custom]

    @property
    def judged(self) -> list[str]:
        """Names of the dimensions that a judge rates."""
        return [name for name, method in self.methods.items() if method == "judge"]

    @property
    def uses_nli(self) -> bool:
        """Whether a classifier for natural language inference is needed."""
        return self.semantic.method == "nli" or self.factual.method == "consistency"

    def weight(self, dimension: str) -> float:
        """Weight of a dimension in the total."""
        return self.weights.get(dimension, 1.0)

    def result_settings(self, base_model: str | None) -> dict[str, Any]:
        """The settings that shape the pairs, as plain JSON values.

        Keys that only change how a run proceeds are left out, and so are sections that are not in
        use, so that two recipes with equal settings give equal pairs.

        Args:
            base_model: the recipe's `base_model`, which the local sampler uses by default.
        """
        settings = shaping(self)
        sampling = settings["sampling"]
        if self.sampling.backend == "local":
            sampling["local"]["model"] = sampling["local"]["model"] or base_model
        del sampling["local" if self.sampling.backend == "api" else "api"]
        if self.semantic.method != "embedding":
            del settings["semantic"]["embedding"]
        if self.value.method != "judge":
            for key in ("principles", "repeats", "together"):
                del settings["value"][key]
        if self.value.method != "classifier":
            del settings["value"]["classifier"]
        if not self.uses_nli:
            del settings["nli"]
        if not self.custom:
            del settings["custom"]
        if not self.judged:
            del settings["judge"]
        if self.on_unreadable == "error":
            del settings["on_unreadable"]
        settings["weights"] = {name: self.weight(name) for name in self.dimensions}
        del settings["output"]
        return settings
