"""Rows of study 2: arithmetic with one right answer beside roleplay with many good ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sources import Sources

SOURCES = ("gsm8k", "roleplay")
NEUTRAL = "alpaca_eval/gpt4"
"""Answers to instructions that nothing here is trained on."""


@dataclass(frozen=True)
class Row:
    """A prompt, its answer, and where both come from."""

    prompt: str
    answer: str
    source: str

    @property
    def messages(self) -> list[dict[str, str]]:
        """As a dialogue."""
        return [
            {"role": "user", "content": self.prompt},
            {"role": "assistant", "content": self.answer},
        ]


@dataclass(frozen=True)
class Encoded:
    """Token ids of a row, of which the first `start` are the prompt's."""

    ids: list[int]
    start: int


@dataclass(frozen=True)
class Mixture:
    """What study 2 trains on and measures on."""

    train: list[Row]
    held_out: list[Row]
    neutral: list[Row]


def encode_row(row: Row, tokenizer: Any) -> Encoded:
    """The row as the chat template writes it, the token that ends the answer included."""
    asked = tokenizer.apply_chat_template(
        row.messages[:1], add_generation_prompt=True, tokenize=False
    )
    prompt = tokenizer(asked, add_special_tokens=False)["input_ids"]
    ending = f"{row.answer}{tokenizer.eos_token}"
    answer = tokenizer(ending, add_special_tokens=False)["input_ids"]
    return Encoded([*prompt, *answer], len(prompt))


def make_mixture(sources: Sources, protocol: Mapping[str, Any], tokenizer: Any) -> Mixture:
    """Draw rows by the protocol's seed, of those that are short enough."""
    rng = np.random.default_rng(protocol["data_seed"])
    train: list[Row] = []
    held_out: list[Row] = []
    for source in SOURCES:
        rows = _short(_rows(source, sources), protocol["most_tokens"], tokenizer)
        drawn = [rows[number] for number in rng.permutation(len(rows))]
        count, more = protocol["train_rows"] // 2, protocol["held_out_rows"] // 2
        train += drawn[:count]
        held_out += drawn[count : count + more]
    if protocol["neutral_rows"] == 0:
        return Mixture(train, held_out, [])
    neutral = _short(_rows(NEUTRAL, sources), protocol["most_tokens"], tokenizer)
    drawn = [neutral[number] for number in rng.permutation(len(neutral))]
    return Mixture(train, held_out, drawn[: protocol["neutral_rows"]])


def _rows(name: str, sources: Sources) -> list[Row]:
    """The rows of a file, each prompt once."""
    text = sources.read(name).decode("utf-8")
    if name == "gsm8k":
        found = [json.loads(line) for line in text.splitlines()]
        rows = [Row(item["question"], item["answer"], name) for item in found]
    elif name == "roleplay":
        found = [item for item in json.loads(text) if not item["input"]]
        rows = [Row(item["instruction"], item["response"], name) for item in found]
    else:
        rows = [Row(item["instruction"], item["output"], name) for item in json.loads(text)]
    distinct = {row.prompt.strip(): row for row in reversed(rows) if row.answer.strip()}
    return [
        Row(prompt, row.answer.strip(), row.source) for prompt, row in reversed(distinct.items())
    ]


def _short(rows: Sequence[Row], most: int, tokenizer: Any) -> list[Row]:
    return [row for row in rows if len(encode_row(row, tokenizer).ids) <= most]
