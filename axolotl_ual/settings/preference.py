"""The `preference:` section of `ual:`, and which preference losses are trained how."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from axolotl_ual.columns import GAP
from axolotl_ual.settings.curriculum import is_number

PREFERENCE_TRAINERS: Final = {
    "dpo": "axolotl_ual.training.dpo.UALDPOTrainer",
    "ipo": "axolotl_ual.training.dpo.UALDPOTrainer",
    "orpo": "axolotl_ual.training.dpo.UALORPOTrainer",
    "simpo": "axolotl_ual.training.dpo.UALCPOTrainer",
    "kto": "axolotl_ual.training.dpo.UALKTOTrainer",
    "grpo": "axolotl_ual.training.grpo.UALGRPOTrainer",
    "gdpo": "axolotl_ual.training.grpo.UALGRPOTrainer",
    "ebft": "axolotl_ual.training.ebft.UALEBFTTrainer",
}
"""The trainer of each `rl:` that this plugin trains with."""

SMOOTHED: Final = ("dpo", "ipo")
"""Those whose loss smooths each pair."""

REWARD_MODEL: Final = "reward_model"
"""The key of a recipe that trains a reward model on pairs, without `rl:`."""

ON_PROMPTS: Final = ("grpo", "gdpo", "ebft")
"""Those that are trained on prompts, and on responses that the model samples itself."""

TRAINED_ON_PAIRS: Final = ("dpo", "ipo", "simpo")
"""Those that Axolotl trains on a dialogue with two answers, as `ual.pairs` makes them."""


_STEEPEST: Final = 100.0
"""The largest mean / tau: beyond it one pair would have nearly all of the margin."""


class MarginConfig(BaseModel):
    """A target margin for each pair by its gap: see `axolotl_ual.losses.target_margin`."""

    model_config = ConfigDict(extra="forbid", validate_default=True)

    mean: float = Field(gt=0, description="Mean target margin, in units of the reward.")
    tau: float = Field(
        gt=0, description="How evenly it is shared out; the smaller, the more goes to wide gaps."
    )
    by: str = Field("gap", min_length=1, description="gap, or any column of numbers of the pairs.")

    @property
    def column(self) -> str:
        """The dataset column that `by` means."""
        return GAP if self.by == "gap" else self.by

    @model_validator(mode="after")
    def _tau_is_not_too_small(self) -> MarginConfig:
        if self.mean > _STEEPEST * self.tau:
            raise ValueError(
                f"`tau: {self.tau:g}` is below a hundredth of `mean: {self.mean:g}`, and would "
                "give nearly all of the margin to a few pairs"
            )
        return self


class PreferenceConfig(BaseModel):
    """What a loss of pairs (`rl: dpo`, `rl: ipo`, a reward model) does with smoothing and stage."""

    model_config = ConfigDict(extra="forbid", validate_default=True)

    smoothing: bool = Field(True, description="Smooth each pair by its ual_smoothing.")
    flips: Literal["conservative", "robust"] = Field(
        "conservative",
        description="What the smoothing, a probability that the label is flipped, does to the "
        "loss. conservative: the loss that is expected under such flips. robust: an unbiased "
        "estimate of the loss without them.",
    )
    margin: MarginConfig | None = Field(
        None, description="A target margin for each pair by its gap; null: none."
    )
    weighting: Literal["wpo"] | None = Field(
        None,
        description="wpo: weigh each pair by how likely the policy itself is to write it; null: "
        "all alike.",
    )
    beta: list[float] | None = Field(
        None,
        description="One for each stage of `curriculum.order`, in place of rl_beta.",
    )
    chunk_tokens: int = Field(256, ge=1, description="Tokens whose logits are in memory at a time.")

    @property
    def changes_the_loss(self) -> bool:
        """Whether anything but stages makes the loss another than the trainer's own."""
        return self.smoothing or self.margin is not None or self.weighting is not None

    def of_dpo_only(self) -> Iterator[tuple[str, Any]]:
        """Keys that are set and that only the losses of SMOOTHED read, with their values."""
        for key in ("beta", "flips", "margin", "weighting"):
            value = getattr(self, key)
            if value != type(self).model_fields[key].default:
                shown = value.model_dump() if isinstance(value, BaseModel) else value
                yield key, shown

    @model_validator(mode="after")
    def _flips_are_of_smoothed_pairs(self) -> PreferenceConfig:
        if self.flips == "robust" and not self.smoothing:
            raise ValueError(
                "`flips: robust` has no effect with `smoothing: false`: no pair has a flip "
                "probability then; take one of them out"
            )
        return self

    @field_validator("beta", mode="before")
    @classmethod
    def _betas_are_positive(cls, value: Any) -> Any:
        if value is not None and not (
            isinstance(value, list) and all(is_number(v) and v > 0 for v in value)
        ):
            raise ValueError("must be a list of numbers above 0, one for each stage")
        return value


def kind_of_rl(recipe: Mapping[str, Any]) -> str | None:
    """The recipe's `rl:` as text, also where Axolotl has made an enumeration of it."""
    value = recipe.get("rl")
    return None if not value else str(getattr(value, "value", value))


def trains_reward_model(recipe: Mapping[str, Any]) -> bool:
    """Whether a recipe trains a reward model on pairs."""
    return bool(recipe.get(REWARD_MODEL)) and kind_of_rl(recipe) is None


def smooths_pairs(recipe: Mapping[str, Any]) -> bool:
    """Whether the loss of a recipe can smooth each pair."""
    return kind_of_rl(recipe) in SMOOTHED or trains_reward_model(recipe)
