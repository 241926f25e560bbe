"""The smoothing of a row through Axolotl's real tokenisation strategies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

import tiny
from axolotl_ual.data.carry import carrying
from axolotl_ual.data.strategy import CarryingStrategy
from axolotl_ual.errors import AnnotationError, DataError

pytestmark = pytest.mark.slow  # datasets forks its workers
# Exact in float32, so that what comes out can be compared with ==.
SMOOTHING = [0.125, 0.0, 0.5]
TURNS = [
    [{"role": "user", "content": f"Hi {n}"}, {"role": "assistant", "content": f"Hello {n}"}]
    for n in range(3)
]
TYPES: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "alpaca": ("alpaca", [{"instruction": f"i{n}", "output": f"o{n}"} for n in range(3)]),
    "chat_template": ("chat_template", [{"messages": turns} for turns in TURNS]),
    "input_output": (
        "input_output",
        [
            {"segments": [{"label": False, "text": "a"}, {"label": True, "text": f"b{n}"}]}
            for n in range(3)
        ],
    ),
    "user_defined": (
        {"field_instruction": "q", "field_output": "a", "format": "{instruction}"},
        [{"q": f"q{n}", "a": f"a{n}"} for n in range(3)],
    ),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny.make_tokenizer(Path(tmp_path_factory.mktemp("tokenizer")))


def annotated(rows: list[dict[str, Any]], values: list[Any] | None = None) -> list[dict[str, Any]]:
    return [
        {**row, "ual_smoothing": value, "ual_semantic": value, "ual_stage": "moderate"}
        for row, value in zip(rows, values or SMOOTHING, strict=True)
    ]


def load(
    tmp_path: Path,
    tokenizer: Any,
    kind: Any,
    rows: list[dict[str, Any]],
    split: str = "train",
    **settings: Any,
) -> Dataset:
    """One entry through Axolotl's own loading, with the columns carried."""
    from axolotl.utils.data import sft
    from axolotl.utils.dict import DictDefault

    path = tiny.write_rows(tmp_path / "data.jsonl", rows)
    entry = DictDefault({"path": str(path), "type": kind, "ds_type": "json"})
    cfg = DictDefault({"sequence_len": 64, "dataset_num_proc": 1, "seed": 0, **settings})
    with carrying():
        dataset, _ = sft._load_and_process_single_dataset(
            dataset_config=entry, cfg=cfg, tokenizer=tokenizer, split=split, seed=0
        )
    return dataset


@pytest.mark.parametrize("name", TYPES)
def test_one_value_a_row_and_no_column_that_training_has_no_use_for(
    tmp_path: Path, tokenizer: Any, name: str
) -> None:
    kind, rows = TYPES[name]
    dataset = load(tmp_path, tokenizer, kind, annotated(rows))
    assert dataset["ual_smoothing"][:] == SMOOTHING
    assert {"input_ids", "labels"} <= set(dataset.column_names)
    assert dataset["ual_stage"][:] == ["moderate"] * 3
    assert "ual_semantic" not in dataset.column_names


@pytest.mark.parametrize("name", TYPES)
def test_tokens_are_those_of_the_data_without_our_columns(
    tmp_path: Path, tokenizer: Any, name: str
) -> None:
    kind, rows = TYPES[name]
    ours = load(tmp_path / "ours", tokenizer, kind, annotated(rows))
    stock = load(tmp_path / "stock", tokenizer, kind, rows, split="test")
    assert ours.select_columns(stock.column_names).to_dict() == stock.to_dict()
    assert set(ours.column_names) - set(stock.column_names) == {"ual_smoothing", "ual_stage"}


def test_a_row_that_becomes_several_keeps_its_value_in_each(tmp_path: Path, tokenizer: Any) -> None:
    # Each byte is a token: 20, 3 and 9 letters and the end token in pieces of 8 are 3, 1 and 2.
    rows = [{"text": "x" * length} for length in (20, 3, 9)]
    dataset = load(tmp_path, tokenizer, "completion", annotated(rows), sequence_len=8)
    assert [len(ids) for ids in dataset["input_ids"]] == [8, 8, 5, 4, 8, 2]
    assert dataset["ual_smoothing"][:] == [0.125] * 3 + [0.0] + [0.5] * 2


def test_several_worker_processes(tmp_path: Path, tokenizer: Any) -> None:
    kind, rows = TYPES["chat_template"]
    dataset = load(tmp_path, tokenizer, kind, annotated(rows), dataset_num_proc=2)
    assert dataset["ual_smoothing"][:] == SMOOTHING


def test_data_that_are_tokenised_already(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"input_ids": [1, 2], "attention_mask": [1, 1], "labels": [1, 2]}] * 3
    dataset = load(tmp_path, tokenizer, None, annotated(rows))
    assert dataset["ual_smoothing"][:] == SMOOTHING
    assert "ual_semantic" not in dataset.column_names


def test_a_validation_set_needs_no_column(tmp_path: Path, tokenizer: Any) -> None:
    dataset = load(tmp_path, tokenizer, *TYPES["alpaca"], split="test")
    assert "ual_smoothing" not in dataset.column_names


def test_training_data_without_the_column_stop(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(AnnotationError, match=r"data\.jsonl` has no column `ual_smoothing`"):
        load(tmp_path, tokenizer, *TYPES["alpaca"])


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "None"), (float("nan"), "nan"), (-0.1, "-0.1"), (1.5, "1.5")]
)
def test_a_wrong_value_names_its_row(
    tmp_path: Path, tokenizer: Any, value: float | None, shown: str
) -> None:
    kind, rows = TYPES["alpaca"]
    with pytest.raises(DataError, match=rf"row 1: `ual_smoothing` is {shown}.*\(1 such rows\)"):
        load(tmp_path, tokenizer, kind, annotated(rows, [0.1, value, 0.2]))


def test_a_type_that_loses_the_column_stops(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"messages": turns} for turns in TURNS]
    with pytest.raises(AnnotationError, match=r"type `messages\.chat`.*lost the column"):
        load(tmp_path, tokenizer, "messages.chat", annotated(rows))


def test_loading_is_as_it_was_afterwards() -> None:
    from axolotl.utils.data import sft, wrappers

    before = (sft._load_and_process_single_dataset, wrappers.wrap_dataset_for_tokenized_prompt)
    with pytest.raises(KeyError), carrying():
        raise KeyError
    assert before == (
        sft._load_and_process_single_dataset,
        wrappers.wrap_dataset_for_tokenized_prompt,
    )


def test_filter_of_the_strategy_stays() -> None:
    class Strategy:
        supports_batched = False

        def filter_rows(self, row: dict[str, Any]) -> bool:
            return bool(row["keep"])

    assert CarryingStrategy(Strategy(), {}).filter_rows({"keep": 1})
    assert CarryingStrategy(object(), {}).filter_rows is None


def test_values_are_stored_as_float32() -> None:
    class Strategy:
        supports_batched = False

        def tokenize_prompt(self, prompt: dict[str, Any]) -> dict[str, Any]:
            assert set(prompt) == {"text"}
            return {"input_ids": [1], "labels": [1]}

    source = Dataset.from_dict({"text": ["a"], "ual_smoothing": np.array([0.1], dtype=np.float32)})
    strategy = CarryingStrategy(Strategy(), {"ual_smoothing": "ual_smoothing"})
    done = source.map(strategy.tokenize_prompt, remove_columns=source.column_names)
    assert done.features["ual_smoothing"].dtype == "float32"
    assert done["ual_smoothing"][0] == np.float32(0.1)
