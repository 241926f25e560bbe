"""Finding the annotated copy of a recipe's datasets, and whether it still fits the recipe.

Imports neither torch nor axolotl, so that `axolotl-ual check` can ask as well as the plugin.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from axolotl_ual.columns import SENTENCES, SMOOTHING, Manifest, ManifestFile, ManifestSource
from axolotl_ual.data.fingerprint import file_digest, fingerprint, plain
from axolotl_ual.data.shared import folder_of
from axolotl_ual.errors import AnnotationError
from axolotl_ual.settings.annotations import AnnotationsConfig
from axolotl_ual.settings.pairs import PairsConfig
from axolotl_ual.settings.preference import kind_of_rl, smooths_pairs, trains_reward_model
from axolotl_ual.settings.sentence_rules import of_sentences
from axolotl_ual.settings.server import shaping
from axolotl_ual.settings.ual import UALConfig

_READ_FROM_SOURCE = ("name", "data_files", "revision", "shards", "shards_idx", "trust_remote_code")
"""Keys of an entry that say which rows to read: the annotated copy holds just those rows."""

PAIRS_TYPE = "axolotl_ual.pairs"
"""How Axolotl reads the pairs: a dialogue and two answers, rendered by the chat template."""

_HOLDS = {"annotations": "annotated samples", "pairs": "preference pairs"}
_MADE = {"annotations": "annotated", "pairs": "paired"}


@dataclass(frozen=True, slots=True)
class Located:
    """What a recipe is trained on.

    Attributes:
        entries: the `datasets:` list with the annotated files in it.
        files: of the entries, in their order; none where the datasets bring the columns.
        content: 12 hexadecimal digits that change with what the entries hold.
    """

    entries: list[dict[str, Any]]
    files: tuple[Path, ...]
    content: str


def locate(
    recipe: Mapping[str, Any], ual: UALConfig, recipe_name: str, *, digests: bool = True
) -> Located:
    """Find what to train on: the annotated copy, or datasets that have the columns themselves.

    Args:
        recipe: the YAML as a mapping.
        ual: its `ual:` block.
        recipe_name: what messages call the recipe: the file that `annotate` is run on.
        digests: whether to compare the bytes of sources and annotated files with their digests.

    Raises:
        AnnotationError: the copy is missing, incomplete, damaged, or made from other data or with
            other settings; or a local dataset lacks the columns and nothing annotates it.
        UnsupportedError: a file has sentences that the recipe cannot use.
    """
    entries = list(expanded(recipe.get("datasets") or []))
    if ual.pairs is not None and recipe.get("rl"):
        return _locate_pairs(recipe, ual.pairs, entries, recipe_name, digests)
    if ual.annotations is not None:
        return _locate_shared(recipe, ual, ual.annotations, entries, digests)
    if ual.annotate is None:
        needed = needed_column(recipe, ual)
        for entry in entries:
            _refuse_sentences(recipe, ual, Path(str(entry.get("path", ""))))
            if needed is not None:
                _need_column(entry, needed)
        content = content_digest(fingerprint(entry, recipe.get("seed")) for entry in entries)
        return Located(entries, (), content)
    folder = Path(ual.annotate.output)
    again = f"run `axolotl-ual annotate {recipe_name}`"
    manifest = _read_manifest(folder, again)
    _check_kind(manifest, "annotations", folder, again)
    wanted = ual.result_settings(recipe.get("base_model"))
    _check_settings("annotations", manifest.settings, wanted, folder, again)
    _check_sources(manifest, entries, recipe.get("seed"), folder, again, digests)
    for source in manifest.sources:
        _check_file(source.file, folder, again, digests)
    files = tuple(folder / source.file.path for source in manifest.sources)
    for file in files:
        _refuse_sentences(recipe, ual, file)
    return Located(
        [rewritten(entry, file) for entry, file in zip(entries, files, strict=True)],
        files,
        content_digest(source.file.sha256 for source in manifest.sources),
    )


def _locate_pairs(
    recipe: Mapping[str, Any],
    pairs: PairsConfig,
    entries: list[dict[str, Any]],
    recipe_name: str,
    digests: bool,
) -> Located:
    """Find the preference pairs that `axolotl-ual pairs` made from the recipe."""
    folder = Path(pairs.output)
    again = f"run `axolotl-ual pairs {recipe_name}`"
    manifest = _read_manifest(folder, again)
    _check_kind(manifest, "pairs", folder, again)
    made, wanted = dict(manifest.settings), pairs.result_settings(recipe.get("base_model"))
    if manifest.estimator.get("sampling", {}).get("method") == "given":
        # The responses were sampled elsewhere, so how this recipe would sample makes no difference.
        made.pop("sampling", None)
        wanted.pop("sampling")
    else:
        _check_sources(manifest, entries, recipe.get("seed"), folder, again, digests)
    _check_settings("pairs", {"pairs": made}, {"pairs": wanted}, folder, again)
    file = manifest.sources[0].file
    _check_file(file, folder, again, digests)
    path = folder / file.path
    return Located([pairs_entry(path)], (path,), content_digest(iter([file.sha256])))


def _locate_shared(
    recipe: Mapping[str, Any],
    ual: UALConfig,
    settings: AnnotationsConfig,
    entries: list[dict[str, Any]],
    digests: bool,
) -> Located:
    """Find annotations of others; they are joined to the entries when these are read."""
    name = f"ual.annotations: {settings.name}"
    if recipe.get("rl"):
        raise AnnotationError(
            f"rl: {recipe['rl']}: is trained on pairs, and `{name}` is about samples",
            "name published pairs under `datasets:`",
        )
    again = "take `ual.smoothing` and `ual.stages` from the recipe that was published with it"
    folder = folder_of(settings)
    manifest = _read_manifest(folder, "name a folder of `annotate`, or what `publish` wrote")
    if manifest.kind != "hashes":
        _check_kind(manifest, "annotations", folder, "name annotated samples")
    wanted = {"smoothing": shaping(ual.smoothing), "stages": shaping(ual.stages)}
    made = {key: value for key, value in manifest.settings.items() if key in wanted}
    _check_settings("annotations", made, wanted, folder, again)
    for source in manifest.sources:
        _check_file(source.file, folder, "copy or download it again", digests)
    return Located(
        entries,
        (),
        content_digest(
            itertools.chain(
                (fingerprint(entry, recipe.get("seed")) for entry in entries),
                (source.file.sha256 for source in manifest.sources),
                (settings.on_missing,),
            )
        ),
    )


def pairs_entry(path: Path) -> dict[str, Any]:
    """The `datasets:` entry of a file of pairs."""
    return {"path": str(path), "ds_type": "parquet", "split": "train", "type": PAIRS_TYPE}


def needed_column(recipe: Mapping[str, Any], ual: UALConfig) -> str | None:
    """The first column without which a recipe cannot be trained as it says; None: there is none."""
    rl, keep, margin = kind_of_rl(recipe), ual.curriculum.keep, ual.preference.margin
    if rl is None and not trains_reward_model(recipe):
        return SMOOTHING if ual.smoothing.mean else None
    if smooths_pairs(recipe) and ual.preference.smoothing:
        return SMOOTHING
    if ual.curriculum.active:
        return ual.curriculum.column
    if keep is not None:
        return keep.column
    if ual.loss.weight is not None:
        return ual.loss.weight.dataset_column
    return None if margin is None else margin.column


def expanded(entries: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """Entries as plain dicts; one with a list of names is several datasets, as for Axolotl."""
    for spelled in entries:
        entry = plain(spelled)
        names = entry.get("name")
        if isinstance(names, list) and names:
            yield from ({**entry, "name": name} for name in names)
        else:
            yield entry


def _read_manifest(folder: Path, again: str) -> Manifest:
    if not folder.is_dir():
        raise AnnotationError(f"ual.annotate.output: {folder}: no such folder", again)
    try:
        return Manifest.read(folder)
    except FileNotFoundError:
        raise AnnotationError(
            f"{folder}: has no manifest.json, so its annotation was not finished", again
        ) from None
    except ValueError as error:
        raise AnnotationError(f"{folder}: manifest.json cannot be read: {error}", again) from None


def _check_kind(manifest: Manifest, kind: str, folder: Path, again: str) -> None:
    if manifest.kind != kind:
        raise AnnotationError(f"{folder}: holds {manifest.kind}, not {_HOLDS[kind]}", again)
    if manifest.limit is not None:
        raise AnnotationError(
            f"{folder}: only the first {manifest.limit} rows were {_MADE[kind]} (--limit)",
            f"{again} without `--limit`",
        )


def _check_settings(
    kind: str, made: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path, again: str
) -> None:
    old, new = dict(_leaves(made)), dict(_leaves(plain(wanted)))
    changed = [
        f"ual.{key}: was {_value(old.get(key))}, is {_value(new.get(key))}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if changed:
        raise AnnotationError(
            f"{folder}: {_MADE[kind]} with other settings\n  " + "\n  ".join(changed), again
        )


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{prefix}.{key}" if prefix else str(key))
    elif value is not None:
        yield prefix, value


def _value(value: Any) -> str:
    return "not set" if value is None else json.dumps(value)


def _check_sources(
    manifest: Manifest,
    entries: Sequence[Mapping[str, Any]],
    seed: int | None,
    folder: Path,
    again: str,
    digests: bool,
) -> None:
    if len(manifest.sources) != len(entries):
        raise AnnotationError(
            f"{folder}: made from {len(manifest.sources)} dataset(s), and the recipe names "
            f"{len(entries)}",
            again,
        )
    for source, entry in zip(manifest.sources, entries, strict=True):
        _check_entry(source, entry, folder, again)
        if digests and source.fingerprint != fingerprint(entry, seed):
            shards = " (or the `seed` that decides what lies in a shard)"
            what = f"{entry.get('path')}{shards if entry.get('shards') else ''}"
            raise AnnotationError(f"{what}: has changed since {folder} was made from it", again)


def _check_entry(
    source: ManifestSource, entry: Mapping[str, Any], folder: Path, again: str
) -> None:
    path = entry.get("path")
    made_from = plain(source.entry)
    if made_from != entry:
        keys = sorted(
            key for key in made_from.keys() | entry.keys() if made_from.get(key) != entry.get(key)
        )
        raise AnnotationError(
            f"{folder}: made from another `datasets:` entry than `{path}` "
            f"({', '.join(f'`{key}`' for key in keys)} differ)",
            again,
        )


def _check_file(file: ManifestFile, folder: Path, again: str, digests: bool) -> None:
    import pyarrow.parquet as pq

    path = folder / file.path
    if not path.is_file():
        raise AnnotationError(f"{path}: is missing", again)
    if digests and file_digest(path) != file.sha256:
        raise AnnotationError(f"{path}: is not the file that the manifest describes", again)
    schema = pq.read_schema(path)
    if pq.read_metadata(path).num_rows != file.rows or SMOOTHING not in schema.names:
        raise AnnotationError(f"{path}: does not hold what the manifest says", again)


def rewritten(entry: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """An entry that reads the annotated copy in place of its own data, in the same way."""
    kept = {key: value for key, value in entry.items() if key not in _READ_FROM_SOURCE}
    return {**kept, "path": str(path), "ds_type": "parquet", "split": "train"}


def _need_column(entry: Mapping[str, Any], column: str | None) -> None:
    """A single local file tells its columns at once; other data tell them when they are read."""
    if column is None:
        return
    path = Path(str(entry.get("path", "")))
    columns = _columns_of(path)
    if columns is not None and column not in columns:
        raise AnnotationError(
            f"datasets: {path}: has no column `{column}`, and the recipe has no "
            "`ual.annotate:` that would make it",
            "add `ual: {annotate: {output: ...}}` and run `axolotl-ual annotate`",
        )


def _refuse_sentences(recipe: Mapping[str, Any], ual: UALConfig, path: Path) -> None:
    if SENTENCES in (_columns_of(path) or ()):
        error = of_sentences(recipe, ual, f"{path} has the column `{SENTENCES}`")
        if error is not None:
            raise error


def _columns_of(path: Path) -> list[str] | None:
    if not path.is_file():
        return None
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        names: list[str] = pq.read_schema(path).names
        return names
    if path.suffix == ".jsonl":
        with path.open(encoding="utf-8") as stream:
            first = next((line for line in stream if line.strip()), "{}")
        try:
            row = json.loads(first)
        except ValueError:
            return None
        return list(row) if isinstance(row, dict) else None
    return None


def content_digest(parts: Iterable[str]) -> str:
    """12 hexadecimal digits that change with any of the parts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:12]
