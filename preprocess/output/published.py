"""What `publish` uploads: the files of an output folder as others can use them.

Left at home are answers that gave no score and rows that could not be read. Annotations alone are
digests of rows and columns of ours, so the report, which shows texts, stays at home as well.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jinja2
import pyarrow.parquet as pq
import yaml

from axolotl_ual.columns import CONTENT, Manifest, ManifestColumn, ManifestFile, ManifestSource
from axolotl_ual.data.annotated import pairs_entry, rewritten
from axolotl_ual.data.fingerprint import file_digest, plain
from axolotl_ual.data.shared import hashed_rows

from .card import splits_of
from .folder import ROWS_PER_GROUP, write_manifest

RECIPE_FILE: Final = "recipe.yaml"
_CARD: Final = "README.md"
_AT_HOME: Final = (
    "comet_", "dataset_prepared_path", "hf_use_auth_token", "hub_", "mlflow_", "output_dir",
    "resume_from_checkpoint", "swanlab_", "trackio_", "use_comet", "use_mlflow", "use_wandb",
    "wandb_",
)  # fmt: skip
"""How keys of a recipe begin that name accounts and folders of whoever publishes."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the card says of use.

    Attributes:
        repo: full name on the Hub.
        licence: identifier as the Hub spells it.
        judges: models that were asked for uncertainties.
        judge_terms: what their terms allow; None where no server was asked.
    """

    repo: str
    licence: str
    judges: tuple[str, ...] = ()
    judge_terms: str | None = None


def stage_rows(source: Path, manifest: Manifest, target: Path) -> Manifest:
    """Copy the Parquet files of an output folder, and write its manifest last."""
    for file in [*(source.file for source in manifest.sources), *manifest.files]:
        if not (target / file.path).exists():
            shutil.copyfile(source / file.path, target / file.path)
    write_manifest(target, manifest)
    return manifest


def stage_hashes(source: Path, manifest: Manifest, target: Path) -> Manifest:
    """Write content hashes and columns of ours, without a text, and their manifest."""
    sources = [
        part.model_copy(update={"file": _hashed(source, part, target)}) for part in manifest.sources
    ]
    hashes = manifest.model_copy(update={"kind": "hashes", "sources": sources, "files": []})
    write_manifest(target, hashes)
    return hashes


def _hashed(source: Path, part: ManifestSource, target: Path) -> ManifestFile:
    table, path = hashed_rows(source / part.file.path), target / part.file.path
    pq.write_table(table, path, compression="zstd", row_group_size=ROWS_PER_GROUP)
    column = ManifestColumn(
        name=CONTENT, dtype="string", meaning="digest of all columns of the annotated row"
    )
    return ManifestFile(
        path=path.name,
        rows=table.num_rows,
        sha256=file_digest(path),
        columns=[column, *part.file.columns],
    )


def shared_recipe(manifest: Manifest, recipe: Mapping[str, Any], repo: str) -> dict[str, Any]:
    """A recipe that trains on what is published, without a judge.

    Args:
        manifest: of what is published.
        recipe: that made it, or the part of it that the folder's card shows.
        repo: full name on the Hub.
    """
    kept = {key: value for key, value in recipe.items() if not key.startswith(_AT_HOME)}
    ual = dict(kept.get("ual") or {})
    for section in ("annotate", "pairs", "annotations"):
        ual.pop(section, None)
    if manifest.kind == "pairs":
        kept["datasets"] = [_on_hub(pairs_entry(Path(repo)), repo, "train")]
    elif manifest.kind == "hashes":
        kept["datasets"] = [source.entry for source in manifest.sources]
        ual = {
            "annotations": repo,
            **ual,
            **{name: manifest.settings[name] for name in ("smoothing", "stages")},
        }
    else:
        kept["datasets"] = [
            _on_hub(rewritten(source.entry, Path(repo)), repo, split)
            for source, split in zip(manifest.sources, splits_of(manifest), strict=True)
        ]
    kept["plugins"] = kept.get("plugins") or ["axolotl_ual.UALPlugin"]
    return dict(plain({**kept, "ual": ual}))


def _on_hub(entry: Mapping[str, Any], repo: str, split: str) -> dict[str, Any]:
    kept = {key: value for key, value in entry.items() if key != "ds_type"}
    return {**kept, "path": repo, "split": split}


def recipe_in_card(folder: Path) -> dict[str, Any]:
    """The YAML that the card of a folder shows, or nothing where there is no such card."""
    try:
        text = (folder / _CARD).read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    block = text.rpartition("```yaml\n")[2].partition("```")[0] if "```yaml\n" in text else ""
    found = yaml.safe_load(block)
    return found if isinstance(found, dict) else {}


def write_card(target: Path, manifest: Manifest, recipe: Mapping[str, Any], terms: Terms) -> None:
    """Write the card, and the recipe beside it.

    Args:
        target: the folder that is uploaded.
        manifest: of what is in it.
        recipe: what `shared_recipe` made.
        terms: of use.
    """
    text = yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True)
    (target / RECIPE_FILE).write_text(text, encoding="utf-8")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("axolotl_ual.preprocess.output"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    paths = [Path(str(source.entry.get("path", ""))) for source in manifest.sources]
    card = environment.get_template("published-card.md.jinja").render(
        manifest=manifest,
        terms=terms,
        recipe=text,
        splits=splits_of(manifest),
        columns=manifest.sources[0].file.columns,
        names=", ".join(f"`{path}`" for path in dict.fromkeys(paths)),
        report=(target / "report.html").is_file(),
        local=[str(path) for path in paths if path.exists()],
    )
    (target / _CARD).write_text(card, encoding="utf-8")
