"""What a recipe may not ask of rows with images.

Axolotl trains them with `processor_type`, `skip_prepare_dataset: true` and a collator that makes
tokens of a batch at a time. So what must know the tokens of rows before training cannot be done.

Imports neither torch nor axolotl.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from axolotl_ual.errors import ConfigError, UALError, UnsupportedError
from axolotl_ual.settings.parallel_rules import sequence_cuts
from axolotl_ual.settings.ual import parse_ual

_KNOWS_LENGTHS: Final = {
    "sample_packing": "packs rows by their number of tokens",
    "eval_sample_packing": "packs rows by their number of tokens",
    "group_by_length": "batches rows by their number of tokens",
    "balance_labels": "batches rows by how many of their tokens are trained",
}


def of_images(recipe: Mapping[str, Any]) -> Iterator[UALError]:
    """What does not go with a processor, and what a processor needs.

    Args:
        recipe: the YAML as a mapping.
    """
    if not recipe.get("processor_type"):
        if recipe.get("skip_prepare_dataset"):
            yield UnsupportedError(
                "skip_prepare_dataset: true: without `processor_type:` no collator tokenises the "
                "rows",
                "set `skip_prepare_dataset: false`, or name the processor: "
                "`processor_type: AutoProcessor`",
            )
        return
    processor = f"processor_type: {recipe['processor_type']}"
    if recipe.get("rl"):
        yield UnsupportedError(
            f"{processor}: `rl: {recipe['rl']}` is trained on text alone",
            "take `processor_type:` out, or `rl:`",
        )
        return
    if not recipe.get("skip_prepare_dataset"):
        yield UnsupportedError(
            f"{processor}: its collator takes rows of messages, and without "
            "`skip_prepare_dataset: true` Axolotl tokenises them before",
            "set `skip_prepare_dataset: true`, or take `processor_type:` out to train on text",
        )
    if recipe.get("streaming"):
        yield UnsupportedError(
            "streaming: true: streamed rows are checked where they are tokenised, which "
            f"`{processor}` does behind that",
            "set `streaming: false`",
        )
    if recipe.get("remove_unused_columns"):
        yield UnsupportedError(
            f"remove_unused_columns: true: takes messages and images away before `{processor}` "
            "sees them",
            "set `remove_unused_columns: false`",
        )
    yield from _of_lengths(recipe)
    yield from _of_ual(recipe)


def _of_lengths(recipe: Mapping[str, Any]) -> Iterator[UALError]:
    for key, what in _KNOWS_LENGTHS.items():
        if recipe.get(key):
            yield UnsupportedError(
                f"{key}: true: {what}, and rows with images have none before their batch is made",
                f"set `{key}: false`",
            )
    for key, size in sequence_cuts(recipe):
        yield UnsupportedError(
            f"{key}: {size}: cuts sequences, and the images in them would have to be cut alike",
            f"set `{key}: 1`",
        )


def _of_ual(recipe: Mapping[str, Any]) -> Iterator[UALError]:
    try:
        ual = parse_ual(recipe.get("ual"))
    except ConfigError:
        return
    if ual.smoothing.reference_top_k is not None:
        yield UnsupportedError(
            f"ual.smoothing.reference_top_k: {ual.smoothing.reference_top_k}: is computed before "
            "training for the tokens of each row, and rows with images have none then",
            "take `reference_top_k` out: `prior: reference` is computed in training as well",
        )
    if ual.loss.weight is not None and ual.loss.weight.message is not None:
        yield UnsupportedError(
            f"ual.loss.weight.message: {ual.loss.weight.message}: the processor does not tell "
            "which tokens are of which message",
            "name a column of row weights with `ual.loss.weight`",
        )
