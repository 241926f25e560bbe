"""In place of the module of rewards that Axolotl's GDPO recipe names and leaves to its reader."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Rows = Callable[..., dict[str, Any]]


def gsm8k_transform(cfg: Any, *args: Any, **kwargs: Any) -> tuple[Rows, dict[str, Any]]:
    """Rows of GSM8K as prompts."""

    def transform(row: Mapping[str, Any], tokenizer: Any = None) -> dict[str, Any]:
        return {"prompt": [{"role": "user", "content": row["question"]}], "answer": row["answer"]}

    return transform, {"remove_columns": ["question"]}


def _texts(completions: list[Any]) -> list[str]:
    return [one if isinstance(one, str) else one[-1]["content"] for one in completions]


def format_reward(completions: list[Any], **kwargs: Any) -> list[float]:
    """1 for an answer of an even number of characters."""
    return [float(len(text) % 2 == 0) for text in _texts(completions)]


def correctness_reward(completions: list[Any], answer: list[str], **kwargs: Any) -> list[float]:
    """The part of an answer's characters that the right one has too."""
    pairs = zip(_texts(completions), answer, strict=True)
    return [len(set(text) & set(right)) / max(1, len(set(text))) for text, right in pairs]
