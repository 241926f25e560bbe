"""Prompts out of the rows of a recipe's datasets: what responses are sampled for.

A row of a supervised type gives its turns before the last response. Other rows give a dialogue
(`messages`, `conversations`, or the entry's `field_messages`), less the assistant's turns at its
end, or a text (`prompt`, `question`, or `instruction` with `input`), with `system` before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from axolotl_ual.errors import DataError

from .prompt import Message, Prompt
from .recipe import Entry, Recipe
from .rows import NATIVE, read_samples
from .sample import BadRow, Sample, shorten, text_of

if TYPE_CHECKING:
    from datasets import Dataset

_DIALOGUES: Final = ("messages", "conversations", "conversation")
_TEXTS: Final = ("prompt", "question", "instruction")
_ROLES: Final = {
    "human": "user",
    "gpt": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "user": "user",
    "system": "system",
    "tool": "tool",
}
_SHOWN: Final = 10


def read_prompts(table: Dataset, entry: Entry, recipe: Recipe) -> list[Prompt]:
    """The prompt of every row.

    Args:
        table: the rows.
        entry: where they come from.
        recipe: the recipe.

    Raises:
        DataError: rows that have no prompt, the first of them by number, key and value.
    """
    supervised = isinstance(entry.type, dict) or (
        entry.type in NATIVE and not str(entry.type).startswith("chat_template")
    )
    if supervised:
        samples = read_samples(table, entry, recipe)
        samples.check()
        return [prompt_of_sample(sample) for sample in samples]
    prompts, bad = [], []
    for number, row in enumerate(table):
        try:
            prompts.append(_of_row(row, entry))
        except BadRow as problem:
            bad.append(f"row {number}: `{problem.key}` {problem.problem}")
    if bad:
        more = [f"... and {len(bad) - _SHOWN:,} more"] if len(bad) > _SHOWN else []
        head = f"{entry.label}: {len(bad):,} of {len(table):,} rows have no prompt"
        raise DataError(
            "\n    ".join([head, *bad[:_SHOWN], *more]),
            "a row needs `messages` (role and content), or `prompt`, `question` or `instruction`; "
            "`field_messages` of the entry names another column",
        )
    return prompts


def prompt_of_sample(sample: Sample) -> Prompt:
    """The turns before the last response; text without roles is what a user says."""
    last = max(place for place, turn in enumerate(sample.turns) if turn.trained)
    while last > 0 and sample.turns[last - 1].trained:
        last -= 1
    before = sample.turns[:last]
    if any(turn.role is None for turn in before) or not before:
        return Prompt((("user", "".join(turn.text for turn in before)),))
    merged: list[Message] = []
    for turn in before:
        if turn.continues and merged:
            role, text = merged.pop()
            merged.append((role, text + turn.text))
        else:
            merged.append((str(turn.role), turn.text))
    return Prompt(tuple(merged))


def _of_row(row: Mapping[str, Any], entry: Entry) -> Prompt:
    field = entry.raw.get("field_messages")
    names = [field] if field else [name for name in _DIALOGUES if row.get(name) is not None]
    if names and not isinstance(row.get(names[0]), str):
        return _of_dialogue(row.get(names[0]), names[0], entry)
    text = _text(row, names[0] if names else None)
    system = row.get("system")
    before = (("system", text_of(system, "system")),) if system else ()
    return Prompt((*before, ("user", text)))


def _text(row: Mapping[str, Any], field: str | None) -> str:
    name = field or next((name for name in _TEXTS if row.get(name) is not None), _TEXTS[0])
    if isinstance(row.get(name), list):
        raise BadRow(name, "is a list; name it in the entry's `field_messages`")
    text = text_of(row.get(name), name)
    if name == "instruction" and row.get("input"):
        text = f"{text}\n\n{text_of(row['input'], 'input')}"
    if not text.strip():
        raise BadRow(name, f"is empty: {shorten(text)}")
    return text


def _of_dialogue(turns: Any, key: str, entry: Entry) -> Prompt:
    if not isinstance(turns, Sequence) or not turns:
        raise BadRow(key, f"is not a list of turns: {shorten(turns)}")
    messages = [_message(turn, f"{key}[{place}]", entry) for place, turn in enumerate(turns)]
    while messages and messages[-1][0] == "assistant":
        messages.pop()
    if not messages or messages[-1][0] == "system":
        raise BadRow(key, "has no turn that a response could follow")
    return Prompt(tuple(messages))


def _message(turn: Any, key: str, entry: Entry) -> Message:
    if not isinstance(turn, Mapping):
        raise BadRow(key, f"is not a turn with role and content: {shorten(turn)}")
    mapped = entry.raw.get("message_property_mappings") or {}
    role_key = mapped.get("role") or ("role" if "role" in turn else "from")
    text_key = mapped.get("content") or ("content" if "content" in turn else "value")
    spelled = text_of(turn.get(role_key), f"{key}.{role_key}")
    roles = dict(_ROLES)
    for target, sources in (entry.raw.get("roles") or {}).items():
        roles.update(dict.fromkeys(sources, target))
    if spelled not in roles:
        raise BadRow(
            f"{key}.{role_key}", f"is {spelled!r}, which is none of {', '.join(sorted(roles))}"
        )
    return roles[spelled], text_of(turn.get(text_key), f"{key}.{text_key}")
