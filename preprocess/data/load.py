"""A dataset of a recipe, loaded: the rows that Axolotl would train on, in its order.

Files, folders, saved datasets, names on the Hub and URLs go the way they go in Axolotl, through
the same calls of `datasets`. Where Axolotl would quietly do something else than the entry says
(a split that a saved dataset does not have), this is an error.
"""

from __future__ import annotations

import difflib
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from axolotl_ual.errors import DataError, words_of

from .arguments import DATA_SUFFIXES, load_arguments
from .json_files import check_json, is_readable
from .recipe import Entry

if TYPE_CHECKING:
    from datasets import Dataset

ROWS_IN_A_PIECE = 20_000

_STORAGE: dict[str, dict[str, Any]] = {
    "s3": {"anon": False},
    "gs": {"token": None},
    "gcs": {"token": None},
    "adl": {"anon": False},
    "abfs": {"anon": False},
    "az": {"anon": False},
}
"""Axolotl's options for the file systems behind these URLs."""


def load_entry(entry: Entry, seed: int) -> Dataset:
    """Load one dataset of a recipe.

    Args:
        entry: from `load_recipe`.
        seed: the recipe's; it decides which rows a shard has.

    Returns:
        The rows, memory-mapped from the cache of `datasets`.

    Raises:
        DataError: the data are not there, or cannot be read as what the entry says.
    """
    _refuse_missing_file(entry)
    with _quiet(), _explained(entry):
        table = _pick_split(_load(entry), entry)
        if shards := entry.raw.get("shards"):
            index = entry.raw.get("shards_idx") or 0
            table = table.shuffle(seed=seed).shard(num_shards=shards, index=index)
    if not len(table):
        raise DataError(f"{entry.label}: the dataset has no rows", "name another file or split")
    return table


def in_pieces(table: Dataset, rows: int = ROWS_IN_A_PIECE) -> Iterator[Dataset]:
    """All rows in order, piece by piece, each piece mapped into memory on its own.

    Pages of a mapped file stay with a process until it lets go of the mapping, so one that reads a
    large dataset from end to end through one mapping ends up with all of it. A piece's mapping goes
    with the piece, if nothing else of it is kept.

    Args:
        table: what `load_entry` gave, or a part of it.
        rows: of a piece.
    """
    # To pickle what is mapped is to note its place; rows that lie in memory would be copied.
    noted = pickle.dumps(table) if table.cache_files and len(table) > rows else None
    for start in range(0, len(table), rows):
        whole = table if noted is None else pickle.loads(noted)
        yield whole.select(range(start, min(start + rows, len(table))))
        del whole


def local_files(entry: Entry) -> tuple[str, list[Path]]:
    """The format and the local files that the rows come from, in the order of the rows.

    No files are known for saved datasets, for data that lie elsewhere, and for parts of splits.
    """
    if _is_saved(entry) or not _is_local(entry):
        return "", []
    with _quiet(), _explained(entry):
        builder = _builder(entry)
    by_split = _paths_by_split(builder)
    return builder.name, by_split.get(str(entry.raw.get("split") or "train"), [])


def _load(entry: Entry) -> Any:
    import datasets

    if "://" in entry.path:
        return _load_remote(entry)
    if not Path(entry.path).exists():
        return datasets.load_dataset(**load_arguments(entry), split=entry.raw.get("split"))
    if _is_saved(entry):
        if not any(Path(entry.path).rglob("*.arrow")):
            raise DataError(f"{entry.path}: the saved dataset has no rows", "name another folder")
        return datasets.load_from_disk(entry.path)
    builder = _builder(entry)
    if builder.name == "json":
        files = [path for paths in _paths_by_split(builder).values() for path in paths]
        check_json(path for path in files if is_readable(path))
    split = entry.raw.get("split")
    if Path(entry.path).is_file():
        split = split or "train"
    return datasets.load_dataset(**load_arguments(entry), split=split)


def _load_remote(entry: Entry) -> Any:
    import datasets
    import fsspec

    protocol = entry.path.split("://", 1)[0]
    options = _STORAGE.get(protocol, {})
    filesystem, path = fsspec.core.url_to_fs(entry.path, **options)
    if not protocol.startswith("http") and filesystem.isdir(path):
        return datasets.load_from_disk(entry.path, storage_options=options)
    if not filesystem.exists(path):
        raise FileNotFoundError(entry.path)
    return datasets.load_dataset(
        **load_arguments(entry), split=entry.raw.get("split"), storage_options=options
    )


def _builder(entry: Entry) -> Any:
    import datasets

    return datasets.load_dataset_builder(**load_arguments(entry))


def _paths_by_split(builder: Any) -> dict[str, list[Path]]:
    files: Mapping[Any, Any] = builder.config.data_files or {}
    return {str(split): [Path(str(path)) for path in paths] for split, paths in files.items()}


def _is_local(entry: Entry) -> bool:
    return "://" not in entry.path and Path(entry.path).exists()


def _is_saved(entry: Entry) -> bool:
    """Whether the rows come from a folder that `save_to_disk` wrote."""
    folder = Path(entry.path)
    marks = ("dataset_dict.json", "state.json")
    written = "://" not in entry.path and any((folder / mark).is_file() for mark in marks)
    return written and not entry.raw.get("data_files")


def _pick_split(loaded: Any, entry: Entry) -> Dataset:
    from datasets import DatasetDict

    wanted = entry.raw.get("split")
    if not isinstance(loaded, DatasetDict):
        if wanted and _is_saved(entry):
            raise DataError(
                f"{entry.label}: split: {wanted}: the folder holds one saved dataset without "
                "splits, and Axolotl would train on all of it",
                "take `split:` out",
            )
        return loaded
    name = wanted or "train"
    if name not in loaded:
        raise DataError(
            f"{entry.label}: there is no split {name!r}; there are {', '.join(map(repr, loaded))}",
            f"set `split:` of this dataset, for example `split: {next(iter(loaded), 'train')}`",
        )
    return loaded[name]


def _refuse_missing_file(entry: Entry) -> None:
    """Tell a file that is not there from a name on the Hub, before anybody is asked for it."""
    path = entry.path
    if "://" in path or Path(path).exists():
        return
    if path.startswith("~") or "$" in path:
        raise DataError(
            f"{path}: no such file: Axolotl takes a path as it is written, and puts nothing in "
            "the place of `~` or a variable",
            "write the path out",
        )
    is_path = path.startswith(("/", ".")) or path.count("/") > 1 or "\\" in path
    if is_path or path.endswith(DATA_SUFFIXES):
        raise DataError(f"{path}: no such file or folder", _nearest_file(Path(path)))


def _nearest_file(path: Path) -> str:
    here = f"paths are taken from the working folder, {Path.cwd()}"
    if not path.parent.is_dir():
        return here
    names = [other.name for other in path.parent.iterdir()]
    nearest = difflib.get_close_matches(path.name, names, n=1)
    return f"did you mean {path.parent / nearest[0]}?" if nearest else here


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of `datasets`: a command has its own."""
    import datasets

    were_on = datasets.are_progress_bars_disabled() is False
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if were_on:
            datasets.enable_progress_bars()


@contextmanager
def _explained(entry: Entry) -> Iterator[None]:
    """Turn what `datasets` and the parsers below it raise into an error for people.

    They raise nearly everything, from StopIteration to errors of pandas, and no common class.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(*_explain(entry, error)) from error


def _said(error: Exception) -> str:
    """What went wrong.

    `datasets` wraps what a parser says in an error without content, and a lost connection to the
    Hub ends in a RuntimeError about a closed client.
    """
    from datasets.exceptions import DatasetGenerationError

    cause: BaseException = error
    while isinstance(cause, (DatasetGenerationError, RuntimeError)):
        deeper = cause.__cause__ or cause.__context__
        if deeper is None:
            break
        cause = deeper
    return words_of(cause)


def _explain(entry: Entry, error: Exception) -> tuple[str, str]:
    """The problem and the fix, by where the data were looked for."""
    said = _said(error)
    if "corresponds to no data" in said:
        return f"{entry.label}: the dataset has no rows", "name another file or split"
    if "://" in entry.path:
        return (
            f"{entry.path}: cannot be read: {said}",
            "check the address, the credentials of the storage, and that no HF_HUB_OFFLINE is set",
        )
    if not Path(entry.path).exists():
        return (
            f"{entry.path}: no such file or folder here, and not to be had from the Hub: {said}",
            "check the name, the connection and HF_HUB_OFFLINE; for gated or private data run "
            "`hf auth login`",
        )
    if isinstance(error, FileNotFoundError):
        return (
            f"{entry.label}: no such file: {said}",
            "paths of `data_files:` are taken from the working folder too",
        )
    if Path(entry.path).is_file() and set("[]*?") & set(entry.path):
        return (
            f"{entry.path}: cannot be loaded: in a path, Axolotl reads `[`, `]`, `*` and `?` as a "
            "pattern",
            "rename the file or its folder",
        )
    return (
        f"{entry.label}: cannot be loaded: {said}",
        "mend the data or `split:`, or set `ds_type:` to their format (json, csv, parquet, arrow, "
        "text)",
    )
