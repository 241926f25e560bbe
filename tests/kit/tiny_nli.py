"""Classifiers made on the spot: a small BERT with random weights, and one that follows a rule.

The rule speaks of meanings: `m0` ... `m9` are words, all other words are noise. A premise entails a
hypothesis where they have the same meaning, contradicts it where both have one and they differ,
and is neutral where either has none. A text by itself is a contradiction where it says "no", and an
entailment otherwise. So clusters, contradictions and values are known by construction.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import SequenceClassifierOutput

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MEANINGS = [f"m{number}" for number in range(10)]
WORDS = [
    *(f"w{number}" for number in range(500)),
    *["the", "a", "is", "it", "what", "are", "you", "he", "she", "no", "yes", ".", ",", "!", "?"],
]
NLI_LABELS = ["entailment", "neutral", "contradiction"]
NO = len(SPECIAL) + len(MEANINGS) + WORDS.index("no")
CERTAIN = 8.0
"""Logit of the label that the rule gives; the others get 0."""


def word_tokenizer(max_length: int = 128) -> PreTrainedTokenizerFast:
    """One token a word, BERT's layout of a pair."""
    vocabulary = {word: place for place, word in enumerate([*SPECIAL, *MEANINGS, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=max_length,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def make_bert(
    folder: Path,
    labels: list[str] | None = None,
    max_length: int = 128,
    seed: int = 0,
    **config: Any,
) -> Path:
    """Save a BERT classifier with random weights."""
    tokenizer = word_tokenizer(max_length)
    names = labels or NLI_LABELS
    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": max_length,
        "id2label": dict(enumerate(names)),
        "label2id": {name: place for place, name in enumerate(names)},
        # Wide weights, so that the answers differ from one input to the next.
        "initializer_range": 0.3,
    }
    torch.manual_seed(seed)
    model = BertForSequenceClassification(BertConfig(**{**settings, **config}))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class RuleConfig(PretrainedConfig):
    model_type = "meaning-rule"


class RuleModel(PreTrainedModel):
    """Logits of (entailment, neutral, contradiction) by the rule above; last meaning counts."""

    config_class = RuleConfig

    def __init__(self, config: RuleConfig) -> None:
        super().__init__(config)
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Nothing to initialise."""

    def forward(
        self, input_ids: Any, attention_mask: Any = None, token_type_ids: Any = None, **_: Any
    ) -> SequenceClassifierOutput:
        time.sleep(float(os.environ.get("RULE_SECONDS", "0")))
        first, last = len(SPECIAL), len(SPECIAL) + len(MEANINGS)
        rows = []
        for ids, types in zip(input_ids.tolist(), token_type_ids.tolist(), strict=True):
            sides: list[list[int]] = [[], []]
            for token, side in zip(ids, types, strict=True):
                if first <= token < last:
                    sides[side].append(token)
            premise, hypothesis = (side[-1] if side else None for side in sides)
            if not any(types):
                rows.append([0.0, 0.0, CERTAIN] if NO in ids else [CERTAIN, 0.0, 0.0])
            elif premise is None or hypothesis is None:
                rows.append([0.0, CERTAIN, 0.0])
            elif premise == hypothesis:
                rows.append([CERTAIN, 0.0, 0.0])
            else:
                rows.append([0.0, 0.0, CERTAIN])
        return SequenceClassifierOutput(logits=torch.tensor(rows))


def make_rule_model(folder: Path, max_length: int = 128) -> Path:
    """Save the classifier that follows the rule; `register` makes it loadable."""
    register()
    tokenizer = word_tokenizer(max_length)
    config = RuleConfig(
        id2label=dict(enumerate(NLI_LABELS)), label2id={n: i for i, n in enumerate(NLI_LABELS)}
    )
    RuleModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def register() -> None:
    """Teach the Auto classes of this process about the rule."""
    AutoConfig.register(RuleConfig.model_type, RuleConfig, exist_ok=True)
    AutoModelForSequenceClassification.register(RuleConfig, RuleModel, exist_ok=True)
