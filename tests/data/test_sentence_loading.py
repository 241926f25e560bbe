"""Sentences through Axolotl's loading of datasets, and data whose sentences cannot be used."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

import tiny
from axolotl_ual.columns import MANIFEST_FILE
from axolotl_ual.data.carry import carrying
from axolotl_ual.data.fingerprint import file_digest
from axolotl_ual.data.shared import SharedAnnotations
from axolotl_ual.errors import DataError, UnsupportedError
from axolotl_ual.settings.annotations import AnnotationsConfig
from axolotl_ual.settings.sentence_rules import of_sentences
from axolotl_ual.settings.ual import parse_ual
from output_folders import shared_settings, write_annotated
from reference.sentences import columns

SCORED = columns([[("a. ", 0.5), ("b", 0.25)]])
UNSCORED = {"ual_smoothing": 0.125, "ual_sentences": None}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny.make_tokenizer(Path(tmp_path_factory.mktemp("tokenizer")))


def load(
    folder: Path,
    tokenizer: Any,
    rows: list[dict[str, Any]],
    kind: Any = "alpaca",
    suffix: str = "parquet",
    refuse: Callable[[str], Any] = lambda _: None,
    **settings: Any,
) -> Dataset:
    """One entry through Axolotl's own loading, with the columns carried."""
    from axolotl.utils.data import sft
    from axolotl.utils.dict import DictDefault

    path = tiny.write_rows(folder / f"data.{suffix}", rows)
    ds_type = {"parquet": "parquet", "jsonl": "json"}[suffix]
    entry = DictDefault({"path": str(path), "type": kind, "ds_type": ds_type})
    cfg = DictDefault({"sequence_len": 64, "dataset_num_proc": 1, "seed": 0, **settings})
    with carrying(refuse=refuse):
        dataset, _ = sft._load_and_process_single_dataset(
            dataset_config=entry, cfg=cfg, tokenizer=tokenizer, split="train", seed=0
        )
    return dataset


def alpaca(ours: dict[str, Any], output: str = "a. b") -> dict[str, Any]:
    return {"instruction": "i", "output": output, **ours}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
@pytest.mark.parametrize("processes", [1, 2])
def test_the_first_rows_may_have_none(
    tmp_path: Path, tokenizer: Any, suffix: str, processes: int
) -> None:
    """More of them than `datasets` writes at a time, by which it takes the type of a column."""
    rows = [alpaca(UNSCORED)] * 1001 + [alpaca(SCORED)] * 2
    made = load(tmp_path, tokenizer, rows, suffix=suffix, dataset_num_proc=processes)
    assert set(made.column_names) == {
        *("input_ids", "attention_mask", "labels"),
        *("ual_smoothing", "ual_token_smoothing"),
    }
    assert made[0]["ual_token_smoothing"] == made[1000]["ual_token_smoothing"] == []
    # a . and white space, b and the end.
    assert made[1002]["ual_token_smoothing"][-5:] == [0.5, 0.5, 0.5, 0.25, 0.25]
    assert len(made[1002]["ual_token_smoothing"]) == len(made[1002]["input_ids"])


@pytest.mark.slow
def test_a_row_is_named_by_its_number(tmp_path: Path, tokenizer: Any) -> None:
    rows = [alpaca(SCORED), alpaca(SCORED), alpaca(SCORED, "a. bc")]
    with pytest.raises(DataError, match=r"data\.parquet`, row 2: .* write 4 .* have 3.*'a. bc'"):
        load(tmp_path, tokenizer, rows)


@pytest.mark.slow
def test_no_row_has_sentences(tmp_path: Path, tokenizer: Any) -> None:
    made = load(tmp_path, tokenizer, [alpaca(UNSCORED)] * 2)
    assert "ual_token_smoothing" not in made.column_names
    assert "ual_sentences" not in made.column_names


def test_rows_that_are_tokenised_already(tmp_path: Path, tokenizer: Any) -> None:
    row = {"input_ids": [1, 2], "attention_mask": [1, 1], "labels": [1, 2], **SCORED}
    with pytest.raises(UnsupportedError, match=r"data\.parquet` has the column `ual_sentences`, a"):
        load(tmp_path, tokenizer, [row])
    made = load(tmp_path, tokenizer, [{**row, "ual_sentences": None}])
    assert "ual_sentences" not in made.column_names


@pytest.mark.parametrize(
    ("recipe", "shown"),
    [
        ({"reward_model": True}, "has a loss of pairs"),
        ({"skip_prepare_dataset": True}, "processor"),
    ],
)
def test_a_recipe_that_cannot_use_them(
    tmp_path: Path, tokenizer: Any, recipe: dict[str, Any], shown: str
) -> None:
    refuse = partial(of_sentences, recipe, parse_ual(None))
    with pytest.raises(UnsupportedError, match=rf"data\.parquet` has the column .*{shown}"):
        load(tmp_path, tokenizer, [alpaca(SCORED)], refuse=refuse, **recipe)


@pytest.mark.parametrize("packed", [False, True])
def test_rows_that_are_streamed(tmp_path: Path, tokenizer: Any, packed: bool) -> None:
    from axolotl.utils.data import sft
    from axolotl.utils.dict import DictDefault

    path = tiny.write_rows(tmp_path / "data.parquet", [alpaca(SCORED)] * 4)
    entry = {"type": "alpaca", "split": "train", "path": str(path), "ds_type": "parquet"}
    if packed:
        entry.update({"path": "parquet", "data_files": str(path)})
    recipe = {"streaming": True, "datasets": [entry], "sample_packing": packed, "sequence_len": 64}
    cfg = DictDefault({**recipe, "seed": 0, "micro_batch_size": 1})
    refuse = partial(of_sentences, recipe, parse_ual(None))
    with (
        pytest.raises(UnsupportedError, match=r"data\.parquet` has .* streamed \(`streaming`\)"),
        carrying(refuse=refuse),
    ):
        sft._prepare_streaming_dataset(cfg, tokenizer, None)


def shared(folder: Path) -> Path:
    """Annotations of two datasets, of which the first has sentences."""
    rows = {
        name: pa.Table.from_pylist(
            [{"instruction": f"{name}{n}", "output": "a. b"} for n in range(2)]
        )
        for name in ("first", "second")
    }
    uncertainty = {name: [0.0, 1.0] for name in rows}
    write_annotated(folder, rows, uncertainty, settings=shared_settings())
    path = folder / "first.parquet"
    table = pq.read_table(path)
    kind = pa.list_(
        pa.struct({"end": pa.int32(), "uncertainty": pa.float32(), "smoothing": pa.float32()})
    )
    given = [SCORED["ual_sentences"], None]
    pq.write_table(table.append_column("ual_sentences", pa.array(given, kind)), path)
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    manifest["sources"][0]["file"]["sha256"] = file_digest(path)
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    return folder


def test_sentences_of_others_are_joined_to_their_rows(tmp_path: Path) -> None:
    joined = SharedAnnotations(AnnotationsConfig(name=str(shared(tmp_path / "shared"))), mean=0.1)
    names = ["second1", "first0", "nobody", "first1"]
    mine = Dataset.from_list([{"instruction": name, "output": "a. b"} for name in names])
    found = joined.join(mine, "mine").dataset
    assert found["ual_sentences"][:] == [None, SCORED["ual_sentences"], None, None]
