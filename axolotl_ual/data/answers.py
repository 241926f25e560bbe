"""Answers of preference pairs, rendered as they are.

Axolotl's `chat_template.default` renders an answer behind a made-up user turn and looks for the
first place where its text occurs. A short answer ("a", "user", "1") may occur before its own place,
in a role's name or in a date, and would then be trained on with pieces of the template before it.
Here the template is rendered with a mark in the answer's place, which occurs nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from axolotl.utils.data import rl

Transform = Callable[..., dict[str, Any]]

MARK = "\ue000answer\ue001"
_TYPES = ("chat_template", "chat_template.default")


@contextmanager
def exact_answers() -> Iterator[None]:
    """Render answers exactly while Axolotl loads preference data."""
    stock = rl.load_dpo

    def load(kind: str, cfg: Any, dataset_idx: int = 0, **options: Any) -> Any:
        loaded = stock(kind, cfg, dataset_idx=dataset_idx, **options)
        if kind not in _TYPES or not isinstance(loaded, tuple):
            return loaded
        entry = cfg["datasets"][dataset_idx]
        fields = {
            "chosen": entry.get("field_chosen") or "chosen",
            "rejected": entry.get("field_rejected") or "rejected",
        }
        return exact(loaded[0], fields), *loaded[1:]

    rl.load_dpo = load
    try:
        yield
    finally:
        rl.load_dpo = stock


def exact(transform: Transform, fields: Mapping[str, str]) -> Transform:
    """A transform that finds each answer by a mark; other shapes of answers pass as they are.

    Args:
        transform: Axolotl's, from a row to prompt, chosen and rejected texts.
        fields: for chosen and rejected the column that holds {role, content}.
    """

    def render(sample: Mapping[str, Any], tokenizer: Any = None) -> dict[str, Any]:
        answers = {name: sample[column] for name, column in fields.items()}
        if not all(_is_message(answer) for answer in answers.values()):
            return transform(sample, tokenizer=tokenizer)
        marked = {column: {**answers[name], "content": MARK} for name, column in fields.items()}
        result = transform({**sample, **marked}, tokenizer=tokenizer)
        for name, answer in answers.items():
            result[name] = result[name].replace(MARK, answer["content"])
        return result

    return render


def _is_message(answer: Any) -> bool:
    return isinstance(answer, Mapping) and isinstance(answer.get("content"), str)
