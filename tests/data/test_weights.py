"""Weights of rows and of messages: from the user's data to one for each token of a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

import tiny
from axolotl_ual.data.carry import carrying
from axolotl_ual.data.collator import SmoothingCollator
from axolotl_ual.data.streamed import StreamedStrategy
from axolotl_ual.data.weights import check_source, own_column, weigher, with_weights
from axolotl_ual.errors import AnnotationError, DataError, UALError, UnsupportedError
from axolotl_ual.losses.encoding import decode_smoothing
from axolotl_ual.settings.loss import LossConfig, WeightConfig

ENTRY = {"path": "rows.jsonl", "type": "alpaca"}


def weight(given: Any) -> WeightConfig:
    found = LossConfig(weight=given).weight
    assert found is not None
    return found


def rows(**columns: list[Any]) -> Dataset:
    return Dataset.from_dict(columns)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny.make_tokenizer(Path(tmp_path_factory.mktemp("tokenizer")))


def test_a_column_as_it_is() -> None:
    dataset, line = with_weights(rows(ual_weighed_by=[2, 0, 0.5]), weight("w"))
    assert dataset["ual_weight"][:] == [2.0, 0.0, 0.5]
    assert dataset.features["ual_weight"].dtype == "float32"
    assert dataset.column_names == ["ual_weight"]
    assert line == (
        "ual.loss.weight: w: 3 training rows weigh 0 to 2, 0.8333 on average"  # 2.5 / 3
    )


def test_a_number_that_is_mapped() -> None:
    # 1 at 0 and 0.2 at 1: 0.6 in the middle; what has no uncertainty gets (1 + 0.6 + 0.2) / 3.
    config = weight({"from": "uncertainty", "at_1": 0.2})
    dataset, line = with_weights(rows(ual_uncertainty=[0.0, 0.5, None, 1.0]), config)
    assert dataset["ual_weight"][:] == pytest.approx([1.0, 0.6, 0.6, 0.2])
    assert line.endswith("; 1 of them, without a value, the mean of the others")
    assert "ual_uncertainty" in dataset.column_names


def test_which_column_is_carried() -> None:
    assert own_column(weight("w")) == {"ual_weighed_by": "w"}
    assert own_column(weight("uncertainty")) == {}
    assert own_column(weight({"message": "w"})) == {}
    assert own_column(None) == {}


@pytest.mark.parametrize(
    ("given", "values", "said"),
    [
        ("w", [1.0, -0.5], "row 1: `w` is -0.5"),
        ("w", [float("nan"), 1.0], "row 0: `w` is nan"),
        ("w", [1.0, float("inf")], "row 1: `w` is inf"),
        ("w", [1.0, 1e39], "row 1: `w` is 1e+39"),
        ("w", [None, 1.0], "row 0: `w` is None"),
        ("w", ["1", "2"], "row 0: `w` is '1'"),
        ("w", [True, False], "row 0: `w` is True"),
        (
            {"from": "w"},
            [0.5, 1.5],
            "row 1: `w` is 1.5, and `ual.loss.weight.from: w` needs a numb",
        ),
    ],
)
def test_a_wrong_weight_is_named_by_file_and_row(given: Any, values: list[Any], said: str) -> None:
    config = weight(given)
    with pytest.raises(DataError) as caught:
        check_source(rows(w=values), config, ENTRY)
    assert f"datasets: `rows.jsonl`, {said}" in caught.value.problem
    with pytest.raises(DataError, match="training row"):
        with_weights(rows(ual_weighed_by=values), config)


@pytest.mark.parametrize(
    ("values", "said"),
    [([0, 0], "all 2 training rows weigh 0, so nothing"), ([3, 3], "all 2 training rows weigh 3")],
)
def test_a_weight_without_an_effect(values: list[int], said: str) -> None:
    with pytest.raises(DataError) as caught:
        with_weights(rows(ual_weighed_by=values), weight("w"))
    assert said in caught.value.problem


def test_a_column_that_is_not_there() -> None:
    with pytest.raises(AnnotationError, match=r"rows.jsonl` has no column `w`"):
        check_source(rows(v=[1]), weight("w"), ENTRY)
    with pytest.raises(AnnotationError, match="have no column `w`"):
        with_weights(rows(v=[1]), weight("w"))
    with pytest.raises(AnnotationError, match="prepared without weights"):
        with_weights(rows(labels=[[1]]), weight({"message": "w"}))


FIRST = {"input_ids": [11, 12, 13], "labels": [-100, 12, 13], "ual_smoothing": 0.25}
SECOND = {"input_ids": [21, 22], "labels": [-100, 22], "ual_smoothing": 0.5}


def row(source: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**source, "attention_mask": [1] * len(source["input_ids"]), **more}


def weights(batch: dict[str, Any]) -> list[Any]:
    assert batch["ual_weight"].dtype == torch.int32
    assert batch["ual_weight"].shape == batch["labels"].shape
    found: list[Any] = decode_smoothing(batch["ual_weight"]).tolist()
    return found


def test_padding_weighs_nothing(tokenizer: Any) -> None:
    from axolotl.utils.collators import DataCollatorForSeq2Seq

    collate = SmoothingCollator(DataCollatorForSeq2Seq(tokenizer, pad_to_multiple_of=4))
    batch = collate([row(FIRST, ual_weight=1.5), row(SECOND, ual_weight=0.0)])
    assert weights(batch) == [[1.5, 1.5, 1.5, 0.0], [0.0, 0.0, 0.0, 0.0]]
    assert batch["labels"].tolist() == [[-100, 12, 13, -100], [-100, 22, -100, -100]]
    assert decode_smoothing(batch["ual_smoothing"])[1].tolist() == [0.5, 0.5, 0.0, 0.0]


def test_weights_of_tokens_in_bins(tokenizer: Any) -> None:
    from axolotl.utils.collators import V2BatchSamplerDataCollatorForSeq2Seq

    first = row(FIRST, position_ids=[0, 1, 2], ual_weight=[1.0, 2.0, 0.5])
    # The end of a row may have been cut off since its weights were written.
    second = row(SECOND, position_ids=[0, 1], ual_weight=[3.0, 0.125, 9.0])
    collate = SmoothingCollator(V2BatchSamplerDataCollatorForSeq2Seq(tokenizer))
    batch = collate([[first, second], [second]])
    assert weights(batch) == [[1.0, 2.0, 0.5, 3.0, 0.125], [3.0, 0.125, 0.0, 0.0, 0.0]]
    assert batch["labels"].tolist()[0] == [-100, 12, 13, -100, 22]


TURNS = [
    {"role": "system", "content": "Be brief.", "weight": None},
    {"role": "user", "content": "Hi", "weight": None},
    {"role": "assistant", "content": "Hello", "weight": 0.25},
    {"role": "user", "content": "Why?", "weight": None},
    {"role": "assistant", "content": "So", "weight": 2.0},
    {"role": "user", "content": "And?", "weight": None},
    {"role": "assistant", "content": "Then", "weight": None},
]


def load(
    folder: Path, tokenizer: Any, chats: list[Any], streaming: bool = False, **entry: Any
) -> Any:
    """Chats through Axolotl's own loading."""
    from axolotl.utils.data import sft
    from axolotl.utils.dict import DictDefault

    data = [{"messages": turns, "ual_smoothing": 0.1} for turns in chats]
    path = tiny.write_rows(folder / "data.jsonl", data)
    settings = {"path": str(path), "type": "chat_template", "ds_type": "json", **entry}
    cfg = DictDefault({"sequence_len": 64, "dataset_num_proc": 1, "seed": 0})
    with carrying(weigh=weigher(weight({"message": "weight"})), stream=StreamedStrategy):
        dataset, _ = sft._load_and_process_single_dataset(
            dataset_config=DictDefault(settings),
            cfg=cfg,
            tokenizer=tokenizer,
            split="train",
            seed=0,
            streaming=streaming,
        )
    return dataset


@pytest.mark.slow
@pytest.mark.parametrize(
    "entry",
    [
        {"roles_to_train": ["assistant"], "train_on_eos": "turn"},
        {"roles_to_train": ["assistant"], "train_on_eos": "all"},
        {"roles_to_train": ["assistant"], "drop_system_message": True},
        {"message_field_training": "train", "roles_to_train": ["assistant", "user"]},
    ],
    ids=["eos of a turn", "eos of all", "without the system message", "users as well"],
)
def test_messages_of_a_chat(tmp_path: Path, tokenizer: Any, entry: dict[str, Any]) -> None:
    """Each trained token has the weight of the message whose text, or end, it is."""
    dataset = load(tmp_path, tokenizer, [TURNS, TURNS[:3]], **entry)
    _, line = with_weights(dataset, weight({"message": "weight"}))
    assert "trained tokens weigh 0.25 to 2" in line
    found: dict[float, list[int]] = {}
    ids, labels, given = (dataset[0][key] for key in ("input_ids", "labels", "ual_weight"))
    assert len(ids) == len(labels) == len(given)
    for label, one in zip(labels, given, strict=True):
        if label != -100:
            found.setdefault(one, []).append(label)
    said = {value: tokenizer.decode(tokens) for value, tokens in found.items()}
    assert "Hello" in said[0.25]
    assert "So" in said[2.0]
    assert "Then" in said[1.0]
    for value, name in ((0.25, "Hello"), (2.0, "So")):
        assert set(said[value].replace("</s>", "").strip()) == set(name)
    ends = said[0.25].count("</s>"), said[2.0].count("</s>")
    assert ends == (1, 1)


@pytest.mark.slow
def test_a_wrong_weight_of_a_message(tmp_path: Path, tokenizer: Any) -> None:
    wrong = [*TURNS[:2], {"role": "assistant", "content": "Hello", "weight": -1.0}]
    with pytest.raises(DataError, match=r"data\.jsonl`, row 1, message 2: `weight` is -1.0"):
        load(tmp_path, tokenizer, [TURNS, wrong])


@pytest.mark.slow
def test_messages_of_streamed_chats(tmp_path: Path, tokenizer: Any) -> None:
    """Those of chats that are read before; a wrong one stops when its row comes by."""
    wrong = [*TURNS[:2], {"role": "assistant", "content": "Hello", "weight": -1.0}]
    before = load(tmp_path / "before", tokenizer, [TURNS, TURNS[:3]])
    stream = load(tmp_path / "stream", tokenizer, [TURNS, TURNS[:3]], streaming=True)
    for row, streamed in zip(before, stream, strict=True):
        for key in ("input_ids", "labels", "ual_weight", "ual_smoothing"):
            assert streamed[key] == row[key], key
    with pytest.raises(DataError, match=r"data\.jsonl`, a row, message 2: `weight` is -1.0"):
        next(iter(load(tmp_path / "wrong", tokenizer, [wrong], streaming=True)))


def test_a_strategy_that_knows_no_messages() -> None:
    weigh = weigher(weight({"message": "w"}))
    assert weigh is not None
    with pytest.raises(UALError) as caught:
        weigh(object(), rows(w=[1]), ENTRY)
    assert isinstance(caught.value, UnsupportedError)
    assert "type `alpaca` of `rows.jsonl` does not tell" in caught.value.problem


@pytest.mark.slow
def test_data_without_smoothing_where_none_is_asked_for(tmp_path: Path, tokenizer: Any) -> None:
    from axolotl.utils.data import sft
    from axolotl.utils.dict import DictDefault

    path = tiny.write_rows(tmp_path / "data.jsonl", [{"instruction": "a", "output": "b"}] * 3)
    with carrying(unsmoothed=True):
        dataset, _ = sft._load_and_process_single_dataset(
            dataset_config=DictDefault({"path": str(path), "type": "alpaca", "ds_type": "json"}),
            cfg=DictDefault({"sequence_len": 64, "dataset_num_proc": 1, "seed": 0}),
            tokenizer=tokenizer,
            split="train",
            seed=0,
        )
    assert dataset["ual_smoothing"][:] == [0.0] * 3
    assert np.asarray(dataset["ual_smoothing"][:]).dtype.kind == "f"
