"""The `preference:` section of `ual:`, and which preference losses are trained how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, field_validator

from axolotl_ual.settings.curriculum import is_number

PREFERENCE_TRAINERS: Final = {
    "dpo": "axolotl_ual.training.dpo.UALDPOTrainer",
    "ipo": "axolotl_ual.training.dpo.UALDPOTrainer",
    "orpo": "axolotl_ual.training.dpo.UALORPOTrainer",
    "simpo": "axolotl_ual.training.dpo.UALCPOTrainer",
    "kto": "axolotl_ual.training.dpo.UALKTOTrainer",
}
"""The trainer of each `rl:` that this plugin trains with."""

SMOOTHED: Final = ("dpo", "ipo")
"""Those whose loss smooths each pair."""

TRAINED_ON_PAIRS: Final = ("dpo", "ipo", "simpo")
"""Those that Axolotl trains on a dialogue with two answers, as `ual.pairs` makes them."""


class PreferenceConfig(BaseModel):
    """What a preference loss (`rl: dpo`, `rl: ipo`) does with a pair's smoothing and stage."""

    model_config = ConfigDict(extra="forbid", validate_default=True)

    smoothing: bool = Field(True, description="Smooth each pair by its ual_smoothing.")
    beta: list[float] | None = Field(
        None,
        description="One for each stage of `curriculum.order`, in place of rl_beta.",
    )
    chunk_tokens: int = Field(256, ge=1, description="Tokens whose logits are in memory at a time.")

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
