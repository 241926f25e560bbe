"""`axolotl train` on rows with images by a Gemma 3, whose images attend both ways.

The first step of one batch of all rows is compared with cross entropy token by token, row by row,
from full logits in float64: each row alone, its prompt written out by hand, trained on its answer
and the end of the turn.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_gemma
import tiny_images
import torch
from PIL import Image

import tiny
from axolotl_ual.columns import SMOOTHING
from reference.smoothed_ce import smoothed_sum

SMOOTHINGS = [0.0, 0.05, 0.1, 0.2, 0.3, 0.4]


def row(number: int, paths: list[Path]) -> dict[str, Any]:
    """A question about one image, about two with the text between them, or about none."""
    shown = [{"type": "image", "path": str(path)} for path in paths]
    question = [*shown[:1], {"type": "text", "text": "Which colour?"}, *shown[1:]]
    _, answer = tiny_images.messages(number, None)
    return {
        "messages": [{"role": "user", "content": question}, answer],
        SMOOTHING: SMOOTHINGS[number],
    }


def of_each_row(
    model: Path, rows: list[dict[str, Any]], images: list[list[Path]]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Logits in float64 and labels of the tokens of each row that are trained on."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(model)
    reference = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float64)
    turn = processor.tokenizer.convert_tokens_to_ids("<start_of_turn>")
    role = processor.tokenizer("model\n", add_special_tokens=False)["input_ids"]
    found = []
    for said, paths in zip(rows, images, strict=True):
        seen = [tiny_gemma.BEGIN] * len(paths)
        answer = said["messages"][1]["content"][0]["text"]
        text = (
            f"<s><start_of_turn>user\n{''.join(seen[:1])}Which colour?{''.join(seen[1:])}"
            f"<end_of_turn>\n<start_of_turn>model\n{answer}<end_of_turn>"
        )
        opened = [Image.open(path).convert("RGB") for path in paths] or None
        batch = processor(text=text, images=opened, return_tensors="pt", add_special_tokens=False)
        ids = batch["input_ids"][0].tolist()
        assert batch["token_type_ids"].sum() == 4 * len(paths)
        first = len(ids) - ids[::-1].index(turn) + len(role)
        with torch.no_grad():
            logits = reference(**batch).logits[0, first - 1 : -1]
        found.append((logits, torch.tensor(ids[first:])))
    return found


@pytest.mark.slow
def test_each_row_is_smoothed_by_its_own(tmp_path: Path) -> None:
    model = tiny_gemma.make_model(tmp_path / "model")
    drawn = tiny_images.draw(tmp_path / "images")
    images = [drawn[:2], drawn[1:2], [], drawn[3:4], drawn[4:], []]
    rows = [row(number, paths) for number, paths in enumerate(images)]
    data = tiny.write_rows(tmp_path / "rows.jsonl", rows)
    expected = of_each_row(model, rows, images)
    folder = tmp_path / "out"
    run = tiny.axolotl(
        tiny_images.recipe(
            model, folder, data, chat_template="gemma3", micro_batch_size=6, max_steps=1
        ),
        folder,
    )
    tokens = sum(len(labels) for _, labels in expected)
    smoothed, plain = (
        sum(
            smoothed_sum(logits, labels, torch.full(labels.shape, eps)).item()
            for (logits, labels), eps in zip(expected, each, strict=True)
        )
        for each in ([float(torch.tensor(e, dtype=torch.float32)) for e in SMOOTHINGS], [0.0] * 6)
    )
    assert "5 of 6 training rows carry smoothing" in run.text
    assert run.values("ual/tokens") == [tokens]
    assert run.values("loss")[0] == pytest.approx(smoothed / tokens, rel=1e-6)
    assert run.values("loss/nll")[0] == pytest.approx(plain / tokens, rel=1e-6)
