"""Answers of preference pairs, rendered as they are.

Axolotl's `chat_template.default` renders an answer behind a made-up user turn and looks for the
first place where its text occurs. A short answer ("a", "user", "1") may occur before its own place,
in a role's name or in a date, and would then be trained on with pieces of the template before it.
Here the template is rendered with a mark in the answer's place, which occurs nowhere else.

Of a dialogue Axolotl renders roles and texts alone. Where the pairs hold one with tools and calls
(the column `chat`), all of it is rendered.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from axolotl.utils.chat_templates import get_chat_template_from_config
from axolotl.utils.data import rl

from axolotl_ual.data.dialogue import renderable

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

        def template(tokenizer: Any) -> str:
            return str(get_chat_template_from_config(cfg, ds_cfg=entry, tokenizer=tokenizer))

        return with_tools(exact(loaded[0], fields), template), *loaded[1:]

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


def with_tools(transform: Transform, template: Callable[[Any], str]) -> Transform:
    """A transform that renders all of a dialogue with tools; others pass as they are.

    Args:
        transform: from a row to prompt, chosen and rejected texts.
        template: from the tokenizer to the source of the chat template.
    """

    def render(sample: Mapping[str, Any], tokenizer: Any = None) -> dict[str, Any]:
        result = transform(sample, tokenizer=tokenizer)
        chat = sample.get("chat")
        if not chat:
            return result
        source = template(tokenizer)
        messages, tools = renderable(chat, sample["messages"], source)

        def text(more: list[dict[str, Any]]) -> str:
            return str(
                tokenizer.apply_chat_template(
                    [*messages, *more],
                    tools=tools,
                    chat_template=source,
                    add_generation_prompt=not more,
                    tokenize=False,
                )
            )

        result["prompt"] = text([])
        for name in ("chosen", "rejected"):
            answer = json.loads(chat).get(name)
            if answer and tools is not None:
                whole = text([answer])
                result[name] = whole[_shared(whole, result["prompt"]) :].rstrip()
        return result

    return render


def _shared(text: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    pairs = zip(text, other, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _is_message(answer: Any) -> bool:
    return isinstance(answer, Mapping) and isinstance(answer.get("content"), str)
