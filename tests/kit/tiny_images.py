"""A model that sees, its processor, and rows with images: made on the spot, small enough for a CPU.

A Llava of two vision and two text layers that speaks ChatML, for which Axolotl knows where answers
begin. An image of any size becomes 8 x 8 pixels, four patches and as many tokens. Images are drawn,
one colour each.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tiny

IMAGE = "<|image_pad|>"
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", IMAGE]
COLOURS = ["red", "green", "blue", "white", "black", "orange"]


def make_model(folder: Path) -> Path:
    """Save a randomly initialised Llava with its processor and tokenizer."""
    import torch
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tokenizer = tiny.make_tokenizer(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    edge = {"height": 8, "width": 8}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size=edge),
        tokenizer=tokenizer,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE,
    )
    small = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(**small, image_size=8, patch_size=4),
            text_config=LlamaConfig(
                **small,
                vocab_size=len(tokenizer),
                num_key_value_heads=2,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            ),
            image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
            image_seq_length=4,
        )
    )
    for part in (model, processor, tokenizer):
        part.save_pretrained(folder)
    return folder


def draw(folder: Path) -> list[Path]:
    """An image of each colour as a file; sizes differ."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{colour}.png" for colour in COLOURS]
    for number, (colour, path) in enumerate(zip(COLOURS, paths, strict=True)):
        Image.new("RGB", (8 + number, 12), colour).save(path)
    return paths


def messages(number: int, path: Path | None) -> list[dict[str, Any]]:
    """A question about an image, or about none, whose answers differ in length."""
    question: list[dict[str, str]] = [] if path is None else [{"type": "image", "path": str(path)}]
    answer = " and ".join([COLOURS[number % len(COLOURS)]] * (1 + number % 3))
    return [
        {"role": "user", "content": [*question, {"type": "text", "text": "Which colour?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]


def recipe(model: Path, output: Path, data: Path, **overrides: Any) -> Mapping[str, Any]:
    """A recipe that trains an adapter on answers alone, on one dataset of such rows."""
    return tiny.recipe(
        model,
        output,
        [{"path": str(data), "type": "chat_template"}],
        **{
            "processor_type": "AutoProcessor",
            "skip_prepare_dataset": True,
            "remove_unused_columns": False,
            "chat_template": "qwen2_vl",
            "lora_target_linear": None,
            "lora_target_modules": r".*language_model.*(q|k|v|o)_proj",
            "plugins": ["axolotl_ual.UALPlugin"],
            **overrides,
        },
    )
