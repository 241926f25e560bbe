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
from collections.abc import Callable, Mapping
from typing import Any

from axolotl.prompt_strategies.dpo import chat_template
from axolotl.utils.chat_templates import get_chat_template_from_config

from axolotl_ual.data.dialogue import renderable
from axolotl_ual.errors import UnsupportedError

Transform = Callable[..., dict[str, Any]]

MARK = "\ue000answer\ue001"


def pairs(cfg: Any, dataset_idx: int = 0, **options: Any) -> tuple[Transform, dict[str, Any]]:
    """What Axolotl's loader makes of `type: axolotl_ual.pairs`.

    It takes the settings of an entry that `chat_template.default` takes: `field_messages`,
    `field_chosen`, `field_rejected`, `roles`, `message_property_mappings`, `chat_template`.

    Args:
        cfg: Axolotl's configuration.
        dataset_idx: which entry of its `datasets`.
        options: of Axolotl's loader.

    Returns:
        A transform of rows to prompt, chosen and rejected texts, and options of `datasets.map`.
    """
    loaded = chat_template.default(cfg, dataset_idx=dataset_idx, **options)
    if not (isinstance(loaded, tuple) and len(loaded) == 2):
        raise UnsupportedError(
            f"axolotl: `chat_template.default` gives {type(loaded).__name__}, not a transform "
            "with options, so answers cannot be rendered exactly",
            "install a version of axolotl that this plugin supports",
        )
    entry = cfg["datasets"][dataset_idx]
    fields = {
        "chosen": entry.get("field_chosen") or "chosen",
        "rejected": entry.get("field_rejected") or "rejected",
    }

    def template(tokenizer: Any) -> str:
        return str(get_chat_template_from_config(cfg, ds_cfg=entry, tokenizer=tokenizer))

    return with_tools(exact(loaded[0], fields), template), loaded[1]


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
