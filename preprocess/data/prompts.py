"""Prompts out of the rows of a recipe's datasets: what responses are sampled for.

A dialogue (`messages`, `conversations`, or the entry's `field_messages`) is read as `annotate`
reads it, less the assistant's turns at its end. Any other row is a text (`prompt`, `question`,
`instruction` with its `input` or `context`, ...) behind its `system` and its `history`. Types whose
prompt has no column of its own (`input_output`, a custom format) give the turns before the last
response.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from .chat import SYSTEM, conversation, turns_of
from .chat_fields import ChatFields
from .messages import parse_json, structured, tools_of, without_nulls
from .prompt import Message, Prompt, chat_json
from .recipe import Entry, Recipe
from .rows import ALPACA_TYPES, NATIVE, Rows, read_samples
from .sample import BadRow, Reader, Row, Sample, Turn, kind_of, shorten, text_of
from .single_turn import AlpacaFields, formatted

if TYPE_CHECKING:
    from datasets import Dataset

_DIALOGUES: Final = ("messages", "conversations", "conversation")
_TEXTS: Final = ("prompt", "question", "instruction", "query", "input")
_SYSTEMS: Final = ("system", "system_prompt")
_HISTORY: Final = "history"
_CONTEXT: Final = "context"
"""What Dolly calls the input of an instruction, and SQuAD the text that a question is about."""
_JSON: Final = re.compile(r"\s*(?:\[\s*[{\]]|\{\s*\")")
_ROLE: Final = {"role", "from"}
_ROLES: Final = {
    "human": "user",
    "gpt": "assistant",
    "model": "assistant",
    "developer": "system",
    "function": "tool",
    **{role: role for role in ("system", "user", "assistant", "tool")},
}
_FORMATTED: Final = frozenset(
    {"field_instruction", "field_input", "field_output", "format", "no_input_format"}
)
"""Keys of a custom type of supervised training; others have a `field_prompt`."""
_USUAL: Final = AlpacaFields()
_FIX: Final = (
    "a row needs `messages` (role and content), or `prompt`, `question` or `instruction`; "
    "`field_messages` of the entry names another column"
)


def read_prompts(table: Dataset, entry: Entry, recipe: Recipe) -> Rows[Prompt]:
    """The prompt of every row, read when it is asked for.

    Args:
        table: the rows.
        entry: where they come from.
        recipe: the recipe.

    Raises:
        ConfigError: an option of the entry has the wrong shape.
    """
    kind, raw, where = entry.type, entry.raw, f"{recipe.path}: {entry.label}"
    if isinstance(kind, str) and kind in ALPACA_TYPES:
        fields = ALPACA_TYPES[kind]
        reader = prompt_reader(raw, where, [fields.instruction], fields)
    elif isinstance(kind, dict) and not _FORMATTED & kind.keys():
        text = str(kind.get("field_prompt") or "prompt")
        system = str(kind.get("field_system") or SYSTEM)
        reader = prompt_reader(raw, where, [text], AlpacaFields(text, None, "", system))
    elif isinstance(kind, dict) or (kind in NATIVE and not kind.startswith("chat_template")):
        reader = _behind(read_samples(table, entry, recipe).reader)
    else:
        reader = prompt_reader(raw, where)
    return Rows(table, entry, reader)


def prompt_reader(
    raw: Mapping[str, Any],
    where: str,
    texts: Sequence[str] = (),
    columns: AlpacaFields = _USUAL,
) -> Reader[Prompt]:
    """A reader of dialogues and of texts.

    Args:
        raw: the entry, whose options of dialogues count.
        where: what error messages call the entry.
        texts: the column that the type names for the text; empty: a dialogue, or any of the usual.
        columns: of the type: those of its input and its system message are read.

    Raises:
        ConfigError: an option of the entry has the wrong shape.
    """
    fields = ChatFields.of(raw, train_on_inputs=False, where=where)
    fields = replace(fields, roles={**_ROLES, **fields.roles})
    mapped = {"role", "content"} & (raw.get("message_property_mappings") or {}).keys()

    def read(row: Row) -> Prompt:
        name = _column(row, raw, texts)
        messages = _listed(row.get(name), name, is_dialogue=not texts and name not in _TEXTS)
        if messages is None:
            said = {fields.role: "user", fields.content: _text(row, name, columns)}
            messages = [*_history(row.get(_HISTORY), fields), said]
        spelled = replace(fields, messages=name)
        if not mapped and "role" not in messages[0] and "from" in messages[0]:
            spelled = replace(spelled, role="from", content="value")
        system = next((row[n] for n in (columns.system, *_SYSTEMS) if n and row.get(n)), None)
        return dialogue_prompt({**row, name: messages, SYSTEM: system}, spelled)

    beside = (columns.input, columns.system, *_SYSTEMS, _HISTORY, fields.tools, fields.messages)
    return Reader(read, tuple(texts), tuple(n for n in beside if n) if texts else (), _FIX)


def prompt_of_sample(sample: Sample) -> Prompt:
    """The turns before the last response; text without roles is what a user says."""
    last = max(place for place, turn in enumerate(sample.turns) if turn.trained)
    while last > 0 and sample.turns[last - 1].trained:
        last -= 1
    before = sample.turns[:last]
    if any(turn.role is None for turn in before) or not before:
        return Prompt((("user", "".join(turn.text for turn in before)),))
    return Prompt(_merged(before))


def dialogue_prompt(row: Row, fields: ChatFields) -> Prompt:
    """The dialogue of a row up to what is answered.

    Raises:
        BadRow: there is no dialogue, nothing in it to answer, or a role that no chat template has.
    """
    messages = conversation(row, fields)
    while messages and messages[-1].role == "assistant":
        messages.pop()
    if not messages or messages[-1].role == "system":
        raise BadRow(fields.messages, "has no turn that a response could follow", _FIX)
    for message in messages:
        if message.role not in _ROLES.values():
            raise BadRow(
                f"{message.key}.{fields.role}",
                f"is {message.role!r}, which is none of {', '.join(sorted(fields.roles))}",
                "map it in `roles:` of the entry, for example `roles: {assistant: [bot]}`",
            )
    tools = without_nulls(row.get(fields.tools))
    shaped = [structured(message, fields) for message in messages]
    chat = chat_json(shaped, tools_of(tools, fields.tools) if tools else [])
    return Prompt(_merged(turns_of(messages, row, fields)), chat)


def _column(row: Row, raw: Mapping[str, Any], texts: Sequence[str]) -> str:
    """The column that holds the dialogue or the text of a row."""
    if raw.get("field_messages"):
        return str(raw["field_messages"])
    names = texts or [*_DIALOGUES, *_TEXTS]
    found = [name for name in names if row.get(name) is not None]
    answered = str(raw.get("field_chosen") or "chosen")
    if not found and not texts and isinstance(row.get(answered), list):
        return answered
    return next(iter(found or texts), "prompt")


def _listed(value: Any, name: str, *, is_dialogue: bool) -> list[Any] | None:
    """The messages that a column holds, as they are or as JSON; None where it holds a text."""
    if isinstance(value, str):
        if not _JSON.match(value):
            return None
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            if not is_dialogue:
                return None
            raise BadRow(
                name, f"is a string that is not JSON ({error}): {shorten(value)}"
            ) from None
        value = _unwrapped(value)
        if not is_dialogue and not _is_turns(value):
            return None
    if not isinstance(value, (list, Mapping)):
        return None
    if not isinstance(value, list) or not value:
        raise BadRow(name, f"is not a list of turns: {shorten(value)}", _FIX)
    for place, turn in enumerate(value):
        if not isinstance(turn, Mapping):
            raise BadRow(
                f"{name}[{place}]", f"is not a turn with role and content: {shorten(turn)}", _FIX
            )
    return [without_nulls(turn) for turn in value]


def _unwrapped(value: Any) -> Any:
    """The dialogue of an object that holds one, as in the requests of chat APIs."""
    if isinstance(value, Mapping):
        for name in _DIALOGUES:
            if _is_turns(value.get(name)):
                return value[name]
    return value


def _is_turns(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(turn, Mapping) and _ROLE & turn.keys() for turn in value
    )


def _text(row: Row, name: str, columns: AlpacaFields) -> str:
    if row.get(name) is None:
        raise BadRow(name, "is missing or null", _FIX)
    text = formatted(row[name], name)
    beside = columns.input if name in ("instruction", columns.instruction) else None
    has_input = beside is not None and row.get(beside)
    if columns is _USUAL and not has_input and isinstance(row.get(_CONTEXT), str):
        beside = _CONTEXT
    if beside and row.get(beside):
        text = f"{text}\n\n{formatted(row[beside], beside)}"
    if not text.strip():
        raise BadRow(name, f"is empty: {shorten(text)}", _FIX)
    return text


def _history(value: Any, fields: ChatFields) -> list[dict[str, Any]]:
    """Earlier turns: messages, or pairs of what the user said and what was answered."""
    if isinstance(value, str) and value:
        value = parse_json(value, _HISTORY)
    if not value:
        return []
    if not isinstance(value, list):
        raise BadRow(_HISTORY, f"is {kind_of(value)} and not a list of earlier turns")
    if all(isinstance(turn, Mapping) for turn in value):
        return [without_nulls(turn) for turn in value]
    turns = []
    for place, pair in enumerate(value):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise BadRow(
                f"{_HISTORY}[{place}]",
                f"is neither a message nor a pair of question and answer: {shorten(pair)}",
            )
        for role, said in zip(("user", "assistant"), pair, strict=True):
            turns.append({fields.role: role, fields.content: text_of(said, f"{_HISTORY}[{place}]")})
    return turns


def _behind(reader: Reader[Sample]) -> Reader[Prompt]:
    """The prompts of samples."""

    def read(row: Row) -> Prompt:
        prompt = prompt_of_sample(reader.read(row))
        if not any(text.strip() for _, text in prompt.messages):
            raise BadRow("row", "has no prompt before its response", _FIX)
        return prompt

    return Reader(read, reader.needed, reader.optional, reader.hint)


def _merged(turns: Iterable[Turn]) -> tuple[Message, ...]:
    merged: list[Message] = []
    for turn in turns:
        if turn.continues and merged:
            role, text = merged.pop()
            merged.append((role, text + turn.text))
        else:
            merged.append((str(turn.role), turn.text))
    return tuple(merged)
