"""A reference's kept prediction, beside the prepared data: computed once, and how far it is off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from axolotl.utils.dict import DictDefault
from datasets import Dataset

import tiny
from axolotl_ual.data import top_k
from axolotl_ual.settings.ual import SmoothingConfig

KEPT = 4
ROWS: list[dict[str, Any]] = [
    {"input_ids": [5, 6, 7, 8], "labels": [-100, -100, 7, 8], "ual_smoothing": 0.25},
    {"input_ids": [9, 10, 11], "labels": [-100, 10, 11], "ual_smoothing": 0.0},
    {"input_ids": [12, 13], "labels": [-100, 13], "ual_smoothing": 0.5},
]
PLACES = {0: [1, 2], 2: [0]}
"""By row, the places whose next token is trained and smoothed."""


class Bench:
    """A tiny reference, and how often it has run."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.model = tiny.make_model(folder / "model")
        self.prepared = folder / "prepared"
        self.forwards = 0
        self.said: list[str] = []
        load = top_k._load

        def counting(path: str, dtype: torch.dtype) -> Any:
            model = load(path, dtype)
            model.register_forward_pre_hook(self._count)
            return model

        monkeypatch.setattr(top_k, "_load", counting)
        monkeypatch.setattr(top_k.LOG, "info", self.said.append)

    def _count(self, *_: Any) -> None:
        self.forwards += 1

    def kept(self, rows: list[dict[str, Any]], **smoothing: Any) -> tuple[list[Any], int]:
        """The rows with what is kept, and the forwards that took."""
        before = self.forwards
        cfg = DictDefault(
            base_model=str(self.model),
            tokenizer_config=str(self.model),
            dataset_prepared_path=str(self.prepared),
            torch_dtype=torch.float64,
        )
        config = SmoothingConfig(prior="reference", **{"reference_top_k": KEPT, **smoothing})
        found = top_k.with_top_k(cfg, config, Dataset.from_list(rows))
        return found.with_format(None).to_list(), self.forwards - before

    @torch.no_grad()
    def predicted(self) -> torch.Tensor:
        """The reference's distribution at each of PLACES, row by row."""
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(self.model, dtype=torch.float64).eval()
        parts = [
            model(torch.tensor([ROWS[row]["input_ids"]])).logits[0, places].softmax(dim=1)
            for row, places in PLACES.items()
        ]
        return torch.cat(parts)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_a_second_run_computes_nothing(bench: Bench) -> None:
    first, forwards = bench.kept(ROWS)
    assert forwards == 1
    assert bench.kept(ROWS) == (first, 0)
    # Another smoothing of the same rows asks the reference for the same.
    more = [{**row, "ual_smoothing": row["ual_smoothing"] * 0.5} for row in ROWS]
    again, forwards = bench.kept(more)
    assert forwards == 0
    for one, other in zip(first, again, strict=True):
        assert one["ual_reference_ids"] == other["ual_reference_ids"]
    assert len(list(bench.prepared.glob("ual-reference-*.arrow"))) == 1


@pytest.mark.parametrize(
    ("rows", "smoothing"),
    [
        (ROWS, {"reference_temperature": 2.0}),
        (ROWS, {"reference_top_k": KEPT + 1}),
        ([{**row, "ual_smoothing": 0.25} for row in ROWS], {}),
        ([{**ROWS[0], "input_ids": [5, 6, 7, 9]}, *ROWS[1:]], {}),
        ([{**ROWS[0], "labels": [-100, 6, 7, 8]}, *ROWS[1:]], {}),
    ],
    ids=["temperature", "how many", "which rows", "tokens", "labels"],
)
def test_what_it_follows_from_makes_it_another(
    bench: Bench, rows: list[dict[str, Any]], smoothing: dict[str, Any]
) -> None:
    bench.kept(ROWS)
    assert bench.kept(rows, **smoothing)[1] == 1
    assert len(list(bench.prepared.glob("ual-reference-*.arrow"))) == 2


def test_what_is_kept_and_what_is_said_of_the_rest(bench: Bench) -> None:
    found, _ = bench.kept(ROWS)
    wanted = bench.predicted().topk(KEPT, dim=1)
    ids = [one for row in found for one in row["ual_reference_ids"]]
    assert ids == wanted.indices.flatten().tolist()
    logprobs = torch.tensor([one for row in found for one in row["ual_reference_logprobs"]])
    assert torch.allclose(logprobs, wanted.values.log().flatten().float(), atol=1e-6)
    assert found[1]["ual_reference_ids"] == []
    # A gradient is off by at most 2 eps rest.
    rest = 1 - wanted.values.sum(dim=1)
    (said,) = bench.said
    assert f"over 3 smoothed tokens, {1 - rest.max():.2%} at the least" in said
    assert f"at most {2 * rest.mean():.3g} eps on average" in said
