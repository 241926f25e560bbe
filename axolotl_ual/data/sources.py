"""What a run is trained on, in the place of what its recipe names, while Axolotl loads the data.

Every command of Axolotl registers the plugin, and most (merge-lora, inference, quantize) read no
data. So nothing is looked for before data are loaded; until then the recipe is only remembered as
it is spelled, because validation fills entries in, and the manifest tells what was spelled.

Imports neither torch nor axolotl.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from axolotl_ual.columns import PAIRS_FILE, PREFIX
from axolotl_ual.data.annotated import (
    PAIRS_TYPE,
    Located,
    content_digest,
    expanded,
    locate,
    pairs_entry,
    rewritten,
)
from axolotl_ual.data.fingerprint import plain
from axolotl_ual.settings.preference import TRAINED_ON_PAIRS, kind_of_rl, trains_reward_model
from axolotl_ual.settings.ual import UALConfig, parse_ual

RECIPE: Final = "ual_recipe"
"""The key of Axolotl's configuration under which the recipe is remembered."""

_REMEMBERED = ("base_model", "datasets", "reward_model", "rl", "seed")
_RENDERED = ("chat_template", "chat_template.default")
"""Types of preference data whose answers `PAIRS_TYPE` renders as they are."""
_AXOLOTL_DEFAULT = "last_run_prepared"


def remember(recipe: MutableMapping[str, Any]) -> None:
    """Keep what a recipe says of its data; a file is neither read nor looked for.

    Where the recipe is trained on the pairs of `ual.pairs`, they are named as its datasets: its
    prompts are none that Axolotl could load. Done twice (Ray validates a recipe once more in each
    worker), the second time changes nothing.

    Raises:
        ConfigError: the `ual:` block is wrong.
    """
    ual = parse_ual(recipe.get("ual"))
    if not recipe.get(RECIPE):
        recipe[RECIPE] = plain({key: recipe.get(key) for key in _REMEMBERED})
    if ual.pairs is not None and kind_of_rl(recipe) in TRAINED_ON_PAIRS:
        recipe["datasets"] = [pairs_entry(Path(ual.pairs.output) / PAIRS_FILE)]


@contextmanager
def trained_sources(cfg: Any, ual: UALConfig, recipe_name: str) -> Iterator[None]:
    """Name what is trained on as the datasets of `cfg` while the block runs.

    Prepared data get a folder of their own, named by what the annotations hold: Axolotl's cache is
    keyed by the configuration alone, and would serve annotations that have changed since.

    Args:
        cfg: Axolotl's validated configuration.
        ual: its `ual:` block.
        recipe_name: what messages call the recipe.

    Raises:
        AnnotationError: see `locate`. Digests are taken by the first process of each machine only.
    """
    recipe = plain(cfg.get(RECIPE) or {key: cfg.get(key) for key in _REMEMBERED})
    first = int(os.environ.get("LOCAL_RANK", "0")) == 0
    located = locate(recipe, ual, recipe_name, digests=first)
    named = {key: cfg.get(key) for key in ("datasets", "test_datasets")}
    cfg["datasets"] = _in_place(cfg, located)
    if kind_of_rl(cfg) in TRAINED_ON_PAIRS:
        for key in named:
            if cfg.get(key):
                cfg[key] = [_exactly_rendered(entry) for entry in cfg[key]]
    cfg["dataset_prepared_path"] = _prepared_path(cfg, located, ual)
    try:
        yield
    finally:
        for key, value in named.items():
            cfg[key] = value


def _in_place(cfg: Any, located: Located) -> list[Any]:
    """The validated entries, of the files that were found for them."""
    if not located.files:
        return list(cfg.get("datasets") or [])
    if kind_of_rl(cfg) is not None:
        return [type(cfg)(entry) for entry in located.entries]
    return [
        type(cfg)(_streamable(cfg, rewritten(entry, file)))
        for entry, file in zip(expanded(cfg["datasets"]), located.files, strict=True)
    ]


def _streamable(cfg: Any, entry: dict[str, Any]) -> dict[str, Any]:
    """Where it streams and packs, Axolotl names the path to `load_dataset`, which takes no file."""
    if not (cfg.get("streaming") and cfg.get("sample_packing")):
        return entry
    return {**entry, "path": "parquet", "data_files": entry["path"]}


def _exactly_rendered(entry: Mapping[str, Any]) -> Any:
    kind: Any = type(entry)
    return kind({**entry, "type": PAIRS_TYPE}) if entry.get("type") in _RENDERED else entry


def _prepared_path(cfg: Any, located: Located, ual: UALConfig) -> str:
    """Columns of the user's own are in the prepared data only where rows are taken by them."""
    keep, content = ual.curriculum.keep, located.content
    columns = {"by": ual.curriculum.column, "keep": PREFIX if keep is None else keep.column}
    taken_by = [f"{key}: {name}" for key, name in columns.items() if not name.startswith(PREFIX)]
    if ual.loss.weight is not None and kind_of_rl(cfg) is None:
        taken_by.append(ual.loss.weight.shown)
    margin = ual.preference.margin
    if margin is not None and trains_reward_model(cfg):
        taken_by.append(f"margin: {margin.column}")
    if taken_by:
        content = content_digest(iter((content, *taken_by)))
    base = Path(cfg.get("dataset_prepared_path") or _AXOLOTL_DEFAULT)
    own = f"ual-{content}"
    return str(base if base.name == own else base / own)
