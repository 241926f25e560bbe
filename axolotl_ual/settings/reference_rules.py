"""What contradicts `ual.curriculum.refresh_reference` in a recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from axolotl_ual.errors import ConfigError, UALError, UnsupportedError
from axolotl_ual.settings.preference import SMOOTHED, kind_of_rl

_KEY = "ual.curriculum.refresh_reference: true"


def of_the_reference(recipe: Mapping[str, Any]) -> Iterator[UALError]:
    """Settings with which the reference of a stage cannot be the policy before it.

    Args:
        recipe: the YAML as a mapping, whose `ual:` block asks for it.
    """
    rl = kind_of_rl(recipe)
    if rl not in SMOOTHED:
        yield ConfigError(
            f"{_KEY}: {'training without `rl:`' if rl is None else f'`rl: {rl}`'} compares with "
            "no reference that could be refreshed",
            f"set `rl:` to {' or '.join(SMOOTHED)}, or take it out",
        )
        return
    if not recipe.get("adapter"):
        yield UnsupportedError(
            f"{_KEY}: without `adapter:` the frozen copy, and what each checkpoint stores of it, "
            "would be a second whole model",
            "train an adapter, or start each stage as a run of its own from the model before",
        )
    if recipe.get("precompute_ref_log_probs"):
        yield UnsupportedError(
            f"precompute_ref_log_probs: true: log-probabilities of the first reference alone are "
            f"known then, and `{_KEY}` asks for one of each stage",
            "set `precompute_ref_log_probs: false`",
        )
    for key in ("deepspeed", "fsdp", "fsdp_config"):
        if recipe.get(key):
            yield UnsupportedError(
                f"{_KEY}: `{key}` shards or flattens the parameters that the frozen copy takes the "
                "place of",
                f"take `{key}` out: an adapter alone trains with plain data parallelism",
            )
            return
