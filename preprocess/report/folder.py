"""What is in an output folder: its manifest, and the Parquet files with columns of ours.

Only the folder is read, so it may have been made on another machine, or by hand: without a
`manifest.json` every Parquet file that has the columns counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from axolotl_ual.columns import GAP, MANIFEST_FILE, SMOOTHING, UNCERTAINTY, Manifest
from axolotl_ual.errors import DataError

from ..output.pairs import RESPONSES_FILE

_OURS: Final = (UNCERTAINTY, SMOOTHING)


@dataclass(frozen=True, slots=True)
class Part:
    """One Parquet file of rows.

    Attributes:
        path: the file.
        name: what the rows' addresses begin with; one for each file.
        label: the dataset that the rows come from, for people.
        entry: its entry in the recipe; empty where that is not known.
        rows: number of rows in the file.
        schema: of the file.
    """

    path: Path
    name: str
    label: str
    entry: Mapping[str, Any]
    rows: int
    schema: pa.Schema


@dataclass(frozen=True, slots=True)
class Folder:
    """An output folder.

    Attributes:
        path: where it lies.
        kind: "annotations" or "pairs".
        manifest: None where there is none.
        parts: files of rows, at least one.
        responses: the file of all responses, or None.
    """

    path: Path
    kind: str
    manifest: Manifest | None
    parts: list[Part] = field(default_factory=list)
    responses: Path | None = None

    @property
    def rows(self) -> int:
        """Rows of all parts."""
        return sum(part.rows for part in self.parts)


def open_folder(path: Path) -> Folder:
    """Look into an output folder.

    Raises:
        DataError: it is no folder, has no rows with our columns, or its manifest or one of its
            files cannot be read.
    """
    if not path.is_dir():
        problem = "is a file" if path.exists() else "no such folder"
        raise DataError(f"{path}: {problem}", "name the folder that `annotate` or `pairs` wrote")
    manifest = _manifest(path)
    parts = _parts(path, manifest)
    if not parts:
        raise DataError(
            f"{path}: there is no {MANIFEST_FILE} and no Parquet file with the column "
            f"`{UNCERTAINTY}` or `{SMOOTHING}`",
            "name the folder that `annotate` or `pairs` wrote",
        )
    if not any(part.rows for part in parts):
        raise DataError(f"{path}: there are no rows in it")
    kind = "pairs" if GAP in parts[0].schema.names else "annotations"
    responses = path / RESPONSES_FILE
    found = responses if kind == "pairs" and responses.is_file() else None
    return Folder(path, manifest.kind if manifest else kind, manifest, parts, found)


def _manifest(path: Path) -> Manifest | None:
    try:
        return Manifest.read(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path / MANIFEST_FILE}: is not a manifest that this version reads: {error}",
            "update axolotl-ual, or move the file away to see the rows alone",
        ) from None


def _parts(path: Path, manifest: Manifest | None) -> list[Part]:
    if manifest is None:
        files = [file for file in sorted(path.rglob("*.parquet")) if file.name != RESPONSES_FILE]
        parts = [
            _part(file, file.relative_to(path).with_suffix("").as_posix(), file.stem, {})
            for file in files
        ]
        return [part for part in parts if set(_OURS) & set(part.schema.names)]
    labels: dict[str, list[str]] = {}
    for source in manifest.sources:
        labels.setdefault(source.file.path, []).append(_label(source.entry))
    entries = {source.file.path: source.entry for source in manifest.sources}
    return [
        _part(path / name, Path(name).stem, " + ".join(dict.fromkeys(labels[name])), entries[name])
        for name in labels
    ]


def _part(path: Path, name: str, label: str, entry: Mapping[str, Any]) -> Part:
    try:
        with pq.ParquetFile(path) as file:
            return Part(path, name, label, entry, file.metadata.num_rows, file.schema_arrow)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(
            f"{path}: cannot be read: {error}", "the folder is not whole; make it again"
        ) from None


def _label(entry: Mapping[str, Any]) -> str:
    """Path, name and split of an entry, as far as they tell it from another one."""
    label = str(entry.get("path") or "data")
    for key in ("name", "split"):
        if entry.get(key):
            label += f" · {entry[key]}"
    return label
