"""Axolotl's `use_eaft`: tokens weigh by the entropy of the model's prediction.

Axolotl computes it on full logits, in a function that it hands to the trainer. Here it is the token
weight `entropy` with the recipe's own `eaft_k` and `eaft_alpha`, and without the division by ln K:
where no row is smoothed, the loss is Axolotl's.

Imports neither torch nor axolotl.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from axolotl_ual.errors import ConfigError, UALError, UnsupportedError
from axolotl_ual.settings.curriculum import is_number
from axolotl_ual.settings.loss import LossConfig

WHAT: Final = "use_eaft: true"


def asks_for_eaft(recipe: Mapping[str, Any]) -> bool:
    """Whether a recipe weighs its tokens so."""
    return bool(recipe.get("use_eaft"))


def eaft_of(recipe: Mapping[str, Any]) -> tuple[int, float]:
    """`eaft_k` and `eaft_alpha` of a recipe, or what Axolotl takes in their place."""
    tokens, power = recipe.get("eaft_k"), recipe.get("eaft_alpha")
    return 20 if tokens is None else int(tokens), 1.0 if power is None else float(power)


def of_eaft(recipe: Mapping[str, Any], loss: LossConfig) -> Iterator[UALError]:
    """What does not go with it.

    Args:
        recipe: the YAML as a mapping, which asks for it.
        loss: its `ual.loss`.
    """
    tokens, power = recipe.get("eaft_k"), recipe.get("eaft_alpha")
    if tokens is not None and not (is_number(tokens) and tokens >= 2):
        yield ConfigError(
            f"eaft_k: {tokens}: the entropy of fewer than two tokens is 0, and so would be the "
            "weight of every token",
            "set it to 2 or more, or take it out for 20",
        )
    if power is not None and not (is_number(power) and 0 <= power < math.inf):
        yield ConfigError(
            f"eaft_alpha: {power}: gives a token of entropy 0 no finite weight",
            "set it to 0 or more, or take it out for 1",
        )
    if loss.token_weight != "none":
        yield ConfigError(
            f"{WHAT}: and `ual.loss.token_weight: {loss.token_weight}` both weigh a token by the "
            "model's prediction",
            "take one of them out",
        )
    if loss.kernel == "model":
        yield UnsupportedError(
            f"{WHAT}: is computed in chunks, and `ual.loss.kernel: model` asks for the model's own "
            "loss, in which all tokens count alike",
            "set `ual.loss.kernel: auto`",
        )
