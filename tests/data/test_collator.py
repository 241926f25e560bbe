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


@pytest.mark.parametrize("name", ["", "V2BatchSampler", "Flattening"])
def test_tokens_of_sentences_have_a_smoothing_each(tokenizer: Any, name: str) -> None:
    """Beside a row that is smoothed as a whole, and one that was cut after it was tokenised."""
    from axolotl.utils import collators
    from transformers import DataCollatorWithFlattening

    rows: list[Any] = [
        row(FIRST, ual_token_smoothing=[0.25, 0.125, 0.75], position_ids=[0, 1, 2]),
        row(SECOND, ual_token_smoothing=[0.5, 0.375, 1.0, 1.0], position_ids=[0, 1]),
        row(SECOND, ual_token_smoothing=None, position_ids=[0, 1]),
        row(SECOND, ual_token_smoothing=[], position_ids=[0, 1]),
    ]
    if name == "Flattening":
        base = DataCollatorWithFlattening(return_tensors="pt")
        expected = [[0.0, 0.125, 0.75, 0.0, 0.375, 0.0, 0.5, 0.0, 0.5]]
    elif name:
        base = getattr(collators, f"{name}DataCollatorForSeq2Seq")(tokenizer)
        rows = [rows[:2], rows[2:]]
        expected = [[0.25, 0.125, 0.75, 0.5, 0.375], [0.5, 0.5, 0.5, 0.5, 0.0]]
    else:
        base = collators.DataCollatorForSeq2Seq(tokenizer)
        expected = [[0.25, 0.125, 0.75], [0.5, 0.375, 0.0], [0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]
    assert smoothing(SmoothingCollator(base)(rows)) == expected


def test_too_few_smoothings_stop() -> None:
    with pytest.raises(DataError, match="holds 2 numbers for a row of 3 tokens"):
        SmoothingCollator(list)([row(FIRST, ual_token_smoothing=[0.25, 0.125])])


@pytest.mark.parametrize("name", ["", "V2BatchSampler", "Flattening"])
def test_each_token_tells_which_row_it_is_of(tokenizer: Any, name: str) -> None:
    """Rows of any numbers: a place is counted in the batch."""
    from axolotl.utils import collators
    from transformers import DataCollatorWithFlattening

    rows: list[Any] = [row(FIRST, ual_row=70), row(SECOND, ual_row=5), row(SECOND, ual_row=5)]
    if name == "Flattening":
        base = DataCollatorWithFlattening(return_tensors="pt")
        # What separates samples is not trained, whatever it is of.
        expected = [[-100, 0, 0, -100, 1, -100, 2]]
    elif name:
        base = getattr(collators, f"{name}DataCollatorForSeq2Seq")(tokenizer)
        rows, expected = [rows[:2], rows[2:]], [[0, 0, 0, 1, 1], [2, 2, -100, -100, -100]]
    else:
        base, expected = collators.DataCollatorForSeq2Seq(tokenizer), [[0, 0, 0]]
        expected += [[1, 1, -100], [2, 2, -100]]
    batch = SmoothingCollator(base)(rows)
    assert batch["ual_place"].tolist() == expected
    assert batch["ual_place"].shape == batch["labels"].shape


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


KEPT = {
    "ual_reference_ids": [31, 32, 33, 34],
    "ual_reference_logprobs": [-0.5, -1.5, -0.25, -2.0],
}
"""Two tokens for each of the two trained tokens of `FIRST`."""
NOTHING: dict[str, Any] = {"ual_reference_ids": [], "ual_reference_logprobs": []}


def kept(batch: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """Tokens and log-probabilities of the places that have any."""
    ids, bits = batch["ual_reference_ids"], batch["ual_reference_logprobs"]
    assert ids.dtype == bits.dtype == torch.int32
    assert ids.shape == bits.shape == (*batch["labels"].shape, ids.shape[-1])
    logprobs = decode_smoothing(bits)
    there = logprobs[..., 0] > -torch.inf
    places = [[int(x) for x in place] for place in there.nonzero()]
    return places, [ids[there].tolist(), logprobs[there].tolist()]


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_prediction_of_a_reference_goes_where_its_token_goes(tokenizer: Any, side: str) -> None:
    from axolotl.utils.collators import DataCollatorForSeq2Seq

    tokenizer.padding_side = side
    try:
        collate = SmoothingCollator(DataCollatorForSeq2Seq(tokenizer, pad_to_multiple_of=4))
        second = row(SECOND, ual_reference_ids=[41, 42], ual_reference_logprobs=[-1.0, -3.0])
        unsmoothed = row({**SECOND, "ual_smoothing": 0.0}, **NOTHING)
        batch = collate([row(FIRST, **KEPT), unsmoothed, second])
    finally:
        tokenizer.padding_side = "right"
    # 3 and 2 tokens in 4 places; the first of each row is not trained.
    places = [[0, 1], [0, 2], [2, 1]] if side == "right" else [[0, 2], [0, 3], [2, 3]]
    values = [[[31, 32], [33, 34], [41, 42]], [[-0.5, -1.5], [-0.25, -2.0], [-1.0, -3.0]]]
    assert kept(batch) == (places, values)
    bits = decode_smoothing(batch["ual_smoothing"])
    assert [bits[tuple(place)].item() for place in places] == [0.25, 0.25, 0.5]
    assert bits.count_nonzero() == 3


def test_the_prediction_of_a_reference_in_bins(tokenizer: Any) -> None:
    """The first token of a packed row is predicted by another row, which no reference saw."""
    from axolotl.utils.collators import V2BatchSamplerDataCollatorForSeq2Seq

    collate = SmoothingCollator(V2BatchSamplerDataCollatorForSeq2Seq(tokenizer))
    trained = {"input_ids": [21, 22], "labels": [21, 22], "ual_smoothing": 0.5}
    second = row(
        trained,
        ual_reference_ids=[41, 42],
        ual_reference_logprobs=[-1.0, -3.0],
        position_ids=[0, 1],
    )
    batch = collate([[row(FIRST, **KEPT, position_ids=[0, 1, 2]), second], [second]])
    places, values = kept(batch)
    assert places == [[0, 1], [0, 2], [0, 4], [1, 1]]
    assert values[0] == [[31, 32], [33, 34], [41, 42], [41, 42]]
    assert batch["labels"].tolist()[0] == [-100, 12, 13, 21, 22]
    assert smoothing(batch)[0] == [0.0, 0.25, 0.25, 0.0, 0.5]


def test_a_batch_in_which_nothing_is_smoothed(tokenizer: Any) -> None:
    from axolotl.utils.collators import DataCollatorForSeq2Seq

    collate = SmoothingCollator(DataCollatorForSeq2Seq(tokenizer))
    assert kept(collate([row({**FIRST, "ual_smoothing": 0.0}, **NOTHING)])) == ([], [[], []])


def test_predictions_of_other_data(tokenizer: Any) -> None:
    from axolotl.utils.collators import DataCollatorForSeq2Seq

    collate = SmoothingCollator(DataCollatorForSeq2Seq(tokenizer))
    short = {name: values[:3] for name, values in KEPT.items()}
    with pytest.raises(DataError, match="holds 3 tokens for 2 places"):
        collate([row(FIRST, **short)])
