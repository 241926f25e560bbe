"""Smoothing through each collator that Axolotl may choose, with numbers to check by eye."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from axolotl_ual.data.collator import SmoothingCollator
from axolotl_ual.errors import DataError
from axolotl_ual.losses.encoding import decode_smoothing

FIRST = {"input_ids": [11, 12, 13], "labels": [-100, 12, 13], "ual_smoothing": 0.25}
SECOND = {"input_ids": [21, 22], "labels": [-100, 22], "ual_smoothing": 0.5}


def row(source: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**source, "attention_mask": [1] * len(source["input_ids"]), **more}


def smoothing(batch: dict[str, Any]) -> list[Any]:
    bits = batch["ual_smoothing"]
    assert bits.dtype == torch.int32
    assert bits.shape == batch["labels"].shape
    return decode_smoothing(bits).tolist()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny.make_tokenizer(Path(tmp_path_factory.mktemp("tokenizer")))


def test_padding_gets_no_smoothing(tokenizer: Any) -> None:
    from axolotl.utils.collators import DataCollatorForSeq2Seq

    collate = SmoothingCollator(DataCollatorForSeq2Seq(tokenizer, pad_to_multiple_of=4))
    batch = collate([row(FIRST), row(SECOND)])
    assert batch["labels"].tolist() == [[-100, 12, 13, -100], [-100, 22, -100, -100]]
    assert smoothing(batch) == [[0.25, 0.25, 0.25, 0.0], [0.5, 0.5, 0.0, 0.0]]
    assert batch["input_ids"].tolist()[1] == [21, 22, *[tokenizer.pad_token_id] * 2]


def test_padding_on_the_left(tokenizer: Any) -> None:
    from axolotl.utils.collators import DataCollatorForSeq2Seq

    tokenizer.padding_side = "left"
    try:
        batch = SmoothingCollator(DataCollatorForSeq2Seq(tokenizer))([row(FIRST), row(SECOND)])
    finally:
        tokenizer.padding_side = "right"
    assert batch["labels"].tolist() == [[-100, 12, 13], [-100, -100, 22]]
    assert smoothing(batch) == [[0.25, 0.25, 0.25], [0.0, 0.5, 0.5]]


@pytest.mark.parametrize("name", ["V2Batch", "Batch"])
def test_packed_bins(tokenizer: Any, name: str) -> None:
    from axolotl.utils import collators

    base = getattr(collators, f"{name}SamplerDataCollatorForSeq2Seq")(tokenizer)
    rows = [row(FIRST, position_ids=[0, 1, 2], length=3), row(SECOND, position_ids=[0, 1])]
    batch = SmoothingCollator(base)([rows, [row(SECOND, position_ids=[0, 1])]])
    assert batch["labels"].tolist() == [[-100, 12, 13, -100, 22], [-100, 22, -100, -100, -100]]
    assert smoothing(batch) == [[0.25, 0.25, 0.25, 0.5, 0.5], [0.5, 0.5, 0.0, 0.0, 0.0]]
    # One bin alone comes as a flat list of rows.
    assert smoothing(SmoothingCollator(base)(rows)) == [[0.25, 0.25, 0.25, 0.5, 0.5]]


def test_flattening() -> None:
    from transformers import DataCollatorWithFlattening

    collate = SmoothingCollator(DataCollatorWithFlattening(return_tensors="pt"))
    batch = collate([row(FIRST), row(SECOND)])
    assert batch["labels"].tolist() == [[-100, 12, 13, -100, 22]]
    # Each sample's first token is a separator: untrained, so its smoothing is of no account.
    assert smoothing(batch) == [[0.0, 0.25, 0.25, 0.0, 0.5]]


def test_evaluation_leaves_all_our_columns_out() -> None:
    seen: list[Any] = []
    SmoothingCollator(seen.extend, keep=False)([row(FIRST, ual_stage="moderate")])
    assert seen == [row({key: FIRST[key] for key in ("input_ids", "labels")})]


def test_rows_without_smoothing_pass_untouched() -> None:
    plain = row({"input_ids": [1], "labels": [1]})
    assert SmoothingCollator(list)([plain]) == [plain]


def test_rows_are_not_changed_in_place() -> None:
    mine = row(FIRST)
    SmoothingCollator(lambda rows: {"labels": torch.tensor([rows[0]["labels"]])})([mine])
    assert mine == row(FIRST)


def test_a_mixed_batch_stops() -> None:
    with pytest.raises(DataError, match="with and without `ual_smoothing`"):
        SmoothingCollator(list)([row(FIRST), {"input_ids": [1], "labels": [1]}])
