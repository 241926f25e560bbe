"""A Gemma 3 that sees, with its processor: made on the spot, small enough for a CPU.

What it has and a Llava has not: tokens of an image attend to each other both ways, by the
`token_type_ids` of the batch; the head shares the embeddings; one of two layers has a window.
An image of any size becomes 16 x 16 pixels, sixteen patches, and four tokens.
"""

from __future__ import annotations

from pathlib import Path

import tiny

BEGIN, IMAGE, END = "<start_of_image>", "<image_soft_token>", "<end_of_image>"
TURNS = ["<start_of_turn>", "<end_of_turn>"]
_TOKENS = 4


def make_model(folder: Path) -> Path:
    """Save a randomly initialised Gemma 3 with its processor and tokenizer."""
    import torch
    from transformers import (
        AutoTokenizer,
        Gemma3Config,
        Gemma3ForConditionalGeneration,
        Gemma3ImageProcessorPil,
        Gemma3Processor,
        Gemma3TextConfig,
        SiglipVisionConfig,
    )

    tiny.make_tokenizer(folder)
    named = {"boi_token": BEGIN, "image_token": IMAGE, "eoi_token": END}
    tokenizer = AutoTokenizer.from_pretrained(folder, extra_special_tokens=named)
    tokenizer.add_tokens([*TURNS, *named.values()], special_tokens=True)
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessorPil(size={"height": 16, "width": 16}),
        tokenizer=tokenizer,
        image_seq_length=_TOKENS,
    )
    small = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    begin, image, end = tokenizer.convert_tokens_to_ids([BEGIN, IMAGE, END])
    torch.manual_seed(0)
    model = Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config=Gemma3TextConfig(
                **small,
                vocab_size=len(tokenizer),
                num_key_value_heads=2,
                head_dim=8,
                query_pre_attn_scalar=8,
                sliding_window=8,
                layer_types=["sliding_attention", "full_attention"],
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            ),
            vision_config=SiglipVisionConfig(**small, image_size=16, patch_size=4),
            mm_tokens_per_image=_TOKENS,
            boi_token_index=begin,
            eoi_token_index=end,
            image_token_index=image,
        )
    )
    for part in (model, processor, tokenizer):
        part.save_pretrained(folder)
    return folder
