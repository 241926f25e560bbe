"""Rows that are streamed: each is checked, and carries its smoothing, when it comes by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from datasets import Dataset

from axolotl_ual.data.strategy import CarryingStrategy
from axolotl_ual.data.streamed import StreamedStrategy, split_again, streamed_weights
from axolotl_ual.data.tables import is_streamed
from axolotl_ual.errors import DataError
from axolotl_ual.losses.encoding import join_smoothing
from axolotl_ual.settings.loss import WeightConfig


class Words:
    """A strategy whose tokens are the numbers of a row; the first is not trained on."""

    filter_rows = None

    def __init__(self, *, batched: bool) -> None:
        self.supports_batched = batched

    def tokenize_prompt(self, prompt: Mapping[str, Any]) -> dict[str, Any]:
        given = prompt["words"]
        rows = [self._row(words) for words in (given if self.supports_batched else [given])]
        if self.supports_batched:
            return {key: [row[key] for row in rows] for key in rows[0]}
        return rows[0]

    def _row(self, words: list[int]) -> dict[str, Any]:
        return {"input_ids": words, "labels": [-100, *words[1:]], "length": len(words)}


def strategy(*, batched: bool, joined: bool) -> StreamedStrategy:
    carrying = CarryingStrategy(Words(batched=batched), {"ual_smoothing": "ual_smoothing"})
    return StreamedStrategy(carrying, "datasets: `d`", joined)


def test_smoothing_goes_through_a_packing_that_knows_only_labels() -> None:
    """Two rows end to end, and a place of padding: each token has the smoothing of its row."""
    batch = {"words": [[5, 6], [7, 8, 9]], "ual_smoothing": [0.25, 0.5]}
    for batched in (True, False):
        tokenize = strategy(batched=batched, joined=True).tokenize_prompt
        if batched:
            found = tokenize(batch)
        else:
            count = len(batch["words"])
            rows = [{key: cells[n] for key, cells in batch.items()} for n in range(count)]
            parts = [tokenize(row) for row in rows]
            found = {key: [part[key] for part in parts] for key in parts[0]}
        # Whatever else a strategy returns has one value a row, which packing cannot lay end to end.
        assert found.keys() == {"input_ids", "labels"}
        packed = [label for labels in found["labels"] for label in labels]
        stream = Dataset.from_dict({"labels": [[*packed, -100]]}).to_iterable_dataset()
        (row,) = split_again(stream)
        assert list(row["labels"]) == [-100, 6, -100, 8, 9, -100]
        assert list(row["ual_smoothing"]) == [0.25, 0.25, 0.5, 0.5, 0.5, 0.0]
        # The collator joins them once more.
        again = join_smoothing(row["labels"], row["ual_smoothing"])
        assert torch.as_tensor(again).tolist() == [*packed, 0]


def test_columns_stay_where_nothing_is_packed() -> None:
    found = strategy(batched=False, joined=False).tokenize_prompt(
        {"words": [5, 6], "ual_smoothing": 0.25}
    )
    assert found == {
        "input_ids": [5, 6],
        "labels": [-100, 6],
        "length": 2,
        "ual_smoothing": 0.25,
    }


@pytest.mark.parametrize("value", [None, "x", 1.5, -0.1, float("nan")])
@pytest.mark.parametrize("batched", [True, False])
def test_a_smoothing_that_cannot_be_stops(value: Any, batched: bool) -> None:
    row = {"words": [5, 6], "ual_smoothing": value}
    given = {key: [cell] for key, cell in row.items()} if batched else row
    with pytest.raises(DataError, match=r"`d`: `ual_smoothing` is .* in the row \{'words': \[5, 6"):
        strategy(batched=batched, joined=True).tokenize_prompt(given)


def test_a_stream_is_told_by_its_having_no_length() -> None:
    rows = Dataset.from_dict({"words": [[5]]})
    assert is_streamed(rows.to_iterable_dataset()) and not is_streamed(rows)


def test_weights_are_mapped_as_they_come() -> None:
    stream = Dataset.from_dict({"u": [0.0, 0.5, None]}).to_iterable_dataset()
    config = WeightConfig.model_validate({"from": "u", "at_0": 1.0, "at_1": 0.5})
    rows = iter(streamed_weights(stream, config, "u"))
    # 1 + (0.5 - 1) * 0.5 = 0.75
    assert [next(rows)["ual_weight"], next(rows)["ual_weight"]] == [1.0, 0.75]
    with pytest.raises(DataError, match=r"`u` of a row is None.*mean of the others is not known"):
        next(rows)


def test_weights_are_taken_as_they_are() -> None:
    stream = Dataset.from_dict({"w": [2.0, -1.0]}).to_iterable_dataset()
    rows = iter(streamed_weights(stream, WeightConfig(column="w"), "w"))
    assert next(rows)["ual_weight"] == 2.0
    with pytest.raises(DataError, match=r"`w` of a row is -1\.0, and `ual\.loss\.weight: w` needs"):
        next(rows)
