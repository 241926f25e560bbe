"""Dataset cards of output folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import jinja2

from axolotl_ual import columns
from axolotl_ual.columns import Manifest

_MEANING: Final = {
    columns.UNCERTAINTY: (
        "float32",
        "0: every competent answerer would give this response; 1: equally good responses differ "
        "widely; null: not known",
    ),
    columns.SMOOTHING: ("float32", "label smoothing of the sample's trained tokens"),
    columns.STAGE: ("string", "stage of the curriculum: " + ", ".join(columns.STAGES)),
}


def render(manifest: Manifest, folder: Path) -> str:
    """The card of annotated data.

    Args:
        manifest: of the folder.
        folder: where it lies; its name is the title.
    """
    meaning = [(name, *meaning) for name, meaning in _MEANING.items()]
    return fill("card.md.jinja", manifest, folder, splits=_splits(manifest), columns=meaning)


def fill(template: str, manifest: Manifest, folder: Path, **further: Any) -> str:
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
        folder=folder.as_posix(),
        title=folder.name,
        names=", ".join(f"`{source.entry['path']}`" for source in manifest.sources),
        **further,
    )


def _splits(manifest: Manifest) -> list[str]:
    """Split names for the card: letters, digits and underscores, one for each file."""
    if len(manifest.sources) == 1:
        return ["train"]
    stems = (Path(source.file.path).stem for source in manifest.sources)
    return ["".join(c if c.isalnum() else "_" for c in stem) for stem in stems]
