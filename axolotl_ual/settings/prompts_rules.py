"""What a recipe with `rl: grpo`, `gdpo` or `ebft` may not say: it trains on prompts, by rewards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from axolotl_ual.errors import ConfigError, UALError, UnsupportedError
from axolotl_ual.settings.preference import kind_of_rl

if TYPE_CHECKING:
    from axolotl_ual.settings.ual import UALConfig

_WITHOUT_TARGETS = {
    "annotations": "are about samples with their responses",
    "loss": "is of a cross entropy with given responses",
    "preference": "is of pairs of given responses",
    "smoothing": "smooths given responses",
}
"""Sections that say nothing of a model that is trained on what it samples itself."""

_OTHER_TRAINERS = ("async_prefetch", "use_data_producer")
"""Keys of `trl:` with which Axolotl takes its prompts from elsewhere than the dataloader."""


def of_prompts(recipe: Mapping[str, Any], ual: UALConfig) -> Iterator[UALError]:
    """What contradicts the order of prompts, which is all that the plugin does for them.

    Args:
        recipe: the YAML as a mapping, with such an `rl:`.
        ual: its `ual:` block.
    """
    rl, fields = kind_of_rl(recipe), type(ual).model_fields
    for key, why in _WITHOUT_TARGETS.items():
        if getattr(ual, key) != fields[key].get_default(call_default_factory=True):
            yield ConfigError(
                f"ual.{key}: {why}, and `rl: {rl}` trains on rewards of responses that the model "
                "samples itself",
                f"take `{key}:` out; `ual.curriculum` orders the prompts",
            )
    if not ual.curriculum.active and ual.curriculum.keep is None:
        yield ConfigError(
            f"rl: {rl}: the plugin orders and leaves out prompts, and `ual.curriculum` asks for "
            "neither: it would have no effect",
            "set `ual.curriculum.mode` or `ual.curriculum.keep`, or take the plugin out",
        )
    if rl == "ebft" and (recipe.get("ebft") or {}).get("mode") == "strided":
        yield UnsupportedError(
            "ebft.mode: strided: cuts documents into blocks by a trainer of its own, whose order "
            "the curriculum does not reach",
            "leave `ual:` empty, or set `ebft.mode: structured` and name prompts with responses",
        )
    for key in _OTHER_TRAINERS:
        if (recipe.get("trl") or {}).get(key):
            yield UnsupportedError(
                f"trl.{key}: true: prompts are fetched ahead by a trainer of its own, in an order "
                "that the curriculum does not reach",
                f"set `trl.{key}: false`",
            )
