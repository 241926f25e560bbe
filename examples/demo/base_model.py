"""The demo's base model: a Llama of two layers that reads a corpus of the world from scratch.

The corpus holds dialogues in every wording and plain statements, drawn from the same distributions
as the datasets and apart from them. So the model comes to know which questions have one answer and
which have several, as a large base model does from its own corpus.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from axolotl_ual.preprocess.models.local.causal import quiet_loading
from axolotl_ual.preprocess.progress import Progress

from .world import NUM_WORDINGS, World, draw_rows, draw_statements

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}</s>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
EOS, PAD = "</s>", "<pad>"
_SPECIAL_TOKENS = [PAD, EOS, "<|system|>", "<|user|>", "<|assistant|>"]


@dataclass(frozen=True, slots=True)
class BaseSize:
    """How large the model is and how long it reads.

    Attributes:
        steps: optimizer steps of batch x length tokens.
        dialogues: share of dialogues in the corpus; the rest are statements.
    """

    hidden_size: int = 128
    intermediate_size: int = 512
    layers: int = 2
    heads: int = 4
    vocab_size: int = 1536
    steps: int = 900
    batch: int = 8
    length: int = 128
    learning_rate: float = 2e-3
    dialogues: float = 0.7


def make_base_model(
    world: World, folder: Path, size: BaseSize, seed: int, progress: Progress
) -> int:
    """Train the tokenizer and the model, and save both.

    Args:
        world: what the corpus tells of.
        folder: where to.
        size: of model and training.
        seed: of corpus, initialisation and order.
        progress: advanced by one for each step.

    Returns:
        The number of parameters.
    """
    import torch
    import transformers

    documents = _corpus(world, size, seed)
    tokenizer = _train_tokenizer(documents, size.vocab_size)
    rows_NL = _pack(documents, tokenizer, size)
    torch.manual_seed(seed)
    model = transformers.LlamaForCausalLM(_config(tokenizer, size))
    _train(model, rows_NL, size, progress)
    with quiet_loading(transformers):
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def _corpus(world: World, size: BaseSize, seed: int) -> list[str]:
    """More documents than the steps will read; a document has 9 tokens at the very least."""
    number = size.steps * size.batch * size.length // 9
    dialogues = draw_rows(world, int(number * size.dialogues), seed, range(NUM_WORDINGS))
    documents = [_dialogue(row["messages"]) for row in dialogues]
    statements = draw_statements(world, number - len(documents), seed + 1)
    documents += [statement + EOS for statement in statements]
    random.Random(seed).shuffle(documents)
    return documents


def _dialogue(messages: Sequence[dict[str, str]]) -> str:
    """What CHAT_TEMPLATE writes."""
    return "".join(f"<|{message['role']}|>{message['content']}{EOS}" for message in messages)


def _train_tokenizer(documents: Sequence[str], vocab_size: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=_SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS, pad_token=PAD)
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _pack(documents: Sequence[str], tokenizer: Any, size: BaseSize) -> Any:
    """Documents one after the other, cut into rows (steps * batch, length)."""
    import torch

    needed = size.steps * size.batch * size.length
    ids: list[int] = []
    for start in range(0, len(documents), 1000):
        for document in tokenizer(list(documents[start : start + 1000]))["input_ids"]:
            ids += document
        if len(ids) >= needed:
            break
    return torch.tensor(ids[:needed]).view(-1, size.length)


def _config(tokenizer: Any, size: BaseSize) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden_size,
        intermediate_size=size.intermediate_size,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=2 * size.length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _train(model: Any, rows_NL: Any, size: BaseSize, progress: Progress) -> None:
    import torch

    optimizer = torch.optim.AdamW(
        model.parameters(), lr=size.learning_rate, betas=(0.9, 0.98), weight_decay=0.1
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, size.steps))
    model.train()
    for batch_BL in rows_NL.split(size.batch):
        loss = model(input_ids=batch_BL, labels=batch_BL).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        progress.status(f"loss {loss.item():.2f}")
        progress.advance(1)
    model.eval()


def _rate(step: int, steps: int) -> float:
    """Linear warm-up over 30 steps, then a cosine down to 5 %."""
    return min(1.0, (step + 1) / 30) * (0.05 + 0.475 * (1 + math.cos(math.pi * step / steps)))
