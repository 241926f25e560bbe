"""The local files that a `datasets:` entry names, and the outputs of ours that lie among them.

An output folder may lie inside the folder that its data come from. Nothing in it is data: neither
is it read, nor does it change what the data are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from axolotl_ual.columns import MANIFEST_FILE

_MAGIC: Final = set("*?[]{}")


def local_files(entry: Mapping[str, Any]) -> list[Path]:
    """All local files of an entry, in a fixed order: of `data_files`, else of `path`."""
    path = str(entry.get("path", ""))
    root = Path(path)
    # Files of a dataset on the Hub are named from the root of its repository.
    names = names_in(entry.get("data_files")) if root.exists() or "/" not in path else []
    files = {match for name in names for match in matches(name)}
    if root.is_file():
        files.add(root)
    elif root.is_dir() and not files:
        files.update(_files_below(root))
    return sorted(files, key=os.path.abspath)


def names_in(data_files: Any) -> list[str]:
    """The names and patterns of `data_files`: one, a list, or lists by split."""
    if isinstance(data_files, Mapping):
        return [name for group in data_files.values() for name in names_in(group)]
    return [data_files] if isinstance(data_files, str) else list(data_files or [])


def matches(name: str) -> list[Path]:
    """The local files of a name, or of a pattern as `datasets` reads it."""
    if "://" in name:
        return []
    if Path(name).is_file():
        return [Path(name)]
    if not _MAGIC & set(name):
        return []
    from datasets.data_files import resolve_pattern

    try:
        found = [Path(match) for match in resolve_pattern(name, base_path=str(Path.cwd()))]
    except FileNotFoundError:
        return []
    ours = {path.resolve() for path in outputs_in(name)}
    return [path for path in found if not ours & set(path.resolve().parents)]


def outputs_in(name: str) -> list[Path]:
    """Outputs of ours inside the folder that a pattern searches; none for a plain name."""
    if "://" in name or not _MAGIC & set(name):
        return []
    root = Path(name)
    while _MAGIC & set(str(root)):
        root = root.parent
    return outputs_below(root)


def outputs_below(root: Path) -> list[Path]:
    """Folders inside a folder that a command of ours wrote."""
    return [path.parent for path in sorted(root.rglob(MANIFEST_FILE)) if _is_output(path, root)]


def _is_output(manifest: Path, root: Path) -> bool:
    if manifest.parent == root:
        return False
    try:
        found = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and {"manifest_version", "package_version"} <= found.keys()


def _files_below(root: Path) -> Iterator[Path]:
    """Files of a folder of data; hidden ones and outputs of ours are none of its data."""
    outputs = set(outputs_below(root))
    for path in root.rglob("*"):
        hidden = any(part.startswith((".", "__")) for part in path.relative_to(root).parts)
        if path.is_file() and not hidden and not outputs & set(path.parents):
            yield path
