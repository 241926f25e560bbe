"""Dataset cards of output folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import jinja2
import yaml

from axolotl_ual.columns import Manifest
from axolotl_ual.data.annotated import pairs_entry, rewritten
from axolotl_ual.data.fingerprint import plain

_SHAPING: Final = (
    "chat_template",
    "chat_template_jinja",
    "chat_template_kwargs",
    "eot_tokens",
    "special_tokens",
    "tokens",
    "added_tokens_overrides",
    "tokenizer_use_mistral_common",
    "train_on_inputs",
)
"""Keys of a recipe, beside its entries, that decide which tokens a row becomes and are trained."""


def render(manifest: Manifest, folder: Path, recipe: Mapping[str, Any]) -> str:
    """The card of annotated data.

    Args:
        manifest: of the folder.
        folder: where it lies; its name is the title.
        recipe: as its YAML spells it; what shapes the trained turns is kept.
    """
    entries = [rewritten(source.entry, folder / source.file.path) for source in manifest.sources]
    return _fill(
        "card.md.jinja",
        manifest,
        folder,
        splits=splits_of(manifest),
        columns=manifest.sources[0].file.columns,
        recipe=_yaml({}, entries, recipe),
    )


def render_pairs(manifest: Manifest, folder: Path, recipe: Mapping[str, Any]) -> str:
    """The card of preference pairs; see `render`."""
    train = manifest.sources[0].file
    return _fill(
        "pairs-card.md.jinja",
        manifest,
        folder,
        train=train,
        responses=manifest.files[0],
        columns=train.columns,
        recipe=_yaml({"rl": recipe.get("rl") or "dpo"}, [pairs_entry(folder / train.path)], recipe),
    )


def _yaml(head: Mapping[str, Any], entries: list[dict[str, Any]], recipe: Mapping[str, Any]) -> str:
    """The part of a recipe that trains on the folder."""
    kept = {key: recipe[key] for key in _SHAPING if recipe.get(key) is not None}
    block = {
        **head,
        **kept,
        "datasets": entries,
        "plugins": ["axolotl_ual.UALPlugin"],
        "ual": {},
    }
    return yaml.safe_dump(plain(block), sort_keys=False, allow_unicode=True)


def _fill(template: str, manifest: Manifest, folder: Path, **further: Any) -> str:
    """A card as Markdown with a YAML header, as the Hugging Face Hub reads it.

    Args:
        template: its file in `templates/`.
        manifest: of the folder.
        folder: where it lies.
        further: what this template needs beside them.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("axolotl_ual.preprocess.output"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    return environment.get_template(template).render(
        manifest=manifest,
        title=folder.name,
        names=", ".join(f"`{source.entry['path']}`" for source in manifest.sources),
        **further,
    )


def splits_of(manifest: Manifest) -> list[str]:
    """Split names for the card: letters, digits and underscores, one for each file."""
    if len(manifest.sources) == 1:
        return ["train"]
    stems = (Path(source.file.path).stem for source in manifest.sources)
    return ["".join(c if c.isalnum() else "_" for c in stem) for stem in stems]
