"""What a recipe may not ask of rows that are streamed: nothing is known of all of them.

Imports neither torch nor axolotl.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from axolotl_ual.errors import ConfigError, UALError, UnsupportedError
from axolotl_ual.settings.ual import UALConfig, parse_ual


def of_streaming(recipe: Mapping[str, Any]) -> Iterator[UALError]:
    """What does not go with streamed rows; a curriculum is refused beside its other rules.

    Args:
        recipe: the YAML as a mapping. A `ual:` block that is wrong by itself gives nothing here.
    """
    pretraining = bool(recipe.get("pretraining_dataset"))
    if not (recipe.get("streaming") or pretraining):
        return
    what, back = "streaming: true", "set `streaming: false`"
    if pretraining:
        what, back = "pretraining_dataset", "name the rows under `datasets:` in its place"
    if recipe.get("rl"):
        yield UnsupportedError(
            f"{what}: Axolotl reads what `rl: {recipe['rl']}` trains on before it trains", back
        )
        return
    if not recipe.get("max_steps"):
        yield ConfigError(
            f"{what}: how many rows there are is not known, so neither is when to stop",
            "set `max_steps`",
        )
    try:
        ual = parse_ual(recipe.get("ual"))
    except ConfigError:
        return
    yield from _of_all_rows(ual, what, back)
    if pretraining:
        yield from _of_pretraining(recipe, ual)
    if recipe.get("sample_packing"):
        yield from _of_packing(recipe, ual, what, back)


def _of_pretraining(recipe: Mapping[str, Any], ual: UALConfig) -> Iterator[UALError]:
    if not recipe.get("sample_packing"):
        yield UnsupportedError(
            "pretraining_dataset: without packing, Axolotl keeps nothing of a row but the tokens "
            "of its text, so its smoothing is lost",
            "set `sample_packing: true`",
        )
    if ual.annotate is not None:
        yield UnsupportedError(
            "ual.annotate: annotates what `datasets:` names, and `pretraining_dataset` is streamed",
            "annotate the rows in a recipe that has them under `datasets:`, and name the files of "
            "its output here (`path: parquet` with `data_files`)",
        )


def _of_all_rows(ual: UALConfig, what: str, back: str) -> Iterator[UALError]:
    """Settings that take all rows before the first one is trained on."""
    asked = {
        "ual.annotations": ual.annotations is not None,
        "ual.curriculum.keep": ual.curriculum.keep is not None,
        "ual.smoothing.reference_top_k": ual.smoothing.reference_top_k is not None,
    }
    for key in (key for key, wanted in asked.items() if wanted):
        yield UnsupportedError(
            f"{key}: takes all rows before training, and `{what}` reads them in training",
            f"take `{key.rpartition('.')[2]}` out, or {back}",
        )


def _of_packing(
    recipe: Mapping[str, Any], ual: UALConfig, what: str, back: str
) -> Iterator[UALError]:
    if ual.loss.weight is not None:
        unpacked = "" if what == "pretraining_dataset" else "set `sample_packing: false`, or "
        yield UnsupportedError(
            f"{ual.loss.weight.shown}: Axolotl packs streamed rows by themselves, and a token "
            "keeps its label and its smoothing there, but no weight",
            unpacked + back,
        )
    if recipe.get("balance_labels"):
        yield UnsupportedError(
            f"balance_labels: true: with `{what}` and `sample_packing: true`, labels "
            "carry the smoothing of their row while they are packed, so trained tokens are not "
            "told from others",
            "set `balance_labels: false`",
        )
