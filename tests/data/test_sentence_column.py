"""Which sentences data may have, and which recipes cannot use them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from datasets import Dataset

from axolotl_ual.data.sentence_column import num_by_sentence, numbered
from axolotl_ual.errors import DataError
from axolotl_ual.settings.sentence_rules import of_sentences
from axolotl_ual.settings.ual import parse_ual

ENTRY = {"path": "data.jsonl"}
# Of 4 and 12 characters: (4 * 0.5 + 12 * 0.25) / 16 = 0.3125.
GOOD = [
    {"end": 4, "uncertainty": 0.1, "smoothing": 0.5},
    {"end": 16, "uncertainty": 0.2, "smoothing": 0.25},
]


def dataset(*rows: tuple[Any, float]) -> Dataset:
    sentences = pa.array(
        [given for given, _ in rows],
        pa.list_(
            pa.struct(
                {"end": pa.int32(), "uncertainty": pa.float32(), "smoothing": pa.float32()},
            )
        ),
    )
    smoothing = pa.array([value for _, value in rows], pa.float32())
    return Dataset(pa.table({"ual_sentences": sentences, "ual_smoothing": smoothing}))


def test_rows_get_their_numbers() -> None:
    made = numbered(dataset((None, 0.1), (GOOD, 0.3125), (GOOD, 0.3125)), ENTRY)
    assert made is not None
    assert made["ual_number"][:] == [0, 1, 2]
    assert made["ual_sentences"][0] is None
    assert [sentence["end"] for sentence in made["ual_sentences"][1]] == [4, 16]


@pytest.mark.parametrize(
    "given",
    [
        Dataset.from_dict({"ual_smoothing": [0.1]}),
        dataset((None, 0.1), (None, 0.2)),
        Dataset.from_dict({"ual_smoothing": [0.1], "ual_sentences": [None]}),
    ],
    ids=["no column", "null rows", "a column of nulls"],
)
def test_no_row_has_sentences(given: Dataset) -> None:
    assert numbered(given, ENTRY) is None
    assert num_by_sentence(given, "ual_sentences") == 0


def changed(**last: Any) -> list[dict[str, Any]]:
    return [GOOD[0], {**GOOD[1], **last}]


@pytest.mark.parametrize(
    ("sentences", "smoothing", "shown"),
    [
        ([], 0.1, "is an empty list"),
        (changed(end=4), 0.3125, "has an `end` that is not above the one before"),
        (changed(end=None), 0.3125, "has an `end` that is not above the one before"),
        ([{**GOOD[0], "end": 0}], 0.5, "has an `end` that is not above the one before"),
        (changed(smoothing=1.5), 0.3125, r"has a `smoothing` that is no number in \[0, 1\]"),
        (changed(smoothing=-0.1), 0.3125, r"has a `smoothing` that is no number in \[0, 1\]"),
        (changed(smoothing=None), 0.3125, r"has a `smoothing` that is no number in \[0, 1\]"),
        (
            GOOD,
            0.3126,
            "has a smoothing of 0.3125 on average, a character, and `ual_smoothing` of the row is "
            "0.3126",
        ),
    ],
)
def test_a_wrong_row_is_named(sentences: Any, smoothing: float, shown: str) -> None:
    given = dataset((None, 0.9), (GOOD, 0.3125), (sentences, smoothing), (GOOD, 0.3125))
    with pytest.raises(DataError, match=f"datasets: `data.jsonl`, row 2: `ual_sentences` {shown}"):
        numbered(given, ENTRY)


def test_a_smoothing_of_float32_is_close_enough() -> None:
    thirds = [{"end": n + 1, "uncertainty": 0.0, "smoothing": 1 / (3 + n)} for n in range(300)]
    mean = sum(sentence["smoothing"] for sentence in thirds) / 300
    assert numbered(dataset((thirds, mean)), ENTRY) is not None


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (["a. b"], "holds string"),
        ([[0.5]], "holds list<item: double>"),
        ([[{"end": 4}]], "holds list<item: struct<end: int64>>"),
        ([[{"end": "4", "smoothing": 0.1}]], "holds list<item: struct<end: string"),
    ],
)
def test_a_column_of_another_kind(values: Any, shown: str) -> None:
    given = Dataset.from_dict({"ual_smoothing": [0.1], "ual_sentences": values})
    with pytest.raises(DataError, match=shown):
        numbered(given, ENTRY)


@pytest.mark.parametrize(
    ("recipe", "shown"),
    [
        ({"rl": "dpo"}, "`rl: dpo` does not smooth the tokens of a sample"),
        ({"reward_model": True}, "`reward_model: true` has a loss of pairs"),
        ({"streaming": True}, "rows that are streamed (`streaming`)"),
        ({"pretraining_dataset": "c4"}, "rows that are streamed (`pretraining_dataset`)"),
        ({"processor_type": "AutoProcessor"}, "a processor (`skip_prepare_dataset`)"),
        ({"ual": {"reestimate": {"estimator": "entropy"}}}, "`ual.reestimate` would replace them"),
    ],
)
def test_recipes_that_cannot_use_sentences(recipe: dict[str, Any], shown: str) -> None:
    error = of_sentences(recipe, parse_ual(recipe.get("ual")), "here")
    assert error is not None
    assert error.problem.startswith("here: sentences have a smoothing each, and ")
    assert shown in error.problem
    assert "take the column `ual_sentences` out of the data" in error.fix


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"sample_packing": True, "ual": {"curriculum": {"mode": "phased"}}},
        {"ual": {"smoothing": {"prior": "reference", "reference_top_k": 4}}},
    ],
)
def test_recipes_that_can(recipe: dict[str, Any]) -> None:
    assert of_sentences(recipe, parse_ual(recipe.get("ual")), "here") is None
