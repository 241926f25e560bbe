"""Two small classifiers for the pairs of the demo, trained on the spot on what the world knows.

nli     does one answer to a question entail or contradict another? Words with one meaning entail
        each other, two of several right answers are neutral, anything else contradicts.
value   is an answer well-formed (a word of the world or a number), or garbled?

Both are BERTs of two layers that read the demo's own tokens.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from axolotl_ual.preprocess.models.local.causal import quiet_loading
from axolotl_ual.preprocess.progress import Progress

from .base_model import EOS
from .world import Question, World

NLI_LABELS: Final = ("entailment", "neutral", "contradiction")
VALUE_LABELS: Final = ("well-formed", "garbled")
STEPS: Final = 300
_BATCH: Final = 64
_LENGTH: Final = 64
_RELATION: Final = {"phrase": 0, "choice": 1, "fact": 2, "sum": 2}
"""Label of two different right answers to a question of each kind; others have only one."""

Example = tuple[str, str | None, int]
"""(text, second text, label)"""


def make_nli(world: World, base: Path, folder: Path, seed: int, progress: Progress) -> None:
    """Train the classifier of entailment between answers."""
    answers = sorted({answer for question in world.questions for answer in question.answers})
    by_kind = _by_kind(world)

    def draw(rng: random.Random) -> Example:
        question = rng.choice(by_kind[rng.choice(sorted(by_kind))])
        first = question.draw(rng)
        if rng.random() < 0.5 and len(question.answers) > 1:
            second = question.draw(rng)
            return first, second, 0 if second == first else _RELATION[question.kind]
        second = rng.choice(answers)
        related = second in question.answers
        return first, second, (0 if second == first else _RELATION[question.kind]) if related else 2

    _train(draw, NLI_LABELS, base, folder, seed, progress)


def make_value(world: World, base: Path, folder: Path, seed: int, progress: Progress) -> None:
    """Train the classifier of well-formed answers."""
    answers = sorted({answer for question in world.questions for answer in question.answers})

    def draw(rng: random.Random) -> Example:
        answer = rng.choice(answers)
        return (_garble(answer, rng), None, 1) if rng.random() < 0.5 else (answer, None, 0)

    _train(draw, VALUE_LABELS, base, folder, seed, progress)


def _by_kind(world: World) -> dict[str, list[Question]]:
    kinds: dict[str, list[Question]] = {}
    for question in world.questions:
        kinds.setdefault(question.kind, []).append(question)
    return kinds


def _garble(answer: str, rng: random.Random) -> str:
    """An answer that runs on, breaks off, or has its letters shuffled; never the answer itself."""
    letters = list(answer)
    rng.shuffle(letters)
    garbled = rng.choice(
        [
            f"{answer} {rng.choice(('is', 'of', 'the', 'a', answer))}",
            answer + answer[-2:].lower(),
            "".join(letters).lower(),
            f"{answer}{rng.choice('.:?-')}",
        ]
    )
    return garbled if garbled != answer else f"{answer} {answer}"


def _train(
    draw: Callable[[random.Random], Example],
    labels: Sequence[str],
    base: Path,
    folder: Path,
    seed: int,
    progress: Progress,
) -> None:
    import torch
    import transformers

    tokenizer = _pair_tokenizer(base)
    torch.manual_seed(seed)
    model = transformers.BertForSequenceClassification(_config(tokenizer, labels))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    rng = random.Random(seed)
    model.train()
    for _ in range(STEPS):
        batch = [draw(rng) for _ in range(_BATCH)]
        first, second, targets = zip(*batch, strict=True)
        inputs = tokenizer(
            list(first),
            list(second) if second[0] is not None else None,
            padding=True,
            return_tensors="pt",
        )
        loss = model(**inputs, labels=torch.tensor(targets)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        progress.status(f"loss {loss.item():.2f}")
        progress.advance(1)
    with quiet_loading(transformers):
        model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _pair_tokenizer(base: Path) -> Any:
    """The base model's tokens, with an end token behind each text and the texts told apart."""
    from tokenizers import processors
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}",
        pair=f"$A {EOS} $B:1 {EOS}:1",
        special_tokens=[(EOS, tokenizer.eos_token_id)],
    )
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer.model_max_length = _LENGTH
    return tokenizer


def _config(tokenizer: Any, labels: Sequence[str]) -> Any:
    from transformers import BertConfig

    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=_LENGTH,
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(labels)),
        label2id={label: place for place, label in enumerate(labels)},
    )
