"""Annotations of others, joined to a dataset by the content of its rows.

The key of a row is a digest of what stands in it, so neither its place nor the other rows matter:
a dataset may have been shuffled, filtered or put together differently since it was annotated. Null
fields do not count, because readers of JSON and of Parquet differ in which of them they make up.

Imports neither torch nor axolotl.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from axolotl_ual.columns import CONTENT, MANIFEST_FILE, PREFIX, SMOOTHING, Manifest
from axolotl_ual.errors import AnnotationError, words_of
from axolotl_ual.settings.annotations import AnnotationsConfig

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

_DIGITS: Final = 32


def content_hash(row: Mapping[str, Any]) -> str:
    """The key of a row: 32 hexadecimal digits of a SHA-256 over its columns without ours."""
    own = {name: value for name, value in row.items() if not name.startswith(PREFIX)}
    text = json.dumps(_canonical(own), sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def _canonical(value: Any) -> Any:
    """A value without null fields; whole numbers are the same as float and as integer.

    Images that a column holds are their pixels; those that are named by a path are that path.
    """
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if hasattr(value, "mode") and hasattr(value, "tobytes"):
        # An image that was decoded: its pixels, because its text has its place in memory.
        return [value.mode, *value.size, hashlib.sha256(value.tobytes()).hexdigest()]
    return value


def folder_of(settings: AnnotationsConfig) -> Path:
    """The folder that the annotations lie in; those on the Hub are downloaded, without reports.

    Raises:
        AnnotationError: there is no such folder, and the Hub has or gives none.
    """
    local = Path(settings.name)
    if local.is_dir():
        return local
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        found = snapshot_download(
            settings.name,
            repo_type="dataset",
            revision=settings.revision,
            allow_patterns=[MANIFEST_FILE, "*.parquet"],
        )
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise AnnotationError(
            f"ual.annotations: {settings.name}: no such folder, and the Hub does not give it: "
            f"{words_of(error)}",
            "check the name; a private dataset needs `hf auth login` or HF_TOKEN",
        ) from None
    return Path(found)


def hashed_rows(file: Path) -> pa.Table:
    """Columns of ours in a Parquet file, after the content hash of each row.

    Args:
        file: rows with our columns; either whole rows, or hashes that were published.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = pq.read_schema(file).names
    ours = pq.read_table(file, columns=[name for name in names if name.startswith(PREFIX)])
    ours = ours.replace_schema_metadata(None)
    if CONTENT in names:
        return ours
    from datasets import load_dataset

    rows = load_dataset("parquet", data_files=str(file), split="train", streaming=True)
    return ours.add_column(0, CONTENT, pa.array([content_hash(row) for row in rows], pa.string()))


@dataclass(frozen=True, slots=True)
class Joined:
    """A dataset with the columns of others.

    Attributes:
        dataset: the rows, in their order.
        rows: before any was dropped.
        matched: rows whose content was found.
    """

    dataset: Dataset
    rows: int
    matched: int


class SharedAnnotations:
    """Annotations by content hash.

    Args:
        settings: `ual.annotations`.
        mean: smoothing of rows without a match.
    """

    def __init__(self, settings: AnnotationsConfig, mean: float) -> None:
        import pyarrow as pa

        folder = folder_of(settings)
        files = [folder / source.file.path for source in Manifest.read(folder).sources]
        self.settings = settings
        self._mean = mean
        tables = [hashed_rows(file) for file in files]
        # Of several datasets some may lack columns that others have.
        self._table = pa.concat_tables(tables, promote_options="default")
        self._places: dict[str, list[int]] = {}
        for place, key in enumerate(self._table[CONTENT].to_pylist()):
            self._places.setdefault(key, []).append(place)

    def join(self, dataset: Dataset, where: str) -> Joined:
        """Put the columns beside the rows that they are of.

        Rows that are alike in all their content take the annotations of such rows in turn.

        Args:
            dataset: N rows without columns of ours.
            where: what messages call it.

        Raises:
            AnnotationError: the rows have columns of ours; or none, or with `on_missing: error` not
                every one, is in the annotations.
        """
        ours = [name for name in dataset.column_names if name.startswith(PREFIX)]
        if ours:
            raise AnnotationError(
                f"datasets: `{where}` has the column `{ours[0]}` already, and `ual.annotations: "
                f"{self.settings.name}` would bring it again",
                "take `ual.annotations` out, or name the data without these columns",
            )
        places = self._found(dataset)
        missing, rows = np.flatnonzero(places < 0), len(places)
        self._refuse(missing, rows, where)
        if missing.size and self.settings.on_missing == "drop":
            dataset, places = dataset.select(np.flatnonzero(places >= 0)), places[places >= 0]
        return Joined(self._beside(dataset, places), rows, rows - missing.size)

    def _found(self, rows: Iterable[Mapping[str, Any]]) -> npt.NDArray[np.int64]:
        """The place of each row's annotation, int64 of shape (N,); -1: there is none."""
        turns: dict[str, int] = {}
        found = []
        for row in rows:
            key = content_hash(row)
            places = self._places.get(key, [-1])
            turn = turns.get(key, 0)
            turns[key] = turn + 1
            found.append(places[min(turn, len(places) - 1)])
        return np.array(found, dtype=np.int64)

    def _refuse(self, missing: npt.NDArray[np.int64], rows: int, where: str) -> None:
        if missing.size and (missing.size == rows or self.settings.on_missing == "error"):
            number = "no row" if missing.size == rows else f"row {int(missing[0])} is not"
            rest = "" if missing.size == rows else f", nor are {missing.size - 1} others"
            raise AnnotationError(
                f"datasets: `{where}`: {number} in `ual.annotations: {self.settings.name}`{rest}: "
                "rows are known by the content of all their columns",
                "name the data, and the columns of them, that were annotated"
                + ("" if missing.size == rows else "; or set ual.annotations.on_missing to `mean`"),
            )

    def _beside(self, dataset: Dataset, places: npt.NDArray[np.int64]) -> Dataset:
        import pyarrow as pa
        import pyarrow.compute as pc
        from datasets import Dataset, concatenate_datasets

        found = self._table.drop_columns([CONTENT]).take(
            pa.array(places, mask=places < 0, type=pa.int64())
        )
        smoothing = pc.if_else(
            pa.array(places < 0), pa.scalar(self._mean, pa.float32()), found[SMOOTHING]
        )
        number = found.schema.get_field_index(SMOOTHING)
        found = found.set_column(number, SMOOTHING, smoothing)
        return concatenate_datasets([dataset, Dataset(found)], axis=1)
