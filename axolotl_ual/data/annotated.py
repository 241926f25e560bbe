"""Finding the annotated copy of a recipe's datasets, and whether it still fits the recipe.

Imports neither torch nor axolotl, so that `axolotl-ual check` can ask as well as the plugin.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from axolotl_ual.columns import PREFIX, SMOOTHING, Manifest, ManifestFile, ManifestSource
from axolotl_ual.data.fingerprint import file_digest, fingerprint, plain
from axolotl_ual.errors import AnnotationError
from axolotl_ual.settings.curriculum_rules import needed_column
from axolotl_ual.settings.pairs import PairsConfig
from axolotl_ual.settings.ual import UALConfig, parse_ual

_READ_FROM_SOURCE = ("name", "data_files", "revision", "shards", "shards_idx", "trust_remote_code")
"""Keys of an entry that say which rows to read: the annotated copy holds just those rows."""

_PAIRS_TYPE = {
    "type": "chat_template.default",
    "field_messages": "messages",
    "field_chosen": "chosen",
    "field_rejected": "rejected",
}
"""How Axolotl reads the pairs: a dialogue and two answers, rendered by the chat template."""

_TRAIN_ON_PAIRS = ("dpo", "ipo", "simpo")
"""Values of `rl:` for which Axolotl reads that type."""

_HOLDS = {"annotations": "annotated samples", "pairs": "preference pairs"}
_MADE = {"annotations": "annotated", "pairs": "paired"}

_AXOLOTL_DEFAULT = "last_run_prepared"
_PREPARED = re.compile(r"ual-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Located:
    """What a recipe is trained on.

    Attributes:
        entries: the `datasets:` list with the annotated files in it.
        content: 12 hexadecimal digits that change with what the entries hold.
    """

    entries: list[dict[str, Any]]
    content: str


def locate(recipe: Mapping[str, Any], ual: UALConfig, recipe_name: str) -> Located:
    """Find what to train on: the annotated copy, or datasets that have the columns themselves.

    Args:
        recipe: the YAML as a mapping.
        ual: its `ual:` block.
        recipe_name: what messages call the recipe: the file that `annotate` is run on.

    Raises:
        AnnotationError: the copy is missing, incomplete, damaged, or made from other data or with
            other settings; or a local dataset lacks the columns and nothing annotates it.
    """
    entries = list(_expanded(recipe.get("datasets") or []))
    if ual.pairs is not None and recipe.get("rl"):
        return _locate_pairs(recipe, ual.pairs, entries, recipe_name)
    if ual.annotate is None:
        for entry in entries:
            _need_column(entry, needed_column(recipe, ual))
        return Located(
            entries, _content(fingerprint(entry, recipe.get("seed")) for entry in entries)
        )
    folder = Path(ual.annotate.output)
    again = f"run `axolotl-ual annotate {recipe_name}`"
    manifest = _read_manifest(folder, again)
    _check_kind(manifest, "annotations", folder, again)
    wanted = ual.result_settings(recipe.get("base_model"))
    _check_settings("annotations", manifest.settings, wanted, folder, again)
    _check_sources(manifest, entries, recipe.get("seed"), folder, again)
    for source in manifest.sources:
        _check_file(source.file, folder, again)
    found = [
        rewritten(entry, folder / source.file.path)
        for source, entry in zip(manifest.sources, entries, strict=True)
    ]
    return Located(found, _content(source.file.sha256 for source in manifest.sources))


def _locate_pairs(
    recipe: Mapping[str, Any], pairs: PairsConfig, entries: list[dict[str, Any]], recipe_name: str
) -> Located:
    """Find the preference pairs that `axolotl-ual pairs` made from the recipe."""
    if recipe["rl"] not in _TRAIN_ON_PAIRS:
        raise AnnotationError(
            f"rl: {recipe['rl']}: is not trained on the pairs of `ual.pairs`",
            f"set `rl:` to one of {', '.join(_TRAIN_ON_PAIRS)}, or take `ual.pairs` out",
        )
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
        _check_sources(manifest, entries, recipe.get("seed"), folder, again)
    _check_settings("pairs", {"pairs": made}, {"pairs": wanted}, folder, again)
    file = manifest.sources[0].file
    _check_file(file, folder, again)
    return Located([pairs_entry(folder / file.path)], _content(iter([file.sha256])))


def pairs_entry(path: Path) -> dict[str, Any]:
    """The entry that reads preference pairs."""
    return {"path": str(path), "ds_type": "parquet", "split": "train", **_PAIRS_TYPE}


def prepare(recipe: MutableMapping[str, Any], recipe_name: str) -> None:
    """Put what `locate` finds in the place of a recipe's datasets, before Axolotl reads them.

    Prepared data get a folder of their own, named by what the annotations hold: Axolotl's cache is
    keyed by the configuration alone, and would serve annotations that have changed since. Done
    twice (Ray validates a recipe once more in each worker), the second time changes nothing.

    Raises:
        ConfigError: the `ual:` block is wrong.
        AnnotationError: see `locate`.
    """
    ual = parse_ual(recipe.get("ual"))
    made = ual.pairs if recipe.get("rl") else ual.annotate
    if not recipe.get("datasets") and (made is None or made is ual.annotate):
        return
    base = Path(recipe.get("dataset_prepared_path") or _AXOLOTL_DEFAULT)
    if made is not None and recipe.get("datasets") and _PREPARED.fullmatch(base.name):
        folder = Path(made.output)
        if all(Path(str(entry["path"])).parent == folder for entry in recipe["datasets"]):
            return
    located = locate(recipe, ual, recipe_name)
    recipe["datasets"] = located.entries
    own = f"ual-{_prepared_name(located.content, ual)}"
    recipe["dataset_prepared_path"] = str(base if base.name == own else base / own)


def _prepared_name(content: str, ual: UALConfig) -> str:
    """A column of the user's own is in the prepared data only where the curriculum is by it."""
    column = ual.curriculum.column
    return content if column.startswith(PREFIX) else _content(iter((content, column)))


def _expanded(entries: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """An entry with a list of names is several datasets, as for Axolotl and for `annotate`."""
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
) -> None:
    if len(manifest.sources) != len(entries):
        raise AnnotationError(
            f"{folder}: made from {len(manifest.sources)} dataset(s), and the recipe names "
            f"{len(entries)}",
            again,
        )
    for source, entry in zip(manifest.sources, entries, strict=True):
        _check_source(source, entry, seed, folder, again)


def _check_source(
    source: ManifestSource, entry: Mapping[str, Any], seed: int | None, folder: Path, again: str
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
    if source.fingerprint != fingerprint(entry, seed):
        shards = " (or the `seed` that decides what lies in a shard)"
        what = f"{path}{shards if entry.get('shards') else ''}"
        raise AnnotationError(f"{what}: has changed since {folder} was made from it", again)


def _check_file(file: ManifestFile, folder: Path, again: str) -> None:
    import pyarrow.parquet as pq

    path = folder / file.path
    if not path.is_file():
        raise AnnotationError(f"{path}: is missing", again)
    if file_digest(path) != file.sha256:
        raise AnnotationError(f"{path}: is not the file that the manifest describes", again)
    schema = pq.read_schema(path)
    if pq.read_metadata(path).num_rows != file.rows or SMOOTHING not in schema.names:
        raise AnnotationError(f"{path}: does not hold what the manifest says", again)


def rewritten(entry: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """An entry that reads the annotated copy in place of its own data, in the same way."""
    kept = {key: value for key, value in entry.items() if key not in _READ_FROM_SOURCE}
    return {**kept, "path": str(path), "ds_type": "parquet", "split": "train"}


def _need_column(entry: Mapping[str, Any], column: str) -> None:
    """A single local file tells its columns at once; other data tell them when they are read."""
    path = Path(str(entry.get("path", "")))
    columns = _columns_of(path)
    if columns is not None and column not in columns:
        raise AnnotationError(
            f"datasets: {path}: has no column `{column}`, and the recipe has no "
            "`ual.annotate:` that would make it",
            "add `ual: {annotate: {output: ...}}` and run `axolotl-ual annotate`",
        )


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


def _content(parts: Iterator[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:12]
