"""Held-out rows: what no run was trained on.

In this order: `--data`, `ual.evaluate.data`, the recipe's `test_datasets`, and the validation rows
that `val_set_size` sets apart. Which rows those are is asked of Axolotl itself, since they depend
on its shuffling, its dropping of long rows and its seed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from axolotl_ual.columns import PREFIX, STAGE, UNCERTAINTY
from axolotl_ual.errors import ConfigError, DataError, UALError
from axolotl_ual.settings.evaluate import AnswersConfig

from ..data.annotated_tables import annotated_tables
from ..data.load import load_entry
from ..data.prompt import Prompt
from ..data.prompts import prompt_of_sample
from ..data.recipe import Entry, Recipe, read_entries
from ..data.rows import read_samples
from ..data.sample import Sample

if TYPE_CHECKING:
    from datasets import Dataset

_SPLIT: Final = "axolotl_ual.preprocess.data.axolotl_split"
_SPLIT_SECONDS: Final = 3600
_ROWS_OF_ANOTHER: Final = (
    *("name", "data_files", "revision", "shards", "shards_idx", "split", "ds_type"),
    *("preprocess_shards", "trust_remote_code"),
)
"""Keys of an entry that say which rows to read, and not how."""


@dataclass(frozen=True)
class HeldOut:
    """R rows.

    Attributes:
        samples: prompt and response.
        prompts: what a model is asked.
        columns: further columns by name, a value for each row, None where there is none.
        source: where they come from, for people.
    """

    samples: list[Sample]
    prompts: list[Prompt]
    columns: Mapping[str, list[Any]]
    source: str

    @property
    def clusters(self) -> npt.NDArray[np.int64]:
        """(R,) which prompt a row answers, from 0."""
        known: dict[str, int] = {}
        return np.array(
            [known.setdefault(prompt.digest(), len(known)) for prompt in self.prompts],
            dtype=np.int64,
        )

    @property
    def references(self) -> list[str]:
        """(R,) the responses of the data: the last run of trained turns."""
        return [_response(sample) for sample in self.samples]

    def answers(self, settings: AnswersConfig) -> list[str | None]:
        """The right answer of each row, None where it has none.

        Raises:
            ConfigError: there is no such column.
        """
        if settings.column is None:
            return [find_answer(text, settings.pattern) for text in self.references]
        values = self.column(settings.column, "ual.evaluate.answers.column")
        return [
            None if v is None else find_answer(str(v), settings.pattern) or _normalised(str(v))
            for v in values
        ]

    def column(self, name: str, key: str) -> list[Any]:
        """A column of the data.

        Raises:
            ConfigError: there is none of that name; `key` is what names it.
        """
        if name not in self.columns:
            there = ", ".join(f"`{other}`" for other in self.columns) or "none"
            raise ConfigError(
                f"{key}: the held-out data have no column `{name}`", f"there are {there}"
            )
        return self.columns[name]

    def first(self, number: int | None) -> HeldOut:
        """The first rows; None: all."""
        if number is None or number >= len(self.samples):
            return self
        return HeldOut(
            self.samples[:number],
            self.prompts[:number],
            {name: values[:number] for name, values in self.columns.items()},
            f"{self.source}, the first {number:,} rows",
        )


def find_answer(text: str, pattern: str) -> str | None:
    """The answer in a text: the last match, without white space, commas and a last full stop."""
    found = re.findall(pattern, text)
    return _normalised(found[-1]) or None if found else None


def _normalised(answer: str) -> str:
    return " ".join(answer.replace(",", "").split()).rstrip(".")


def _response(sample: Sample) -> str:
    turns = list(sample.turns)
    while turns and not turns[-1].trained:
        turns.pop()
    kept = []
    while turns and turns[-1].trained:
        kept.append(turns.pop().text)
    return "".join(reversed(kept))


def read_heldout(recipe: Recipe, data: Sequence[Path], limit: int | None) -> HeldOut:
    """Find and read the held-out rows.

    Args:
        recipe: names them, unless `data` does.
        data: files with rows like those of the recipe's first dataset.
        limit: the first rows only.

    Raises:
        ConfigError: nothing is held out.
        DataError: rows cannot be read.
    """
    if data:
        entries = [_like_the_first(recipe, path, number) for number, path in enumerate(data)]
        return _read(recipe, entries, "--data").first(limit)
    section = recipe.ual.evaluate
    if section.data is not None:
        raw = {**recipe.raw, "data": section.data}
        entries = read_entries(raw, recipe.path, "data")
        return _read(recipe, entries, "ual.evaluate.data").first(limit)
    if recipe.raw.get("test_datasets"):
        entries = read_entries(recipe.raw, recipe.path, "test_datasets")
        return _read(recipe, entries, "test_datasets").first(limit)
    if recipe.raw.get("val_set_size") and not recipe.raw.get("rl"):
        return _validation_rows(recipe).first(limit)
    raise ConfigError(
        f"{recipe.path}: names no held-out data",
        "name a file with `--data`, or add `ual: {evaluate: {data: [...]}}`, `test_datasets:` or "
        "`val_set_size:` to the recipe",
    )


def _like_the_first(recipe: Recipe, path: Path, number: int) -> Entry:
    """A file that is read as the recipe's first dataset is."""
    first: dict[str, Any] = dict(recipe.entries[0].raw) if recipe.entries else {}
    kept = {key: value for key, value in first.items() if key not in _ROWS_OF_ANOTHER}
    if recipe.raw.get("rl") or not kept.get("type"):
        kept["type"] = "chat_template"
    return Entry(number, {**kept, "path": str(path)}, str(path), kept["type"], path.name)


def _read(recipe: Recipe, entries: Sequence[Entry], where: str) -> HeldOut:
    tables = [load_entry(entry, seed=recipe.seed) for entry in entries]
    labels = ", ".join(entry.label for entry in entries)
    return _held_out(recipe, list(zip(entries, tables, strict=True)), f"{where}: {labels}")


def _held_out(recipe: Recipe, parts: Sequence[tuple[Entry, Dataset]], source: str) -> HeldOut:
    samples: list[Sample] = []
    columns: dict[str, list[Any]] = {}
    for entry, table in parts:
        ours = [name for name in table.column_names if name.startswith(PREFIX)]
        read = read_samples(table.remove_columns(ours), entry, recipe)
        read.check()
        for name in table.column_names:
            columns.setdefault(name, [None] * len(samples)).extend(table[name])
        samples += list(read)
        for values in columns.values():
            values += [None] * (len(samples) - len(values))
    return HeldOut(samples, [prompt_of_sample(sample) for sample in samples], columns, source)


def _validation_rows(recipe: Recipe) -> HeldOut:
    """The rows that Axolotl sets apart from the data that the recipe trains on."""
    if recipe.ual.annotate is None and recipe.ual.annotations is None:
        loaded = [(entry, load_entry(entry, seed=recipe.seed)) for entry in recipe.entries]
    else:
        loaded = annotated_tables(recipe)
    chosen = _ask_axolotl(recipe, loaded)
    parts, start = [], 0
    for entry, table in loaded:
        inside = chosen[(chosen >= start) & (chosen < start + len(table))] - start
        start += len(table)
        if len(inside):
            parts.append((entry, table.select(inside)))
    return _held_out(recipe, parts, f"val_set_size: {recipe.raw['val_set_size']}")


def _ask_axolotl(recipe: Recipe, loaded: Sequence[tuple[Entry, Dataset]]) -> npt.NDArray[np.int64]:
    """Numbers of the rows that Axolotl sets apart, counted over all datasets."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        entries, start = [], 0
        for number, (entry, table) in enumerate(loaded):
            file = folder / f"{number}.parquet"
            ours = [name for name in table.column_names if name.startswith(PREFIX)]
            rows = list(range(start, start + len(table)))
            start += len(table)
            table.remove_columns(ours).add_column("row_number", rows).to_parquet(file)
            kept = {k: v for k, v in entry.raw.items() if k not in _ROWS_OF_ANOTHER}
            entries.append({**kept, "path": str(file), "ds_type": "parquet", "split": "train"})
        raw = {k: v for k, v in recipe.raw.items() if k not in ("plugins", "ual")}
        question = {**raw, "datasets": entries, "dataset_prepared_path": str(folder / "prepared")}
        (folder / "recipe.json").write_text(json.dumps(question), encoding="utf-8")
        run = subprocess.run(
            [sys.executable, "-m", _SPLIT, str(folder / "recipe.json"), str(folder / "rows.json")],
            env={**os.environ, "AXOLOTL_DO_NOT_TRACK": "1"},
            capture_output=True,
            text=True,
            timeout=_SPLIT_SECONDS,
            check=False,
        )
        if not (folder / "rows.json").is_file():
            said = (run.stderr.strip() or run.stdout.strip() or "nothing").splitlines()[-1]
            raise UALError(
                f"{recipe.path}: val_set_size: Axolotl cannot be asked which rows it sets apart: "
                f"{said}",
                "run `axolotl preprocess` on the recipe to see more, or name held-out rows with "
                "`--data`",
            )
        numbers = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
    if not numbers:
        raise DataError(f"{recipe.path}: val_set_size sets no rows apart", "raise it")
    return np.array(sorted(set(numbers)), dtype=np.int64)


def stage_and_uncertainty(
    heldout: HeldOut, entropy: npt.NDArray[np.float64], model: str
) -> tuple[list[Any] | None, npt.NDArray[np.float64], str]:
    """What rows are grouped by without being asked: their stage and their uncertainty.

    Args:
        heldout: the rows.
        entropy: (R,) mean entropy of a model's predictions; the uncertainty of rows that were
            not annotated.
        model: the name of that model.

    Returns:
        Stages or None, uncertainties (R,), and what they are called.
    """
    stages = heldout.columns.get(STAGE)
    values = heldout.columns.get(UNCERTAINTY)
    if values is None:
        return stages, entropy, f"entropy of {model}"
    known = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    return stages, known, "uncertainty"
