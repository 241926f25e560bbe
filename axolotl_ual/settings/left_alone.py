"""Recipes that name the plugin and ask nothing of it: they are trained as without it.

An empty `ual:` smooths samples and pairs. A loss that has neither is left as it is, to the bit, so
that a block which several recipes share need not be taken out of some of them.

Imports neither torch nor axolotl.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from axolotl_ual.errors import ConfigError
from axolotl_ual.settings.preference import PREFERENCE_TRAINERS, REWARD_MODEL, SMOOTHED, kind_of_rl
from axolotl_ual.settings.ual import UALConfig, parse_ual

_STEPS: Final = "process_reward_model"


def left_alone(recipe: Mapping[str, Any]) -> str | None:
    """What to say of a recipe that is trained as without the plugin; None: it is not.

    Args:
        recipe: the YAML as a mapping. One whose `ual:` block is wrong is not left alone.
    """
    rl = kind_of_rl(recipe)
    unsmoothed = PREFERENCE_TRAINERS.keys() - set(SMOOTHED)
    of_steps = rl is None and recipe.get(_STEPS) and not recipe.get(REWARD_MODEL)
    if rl not in unsmoothed and not of_steps:
        return None
    try:
        if parse_ual(recipe.get("ual")) != UALConfig():
            return None
    except ConfigError:
        return None
    what = f"{_STEPS}: true" if rl is None else f"rl: {rl}"
    return (
        f"{what}: its loss smooths neither samples nor pairs, and the recipe's `ual:` asks for "
        "nothing else: it is trained as without the plugin"
    )
