"""What `datasets.load_dataset` is given for an entry: the path, the files, their format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from axolotl_ual.data.files import matches, names_in, outputs_below, outputs_in
from axolotl_ual.errors import DataError

from .recipe import Entry

_KINDS: Final = {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".txt": "text"}
"""As in Axolotl: what a path contains decides the format, and JSON is what is left."""
DATA_SUFFIXES: Final = (
    *(".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".txt"),
    *(".gz", ".bz2", ".xz", ".zst", ".zip"),
)
"""What names of data files end with."""


def load_arguments(entry: Entry) -> dict[str, Any]:
    """Arguments of `load_dataset`, all but the split."""
    raw = entry.raw
    name = {"name": raw["name"]} if raw.get("name") else {}
    path = Path(entry.path)
    if "://" in entry.path or path.is_file():
        return {"path": _kind(entry), "data_files": entry.path, **name}
    if path.is_dir():
        if raw.get("data_files"):
            return {"path": _kind(entry), "data_files": _data_files(entry), **name}
        if outputs := outputs_below(path):
            return {"path": entry.path, "data_files": _files_beside(path, outputs), **name}
        return {"path": entry.path, **name}
    arguments = {"path": entry.path, "data_files": _data_files(entry), **name}
    arguments.update(revision=raw.get("revision"), token=entry.token)
    if raw.get("trust_remote_code"):
        arguments["trust_remote_code"] = True
    return arguments


def _data_files(entry: Entry) -> Any:
    """`data_files` of an entry; where a pattern finds outputs of ours, the other files it finds."""
    given = entry.raw.get("data_files")
    if "/" in entry.path and not Path(entry.path).exists():
        return given
    names = names_in(given)
    if not any(outputs_in(name) for name in names):
        return given
    return [
        path
        for name in names
        for path in ([str(match) for match in matches(name)] if outputs_in(name) else [name])
    ]


def _files_beside(root: Path, outputs: Sequence[Path]) -> dict[str, list[str]]:
    """The files of each split of a folder, those in outputs of ours left out.

    The rules by which names of files and folders make splits are those of `datasets`.
    """
    from datasets import data_files

    ours = {path.resolve() for path in outputs}

    def files(pattern: str) -> list[str]:
        try:
            found = data_files.resolve_pattern(pattern, base_path=str(root.resolve()))
        except FileNotFoundError:
            return []
        return [
            path
            for path in found
            if path.endswith(DATA_SUFFIXES) and not ours & set(Path(path).parents)
        ]

    for pattern in data_files.ALL_SPLIT_PATTERNS:
        sharded = files(pattern.replace("{split}", "*"))
        splits = dict.fromkeys(Path(path).name.rsplit("-", 3)[0] for path in sharded)
        if splits:
            return {split: files(pattern.format(split=split)) for split in splits}
    for patterns in data_files.ALL_DEFAULT_PATTERNS:
        found = {
            str(split): [path for name in names for path in files(name)]
            for split, names in patterns.items()
        }
        if any(found.values()):
            return {split: paths for split, paths in found.items() if paths}
    raise DataError(f"{root}: the dataset has no rows", "name another folder")


def _kind(entry: Entry) -> str:
    named = entry.raw.get("ds_type")
    guessed = (kind for suffix, kind in _KINDS.items() if suffix in entry.path)
    return named or next(guessed, "json")
