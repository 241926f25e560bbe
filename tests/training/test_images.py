"""`axolotl train` on rows with images, which reach the collator as they are.

The first step of one batch of all rows is compared with cross entropy token by token, row by row:
each row is tokenised alone by the processor and trained on its answer and the end of the turn.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_images
import torch
from PIL import Image

import tiny
from axolotl_ual.columns import SMOOTHING, STAGE, UNCERTAINTY, WEIGHT
from axolotl_ual.data.collator import SmoothingCollator
from axolotl_ual.errors import DataError
from axolotl_ual.losses.encoding import decode_smoothing
from reference.smoothed_ce import smoothed_sum
from reference.token_weights import weighted_sum

SMOOTHINGS = [0.0, 0.05, 0.1, 0.2, 0.3, 0.4]
STAGES = ["conservative"] * 2 + ["moderate"] * 2 + ["exploratory"] * 2
IMPORTANCE = [1.0, 2.0, 0.5, 0.0, 3.0, 1.0]


class Bench:
    """One tiny model and six rows, every third without an image."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = tiny_images.make_model(folder / "model")
        self.images = [
            None if number % 3 == 2 else path
            for number, path in enumerate(tiny_images.draw(folder / "images"))
        ]
        self.rows = [
            {
                "messages": tiny_images.messages(number, path),
                SMOOTHING: SMOOTHINGS[number],
                STAGE: STAGES[number],
                UNCERTAINTY: SMOOTHINGS[number],
                "importance": IMPORTANCE[number],
                "kind": "text" if path is None else "image",
            }
            for number, path in enumerate(self.images)
        ]
        self.data = tiny.write_rows(folder / "rows.jsonl", self.rows)

    def train(self, name: str, **overrides: Any) -> tiny.Run:
        folder = self.folder / name
        settings = {"micro_batch_size": 6, "max_steps": 1, **overrides}
        return tiny.axolotl(tiny_images.recipe(self.model, folder, self.data, **settings), folder)

    def of_each_row(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Logits in float64 and labels of the tokens of each row that are trained on."""
        from transformers import AutoModelForImageTextToText, AutoProcessor

        processor = AutoProcessor.from_pretrained(self.model)
        model = AutoModelForImageTextToText.from_pretrained(self.model, dtype=torch.float64)
        turn, end = processor.tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
        found = []
        for number, path in enumerate(self.images):
            seen = "" if path is None else f"<|vision_start|>{tiny_images.IMAGE}<|vision_end|>"
            answer = self.rows[number]["messages"][1]["content"][0]["text"]
            prompt = (
                "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
                f"<|im_start|>user\n{seen}Which colour?<|im_end|>\n<|im_start|>assistant\n"
            )
            images = None if path is None else [Image.open(path).convert("RGB")]
            batch = processor(
                text=f"{prompt}{answer}<|im_end|>", images=images, return_tensors="pt"
            )
            ids = batch["input_ids"][0].tolist()
            assert ids.count(turn) == 3 and ids[-1] == end
            role = processor.tokenizer("assistant\n", add_special_tokens=False)["input_ids"]
            first = len(ids) - ids[::-1].index(turn) + len(role)
            with torch.no_grad():
                logits = model(**batch).logits[0, first - 1 : -1]
            found.append((logits, torch.tensor(ids[first:])))
        return found


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("images"))


def _eps(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float32))


@pytest.mark.slow
def test_each_row_is_smoothed_by_its_own(bench: Bench) -> None:
    """Loss and evaluation loss of one batch of all rows, from full logits in float64."""
    rows = bench.of_each_row()
    tokens = sum(len(labels) for _, labels in rows)
    smoothed = sum(
        smoothed_sum(logits, labels, torch.full(labels.shape, _eps(eps))).item()
        for (logits, labels), eps in zip(rows, SMOOTHINGS, strict=True)
    )
    plain = sum(
        smoothed_sum(logits, labels, torch.zeros(labels.shape)).item() for logits, labels in rows
    )
    run = bench.train(
        "smoothed",
        test_datasets=[{"path": str(bench.data), "type": "chat_template", "split": "train"}],
        eval_batch_size=6,
        eval_steps=1,
        learning_rate=1e-12,
    )
    assert "5 of 6 training rows carry smoothing" in run.text
    assert run.values("ual/tokens") == [tokens]
    assert run.values("loss")[0] == pytest.approx(smoothed / tokens, rel=1e-6)
    assert run.values("loss/nll")[0] == pytest.approx(plain / tokens, rel=1e-6)
    assert run.values("eval_loss")[-1] == pytest.approx(plain / tokens, rel=1e-6)


@pytest.mark.slow
def test_stages_weights_and_the_users_own_columns(bench: Bench) -> None:
    """Rows of a stage are one step of two; the weights are those of the user's own column."""
    rows = bench.of_each_row()
    run = bench.train(
        "staged",
        micro_batch_size=2,
        max_steps=3,
        ual={"curriculum": {"mode": "phased"}, "loss": {"weight": "importance"}},
    )
    assert run.values("ual/stage") == [1.0, 2.0, 3.0]
    losses, weights = run.values("loss"), run.values("ual/weight")
    for step, (one, other) in enumerate(((0, 1), (2, 3), (4, 5))):
        counts = [len(rows[number][1]) for number in (one, other)]
        mass = [n * IMPORTANCE[row] for n, row in zip(counts, (one, other), strict=True)]
        assert weights[step] == pytest.approx(sum(mass) / sum(counts), rel=1e-6)
        assert run.values("ual/tokens")[step] == sum(counts)
    # The adapter has changed nothing before the first step.
    expected = sum(
        IMPORTANCE[row] * smoothed_sum(*rows[row], torch.full(rows[row][1].shape, _eps(eps))).item()
        for row, eps in ((0, 0.0), (1, 0.05))
    )
    mass = sum(IMPORTANCE[row] * len(rows[row][1]) for row in (0, 1))
    assert losses[0] == pytest.approx(expected / mass, rel=1e-6)


@pytest.mark.slow
def test_a_reference_sees_the_images(bench: Bench) -> None:
    """Before the first step the model is its own reference, images and all: KL divergence 0."""
    run = bench.train(
        "reference",
        ual={
            "smoothing": {"prior": "reference"},
            "curriculum": {"mode": "phased", "by": "kind", "order": ["image", "text"]},
        },
    )
    assert run.values("ual/reference_kl")[0] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.slow
def test_rows_are_left_out_and_tokens_weighed(bench: Bench) -> None:
    """Rows 0 to 3 of six, each token by its probability; the anchor is 0 before the first step."""
    run = bench.train(
        "left_out",
        micro_batch_size=4,
        ual={
            "curriculum": {"keep": {"by": "uncertainty", "at_most": 0.2}},
            "loss": {"token_weight": "probability", "anchor": {"weight": 0.5}},
        },
    )
    expected, tokens = 0.0, 0
    for (logits, labels), eps in zip(bench.of_each_row()[:4], SMOOTHINGS, strict=False):
        eps_N = torch.full(labels.shape, _eps(eps))
        expected += weighted_sum(
            logits, labels, eps_N, torch.ones(labels.shape), "probability"
        ).item()
        tokens += len(labels)
    assert run.values("ual/tokens") == [tokens]
    assert run.values("loss")[0] == pytest.approx(expected / tokens, rel=1e-6)


def _collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A collator that makes labels of rows, with a token of padding."""
    assert all(set(row) == {"messages"} for row in rows), "our columns are not its business"
    labels = torch.tensor([[-100, 7, 8], [-100, 9, -100]])[: len(rows[0]["messages"])]
    return {"input_ids": labels.clamp(min=0), "labels": labels}


def test_smoothing_and_weight_are_spread_over_trained_tokens() -> None:
    """Labels -100 7 8 and -100 9 -100: two tokens of the first row, one of the second."""
    rows = [
        {"messages": ["a", "b"], SMOOTHING: 0.25, WEIGHT: 2.0},
        {"messages": ["a", "b"], SMOOTHING: 0.5, WEIGHT: 1.0},
    ]
    batch = SmoothingCollator(_collate)(rows)
    assert decode_smoothing(batch[SMOOTHING]).tolist() == [[0, 0.25, 0.25], [0, 0.5, 0]]
    assert decode_smoothing(batch[WEIGHT]).tolist() == [[0, 2, 2], [0, 1, 0]]
    assert set(SmoothingCollator(_collate, keep=False)(rows)) == {"input_ids", "labels"}


def test_rows_that_became_fewer_are_not_guessed_at() -> None:
    rows = [{"messages": ["a"], SMOOTHING: 0.25}, {"messages": ["a"], SMOOTHING: 0.5}]
    with pytest.raises(DataError, match="1 rows of tokens of 2 rows"):
        SmoothingCollator(_collate)(rows)


@pytest.mark.slow
def test_a_row_without_a_smoothing_stops_the_run(bench: Bench) -> None:
    rows = [json.loads(line) for line in bench.data.read_text().splitlines()]
    del rows[3][SMOOTHING]
    data = tiny.write_rows(bench.folder / "unsmoothed.jsonl", rows)
    folder = bench.folder / "unsmoothed"
    run = tiny.axolotl(tiny_images.recipe(bench.model, folder, data), folder, check=False)
    assert run.returncode != 0
    assert f"row 3: `{SMOOTHING}` is None" in run.text
