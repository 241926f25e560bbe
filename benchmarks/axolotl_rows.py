"""Rows for Axolotl's own recipes: a few of the format that each dataset names, annotated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Recipe = dict[str, Any]

ROWS = 48
DATASETS = ("datasets", "test_datasets", "pretraining_dataset")
_CODE = ("id", "domain", "generation_algorithm", "llm_judgement", "unit_tests")
_CODE_TESTS = ("tests_execution_status", "average_test_score")
"""Columns that a recipe's own transform removes, and misses where they are not."""


def _question(n: int) -> str:
    return f"Tell me about the number {n} ?"


def _answer(n: int) -> str:
    return f"The number {n} comes after {n - 1}. " * (1 + n % 3)


def _said(entry: Mapping[str, Any], pairs: list[tuple[str, str]]) -> list[dict[str, str]]:
    """Messages with the names that a dataset gives to their parts."""
    names = {"role": "role", "content": "content", **(entry.get("message_property_mappings") or {})}
    names["role"] = entry.get("message_field_role", names["role"])
    names["content"] = entry.get("message_field_content", names["content"])
    people = {"user": "human", "assistant": "gpt"} if names["role"] == "from" else {}
    return [{names["role"]: people.get(who, who), names["content"]: text} for who, text in pairs]


def _chat(entry: Mapping[str, Any], n: int) -> Recipe:
    pairs = [("user", _question(n)), ("assistant", _answer(n))]
    return {entry.get("field_messages", "messages"): _said(entry, pairs)}


def _pair(entry: Mapping[str, Any], n: int) -> Recipe:
    chosen, rejected = (_said(entry, [("assistant", text)]) for text in (_answer(n), "No."))
    return {
        entry.get("field_messages", "messages"): _said(entry, [("user", _question(n))]),
        entry.get("field_chosen", "chosen"): chosen[0],
        entry.get("field_rejected", "rejected"): rejected[0],
    }


def _dialogues(entry: Mapping[str, Any], n: int) -> Recipe:
    asked = ("user", _question(n))
    good, bad = (_said({}, [asked, ("assistant", text)]) for text in (_answer(n), "No."))
    return {"prompt": _question(n), "chosen": good, "rejected": bad}


def _code(_: Mapping[str, Any], n: int) -> Recipe:
    removed = dict.fromkeys((*_CODE, *_CODE_TESTS), "")
    return {"input": _question(n), "output": _answer(n), **removed}


_FORMATS: Mapping[str, Callable[[Mapping[str, Any], int], Recipe]] = {
    "alpaca": lambda _, n: {"instruction": _question(n), "input": "", "output": _answer(n)},
    "completion": lambda entry, n: {entry.get("field") or "text": _answer(n)},
    "tokens": lambda _, n: {
        "input_ids": list(range(1, 9 + n % 3)),
        "attention_mask": [1] * (8 + n % 3),
        "labels": [-100] * 2 + list(range(3, 9 + n % 3)),
    },
    "pretrain": lambda entry, n: {entry.get("text_column") or "text": _answer(n)},
    "chat_template": _chat,
    "chat_template.default": _pair,
    "chat_template.argilla": _dialogues,
    "chatml.ultra": _dialogues,
    "llama3.ultra": lambda _, n: {
        "prompt": _question(n),
        "completion": _said({}, [("user", _question(n)), ("assistant", _answer(n))]),
        "label": bool(n % 2),
    },
    "bradley_terry.chat_template": lambda _, n: {
        "system": "",
        "input": _question(n),
        "chosen": _answer(n),
        "rejected": "No.",
    },
    "ebft_opencode.transform": _code,
    "ebft_strided_structured.transform": _code,
    "ebft_pretrain.transform": lambda _, n: {"question": _answer(n), "answer": ""},
    "rwd.gsm8k_transform": lambda _, n: {"question": _question(n), "answer": _answer(n)},
    "stepwise_supervised": lambda _, n: {
        "prompt": _question(n),
        "completions": [_answer(n), "So it is."],
        "labels": [True, bool(n % 2)],
    },
}
"""Row n of a dataset by the `type` of its entry."""
_BARE = ("ebft_pretrain.transform",)
"""Types that keep all other columns of a row, of which their trainer then makes tensors."""


def rows(entry: Mapping[str, Any]) -> list[Recipe]:
    """Rows of the format of an entry, with our columns where these can stand.

    Raises:
        KeyError: of no known format.
    """
    kind = _format(entry)
    bare = kind in _BARE
    return [{**_FORMATS[kind](entry, n), **({} if bare else annotated(n))} for n in range(ROWS)]


def _format(entry: Mapping[str, Any]) -> str:
    """The type of an entry, without what follows a colon; tokens where it is left empty."""
    named = str(entry.get("type", "chat_template") or "tokens")
    return named if named in _FORMATS else named.partition(":")[0]


def unknown_formats(recipe: Recipe) -> list[str]:
    """Types of a recipe's entries of which no rows can be made."""
    if recipe.get("processor_type"):
        return []
    listed = [recipe.get(key) or [] for key in DATASETS]
    entries = [one for found in listed for one in (found if isinstance(found, list) else [found])]
    named = {_format(entry) for entry in entries if not isinstance(entry, str)}
    return sorted(named - _FORMATS.keys())


def annotated(n: int) -> Recipe:
    """Columns of ours for row n."""
    stage = ("conservative", "moderate", "exploratory")[n % 3]
    return {"ual_uncertainty": (n % 5) / 5, "ual_smoothing": (n % 5) / 20, "ual_stage": stage}
