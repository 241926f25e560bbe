"""What a recipe may not ask of rows that are streamed: nothing is known of all of them.

Imports neither torch nor axolotl.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from axolotl_ual.errors import ConfigError, UALError, UnsupportedError
from axolotl_ual.settings.ual import UALConfig, parse_ual


def of_streaming(recipe: Mapping[str, Any]) -> Iterator[UALError]:
    """What does not go with `streaming: true`; a curriculum is refused beside its other rules.

    Args:
        recipe: the YAML as a mapping. A `ual:` block that is wrong by itself gives nothing here.
    """
    if not recipe.get("streaming"):
        return
    if recipe.get("rl"):
        yield UnsupportedError(
            f"streaming: true: Axolotl reads what `rl: {recipe['rl']}` trains on before it trains",
            "set `streaming: false`",
        )
        return
    if not recipe.get("max_steps"):
        yield ConfigError(
            "streaming: true: how many rows there are is not known, so neither is when to stop",
            "set `max_steps`",
        )
    try:
        ual = parse_ual(recipe.get("ual"))
    except ConfigError:
        return
    yield from _of_all_rows(ual)
    if recipe.get("sample_packing"):
        yield from _of_packing(recipe, ual)


def _of_all_rows(ual: UALConfig) -> Iterator[UALError]:
    """Settings that take all rows before the first one is trained on."""
    asked = {
        "ual.annotations": ual.annotations is not None,
        "ual.curriculum.keep": ual.curriculum.keep is not None,
        "ual.smoothing.reference_top_k": ual.smoothing.reference_top_k is not None,
    }
    for key in (key for key, wanted in asked.items() if wanted):
        yield UnsupportedError(
            f"{key}: takes all rows before training, and `streaming: true` reads them in training",
            f"take `{key.rpartition('.')[2]}` out, or set `streaming: false`",
        )


def _of_packing(recipe: Mapping[str, Any], ual: UALConfig) -> Iterator[UALError]:
    if ual.loss.weight is not None:
        yield UnsupportedError(
            f"{ual.loss.weight.shown}: Axolotl packs streamed rows by themselves, and a token "
            "keeps its label and its smoothing there, but no weight",
            "set `sample_packing: false`, or `streaming: false`",
        )
    if recipe.get("balance_labels"):
        yield UnsupportedError(
            "balance_labels: true: with `streaming: true` and `sample_packing: true`, labels "
            "carry the smoothing of their row while they are packed, so trained tokens are not "
            "told from others",
            "set `balance_labels: false`",
        )
