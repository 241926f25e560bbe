from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from held_out import ROWS, make_world, write_recipe

from axolotl_ual.errors import UALError
from axolotl_ual.preprocess.data.annotated_tables import annotated_tables
from axolotl_ual.preprocess.data.recipe import load_recipe
from axolotl_ual.preprocess.evaluation.heldout import read_heldout
from output_folders import shared_settings, write_annotated
from tiny import write_rows

AXOLOTL = """
import json, sys, yaml
from axolotl.common import datasets
from axolotl.utils.config import normalize_cfg_datasets, normalize_config, validate_config
from axolotl.utils.dict import DictDefault
from transformers import AutoTokenizer

config = validate_config(DictDefault(yaml.safe_load(open("recipe.yaml"))))
normalize_config(config)
normalize_cfg_datasets(config)
loaded = datasets.load_datasets(cfg=config)
tokenizer = AutoTokenizer.from_pretrained("base")
texts = [tokenizer.decode(row["input_ids"]) for row in loaded.eval_dataset]
json.dump(texts, open("texts.json", "w"))
"""


@pytest.mark.slow
def test_the_rows_are_those_that_axolotl_sets_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_world(tmp_path)
    monkeypatch.chdir(tmp_path)
    # Two datasets are merged and shuffled; the long row is dropped before the split.
    long = {"messages": [*ROWS[0]["messages"] * 40], "kind": "long"}
    write_rows(tmp_path / "more.jsonl", [long, *ROWS[:4]])
    entries = [
        {"path": str(tmp_path / name), "type": "chat_template"}
        for name in ("held-out.jsonl", "more.jsonl")
    ]
    # Annotations of all rows but the long one lie elsewhere, in another order: they are joined.
    annotated = list(reversed(ROWS))
    uncertainty = np.linspace(0, 1, len(ROWS), dtype=np.float32)
    write_annotated(
        tmp_path / "shared",
        {"train": pa.Table.from_pylist(annotated)},
        {"train": uncertainty},
        settings=shared_settings(),
    )
    evaluate = {"output": "results", "cache": "cache", "device": "cpu"}
    write_recipe(
        tmp_path,
        tmp_path / "held-out.jsonl",
        test_datasets=None,
        val_set_size=0.25,
        datasets=entries,
        ual={"evaluate": evaluate, "annotations": str(tmp_path / "shared")},
    )
    heldout = read_heldout(load_recipe("recipe.yaml"), (), None)
    subprocess.run([sys.executable, "-c", AXOLOTL], check=True, capture_output=True)
    theirs = json.loads(Path("texts.json").read_text())
    ours = [
        "".join(f"<|{turn.role}|>\n{turn.text}</s>\n" for turn in sample.turns)
        for sample in heldout.samples
    ]
    assert sorted(ours) == sorted(theirs) and len(ours) == 6
    assert heldout.source == "val_set_size: 0.25"
    assert set(heldout.columns["kind"]) <= {"small", "large"}
    questions = [row["messages"][0]["content"] for row in annotated]
    asked = [sample.turns[0].text for sample in heldout.samples]
    known = [uncertainty[questions.index(question)] for question in asked]
    assert heldout.columns["ual_uncertainty"] == known


@pytest.mark.parametrize(("on_missing", "rows"), [("mean", 20), ("drop", 15)])
def test_rows_of_others_annotations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_missing: str, rows: int
) -> None:
    """Of 20 rows 15 are annotated."""
    monkeypatch.chdir(tmp_path)
    data = write_rows(tmp_path / "rows.jsonl", ROWS)
    write_annotated(
        tmp_path / "shared",
        {"train": pa.Table.from_pylist(ROWS[5:])},
        {"train": np.linspace(0, 1, 15)},
        settings=shared_settings(),
    )
    annotations = {"name": "shared", "on_missing": on_missing}
    entry = {"path": str(data), "type": "chat_template"}
    write_recipe(tmp_path, data, datasets=[entry], ual={"annotations": annotations})
    ((_, table),) = annotated_tables(load_recipe("recipe.yaml"))
    assert table["level"][:] == [row["level"] for row in ROWS][-rows:]
    assert table["ual_uncertainty"][-15:] == np.linspace(0, 1, 15, dtype=np.float32).tolist()
    assert table["ual_smoothing"][: rows - 15] == [np.float32(0.1)] * (rows - 15)


@pytest.mark.slow
def test_axolotl_says_why_it_cannot_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_world(tmp_path)
    monkeypatch.chdir(tmp_path)
    write_recipe(
        tmp_path,
        tmp_path / "held-out.jsonl",
        test_datasets=None,
        val_set_size=0.25,
        micro_batch_size="many",
    )
    with pytest.raises(UALError, match="val_set_size: Axolotl cannot be asked"):
        read_heldout(load_recipe("recipe.yaml"), (), None)
