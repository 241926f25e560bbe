"""Recipes that cannot smooth the tokens of a row by their sentences.

Imports neither torch nor axolotl.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from axolotl_ual.columns import SENTENCES
from axolotl_ual.errors import ConfigError, UnsupportedError
from axolotl_ual.settings.preference import REWARD_MODEL, trains_reward_model
from axolotl_ual.settings.ual import UALConfig, parse_ual

WHOLE = f"take the column `{SENTENCES}` out of the data: each row is smoothed as a whole then"


def of_sentence_units(recipe: Mapping[str, Any]) -> Iterator[UnsupportedError]:
    """The error for a recipe that makes sentences and cannot train on them."""
    try:
        ual = parse_ual(recipe.get("ual"))
    except ConfigError:
        return
    if ual.annotate is not None and ual.annotate.unit == "sentence":
        found = _why_not(recipe, ual)
        if found is not None:
            yield UnsupportedError(
                f"ual.annotate.unit: sentence: {found[0]}", "set `ual.annotate.unit: row`"
            )


def of_sentences(recipe: Mapping[str, Any], ual: UALConfig, where: str) -> UnsupportedError | None:
    """The error for a recipe that is to train on data with sentences, or None.

    Args:
        recipe: the YAML as a mapping.
        ual: its `ual:` block.
        where: what has the sentences: a dataset, or a setting that makes them.
    """
    found = _why_not(recipe, ual)
    return None if found is None else UnsupportedError(f"{where}: {found[0]}", found[1])


def _why_not(recipe: Mapping[str, Any], ual: UALConfig) -> tuple[str, str] | None:
    what = "sentences have a smoothing each"
    if recipe.get("rl"):
        return f"{what}, and `rl: {recipe['rl']}` does not smooth the tokens of a sample", WHOLE
    if trains_reward_model(recipe):
        return f"{what}, and `{REWARD_MODEL}: true` has a loss of pairs", WHOLE
    for key in ("pretraining_dataset", "streaming"):
        if recipe.get(key):
            return (
                f"{what}, and rows that are streamed (`{key}`) are not compared with them",
                f"take `{key}` out, or {WHOLE}",
            )
    if recipe.get("skip_prepare_dataset") or recipe.get("processor_type"):
        return (
            f"{what}, and a processor (`skip_prepare_dataset`) makes tokens of rows in training, "
            "where their text is not known",
            WHOLE,
        )
    if ual.reestimate is not None:
        return (
            f"{what}, and `ual.reestimate` would replace them by one of the row",
            f"take `reestimate:` out, or {WHOLE}",
        )
    return None
