"""Reading a dataset from end to end does not leave its file in the memory of the process."""

from __future__ import annotations

import json
import re
from pathlib import Path

import datasets
import numpy as np
import pytest

from axolotl_ual.preprocess.data import rows
from axolotl_ual.preprocess.data.load import in_pieces, load_entry
from axolotl_ual.preprocess.data.recipe import Entry, Recipe
from axolotl_ual.preprocess.data.single_turn import AlpacaFields, alpaca_reader
from axolotl_ual.preprocess.output import folder as output
from axolotl_ual.preprocess.output.folder import float_column, write_parquet
from axolotl_ual.settings.ual import UALConfig

ROWS = 24_000
PIECE = 1_000
FIELDS = AlpacaFields()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    table = datasets.Dataset.from_dict(
        {"instruction": [f"{i} " * 100 for i in range(ROWS)], "output": ["a" * 600] * ROWS}
    )
    table.save_to_disk(folder)
    return folder


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    def pieces(table: datasets.Dataset, _rows: int = 0) -> object:
        return in_pieces(table, PIECE)

    monkeypatch.setattr(rows, "in_pieces", pieces)
    monkeypatch.setattr(output, "in_pieces", pieces)


def entry_of(folder: Path, **raw: object) -> Entry:
    raw = {"path": str(folder), "type": "alpaca", **raw}
    return Entry(0, raw, str(folder), "alpaca", folder.name)


def file_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.arrow"))


def bytes_in_memory(folder: Path) -> int:
    """Of the files of a saved dataset, as mapped by this process."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            ours = f"{folder}/" in line
        elif line.startswith("Rss:") and ours:
            total += int(line.split()[1]) * 1024
    return total


def test_samples_leave_the_pages_of_rows_that_were_read(saved: Path) -> None:
    samples = rows.Samples(load_entry(entry_of(saved), 0), entry_of(saved), alpaca_reader(FIELDS))
    most = 0
    for number, sample in enumerate(samples):
        assert sample.turns[-1].text == "a" * 600
        if number % PIECE == PIECE - 1:
            most = max(most, bytes_in_memory(saved))
    assert 0 < most < file_bytes(saved) / 3


def test_writing_leaves_the_pages_of_rows_that_were_written(saved: Path, tmp_path: Path) -> None:
    table = load_entry(entry_of(saved), 0)
    column = float_column(np.arange(ROWS) / ROWS)
    write_parquet(tmp_path / "train.parquet", table, {"ual_uncertainty": column})
    assert bytes_in_memory(saved) < file_bytes(saved) / 3
    written = datasets.Dataset.from_parquet(str(tmp_path / "train.parquet"), cache_dir=tmp_path)
    assert written["instruction"][:] == table["instruction"][:]


@pytest.mark.parametrize("size", [1, 999, 1000, 1001, ROWS, ROWS + 1])
@pytest.mark.parametrize("raw", [{}, {"shards": 3, "shards_idx": 1}])
def test_pieces_are_the_rows_in_order(saved: Path, size: int, raw: dict[str, int]) -> None:
    table = load_entry(entry_of(saved, **raw), 7).select(range(2_100))
    pieces = list(in_pieces(table, size))
    assert {len(piece) for piece in pieces[:-1]} <= {size}
    texts = [text for piece in pieces for text in piece["instruction"]]
    assert texts == table["instruction"][:]


def test_rows_that_lie_in_memory_are_not_copied() -> None:
    table = datasets.Dataset.from_dict({"n": list(range(2_500))})
    first = next(in_pieces(table, PIECE))
    ours, theirs = (part.data.column("n").chunk(0).buffers()[1] for part in (first, table))
    assert ours is not None
    assert theirs is not None
    assert ours.address == theirs.address


def anonymous_memory() -> int:
    """Bytes of this process that no file backs."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def test_reading_samples_takes_no_memory_that_grows_with_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    # 100,000 rows of 1 kB are 100 MB; a batch of 1,000 is 1 MB.
    line = json.dumps({"instruction": "a" * 500, "output": "b" * 500}) + "\n"
    (tmp_path / "a.jsonl").write_text(line * 100_000)
    entry = entry_of(tmp_path / "a.jsonl")
    recipe = Recipe(Path("r.yaml"), {}, None, 42, UALConfig(), [entry])
    samples = rows.read_samples(load_entry(entry, seed=42), entry, recipe)
    samples[0]
    before = anonymous_memory()
    samples.check()
    assert sum(1 for _ in samples) == 100_000
    assert anonymous_memory() - before < 30e6
