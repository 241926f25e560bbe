"""The `loss:` section of `ual:`: how the loss is computed and averaged, and what counts in it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_serializer, model_validator

from axolotl_ual.columns import GAP, UNCERTAINTY
from axolotl_ual.settings.curriculum import is_number
from axolotl_ual.settings.server import Section

_LARGEST = 3.4e38
"""Weights are kept in float32."""
_COLUMN_OF = {"uncertainty": UNCERTAINTY, "gap": GAP}


class WeightConfig(Section):
    """A weight in the data: a name alone is that of the column it stands in."""

    column: str | None = Field(
        None, min_length=1, description="Column that holds the weight of each row or pair."
    )
    from_: str | None = Field(
        None,
        alias="from",
        min_length=1,
        description="uncertainty, gap (of pairs), or a column of numbers in [0, 1], which is "
        "mapped to a weight: at_0 + (at_1 - at_0) times the number.",
    )
    at_0: float = Field(1.0, ge=0, allow_inf_nan=False, description="Weight where `from` is 0.")
    at_1: float = Field(0.3, ge=0, allow_inf_nan=False, description="Weight where `from` is 1.")
    message: str | None = Field(
        None,
        min_length=1,
        description="Key of a chat dataset's messages that holds the weight of a message; one "
        "without it weighs 1.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> WeightConfig:
        named = [key for key, value in self._sources().items() if value is not None]
        if len(named) != 1:
            raise ValueError("`weight` needs one of `column`, `from` and `message`")
        if self.from_ is not None and self.at_0 == self.at_1:
            raise ValueError(
                f"`at_0: {self.at_0:g}` and `at_1: {self.at_1:g}` give every row the same weight, "
                "which has no effect"
            )
        return self

    @model_serializer
    def _as_spelled(self) -> dict[str, Any]:
        """Under the keys of the YAML, which others validate again."""
        found: dict[str, Any] = {k: v for k, v in self._sources().items() if v is not None}
        return {**found, **({"at_0": self.at_0, "at_1": self.at_1} if self.from_ else {})}

    def _sources(self) -> dict[str, str | None]:
        return {"column": self.column, "from": self.from_, "message": self.message}

    @property
    def dataset_column(self) -> str | None:
        """The dataset column that a weight is read from; None where messages hold it."""
        name = self.column or self.from_
        return None if name is None else _COLUMN_OF.get(name, name)

    @property
    def shown(self) -> str:
        """As messages name it."""
        (name, value) = next((k, v) for k, v in self._sources().items() if v is not None)
        return (
            f"ual.loss.weight: {value}" if name == "column" else f"ual.loss.weight.{name}: {value}"
        )


class AnchorConfig(Section):
    """A KL divergence from the model before tuning, added to each token's loss."""

    weight: float = Field(gt=0, allow_inf_nan=False, description="Factor of the divergence.")
    reference: str | None = Field(
        None,
        min_length=1,
        description="Folder or Hub name of the model before tuning; null: the model that trains, "
        "with its adapter switched off; or that of `smoothing`, where it has one.",
    )


class LossConfig(Section):
    """How the smoothed cross entropy is computed and averaged, and what tokens count in it."""

    kernel: Literal["auto", "model", "chunked"] = Field(
        "auto",
        description="model: the model's own loss, or the fused one that the recipe chose, with the "
        "smoothing on top. chunked: for at most 1,024 tokens or 90 million logits at a time. auto: "
        "model, but chunked where the model would make more than that at once, caps its logits, or "
        "where tokens do not count alike (`weight`, `token_weight`, `anchor`).",
    )
    normalization: Literal["tokens", "micro_batch"] = Field(
        "tokens",
        description="tokens: one mean over all trained tokens of the global batch, however it is "
        "cut into micro-batches and processes. micro_batch: the mean of each micro-batch's mean, "
        "as Axolotl does without this plugin.",
    )
    weight: WeightConfig | None = Field(
        None,
        description="What a row, a message or a pair counts in the mean: the name of a column, or "
        "a section.",
    )
    token_weight: Literal["none", "probability", "entropy"] = Field(
        "none",
        description="What a token counts by the model's own prediction, a constant for the "
        "gradient. probability: that of the token (DFT). entropy: that of the 20 likeliest tokens, "
        "in [0, 1] (EAFT).",
    )
    anchor: AnchorConfig | None = Field(
        None, description="Hold every trained token to the model before tuning (ASFT)."
    )

    @field_validator("weight", mode="before")
    @classmethod
    def _a_column_is_enough(cls, value: Any) -> Any:
        return {"column": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _the_kernel_can(self) -> LossConfig:
        asked = [key for key in ("weight", "anchor") if getattr(self, key) is not None]
        asked += ["token_weight"] if self.token_weight != "none" else []
        if asked and self.kernel == "model":
            raise ValueError(
                f"`{asked[0]}` is computed in chunks, and `kernel: model` asks for the model's own "
                "loss, in which all tokens count alike; set `kernel: auto`"
            )
        return self


def is_weight(value: Any) -> bool:
    """Whether a value can be a weight: a number, finite and 0 or more."""
    return is_number(value) and 0.0 <= value <= _LARGEST
