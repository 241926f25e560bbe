"""Rows of an annotated file as turns, and how long their responses are.

Rows are read as they were judged, by the reader of their entry's type. Where that reader cannot be
had (a type that only Axolotl reads, a folder without a manifest) the columns themselves tell: a
list of messages, or texts of which one is called output, response, ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from axolotl_ual.columns import IGNORE_INDEX, PREFIX
from axolotl_ual.errors import ConfigError

from ..data.chat import chat_reader
from ..data.chat_fields import ChatFields
from ..data.rows import NATIVE
from ..data.sample import BadRow, Row, Turn
from ..data.single_turn import custom_reader
from .folder import Part

Turns = tuple[Turn, ...]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

CHARACTERS: Final = "characters"
TOKENS: Final = "tokens"
_DIALOGUES: Final = ("messages", "conversations", "conversation")
_RESPONSES: Final = ("output", "response", "answer", "completion", "chosen", "text")
_ASSISTANT: Final = frozenset({"assistant", "gpt", "model", "bot"})
"""The label of a token that is not trained."""
_SHOWN_TOKENS: Final = 200


@dataclass(frozen=True, slots=True)
class Measures:
    """What a batch of B rows measures.

    Attributes:
        length_B: float32, length of the response in the reader's unit; NaN where it is not known.
        turns_B: float32, number of messages; NaN where it is not known.
    """

    length_B: FloatArray
    turns_B: FloatArray


@dataclass(frozen=True, slots=True)
class TextReader:
    """How the rows of one file are read.

    Attributes:
        columns: those that are needed.
        turns: one row as its turns; those that are trained are the response.
        measure: response length and number of turns of a batch.
        unit: of the length.
    """

    columns: list[str]
    turns: Callable[[Row], Turns]
    measure: Callable[[pa.RecordBatch], Measures]
    unit: str = CHARACTERS


def text_reader(part: Part) -> TextReader:
    """The reader of an annotated file."""
    present = [name for name in part.schema.names if not name.startswith(PREFIX)]
    if {"input_ids", "labels"} <= set(present):
        return TextReader(["input_ids", "labels"], _tokens, _measure_tokens, TOKENS)
    kind = part.entry.get("type")
    try:
        if isinstance(kind, Mapping):
            reader = custom_reader(kind, part.label)
        elif str(kind).startswith("chat_template"):
            fields = replace(ChatFields.of(part.entry, False, part.label), images="omit")
            reader = chat_reader(fields)
        elif kind in NATIVE:
            reader = NATIVE[kind](part.entry, False, part.label)
        else:
            return _guessing(present)
    except ConfigError:
        return _guessing(present)
    needed = [name for name in present if name in {*reader.needed, *reader.optional}]
    if not set(reader.needed) <= set(needed):
        return _guessing(present)

    def turns(row: Row) -> Turns:
        try:
            return reader.read(row).turns
        except BadRow:
            return _guess(row)

    if str(kind).startswith("chat_template"):
        fields = ChatFields.of(part.entry, False, part.label)
        if _is_plain_chat(part.schema, fields, present):
            return TextReader(needed, turns, lambda batch: _measure_chat(batch, fields))
    return TextReader(needed, turns, lambda batch: _measure_each(batch, turns))


def measure_turns(turns: Turns) -> tuple[float, float]:
    """Characters that are trained, NaN where nothing is, and number of messages."""
    trained = [len(turn.text) for turn in turns if turn.trained]
    messages = sum(not turn.continues for turn in turns)
    return float(sum(trained)) if trained else np.nan, float(messages)


def _measure_each(batch: pa.RecordBatch, turns: Callable[[Row], Turns]) -> Measures:
    found = [measure_turns(turns(row)) for row in rows_of(batch)]
    both = np.array(found, dtype=np.float32).reshape(len(found), 2)
    return Measures(both[:, 0], both[:, 1])


def rows_of(batch: pa.RecordBatch) -> list[Row]:
    """The rows of a batch as mappings."""
    rows: list[Row] = batch.to_pylist()
    return rows


def _is_plain_chat(schema: pa.Schema, fields: ChatFields, present: Sequence[str]) -> bool:
    """Whether messages are role and content alone, so that whole columns can be measured."""
    kind = schema.field(fields.messages).type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    message = kind.value_type
    if not pa.types.is_struct(message) or {fields.tools, "system"} & set(present):
        return False
    inside = {field.name: field.type for field in message}
    special = {fields.reasoning, fields.training, fields.training_detail, "tool_calls"}
    return (
        pa.types.is_string(inside.get(fields.role))
        and pa.types.is_string(inside.get(fields.content))
        and not special & inside.keys()
        and not fields.drop_system_message
    )


def _measure_chat(batch: pa.RecordBatch, fields: ChatFields) -> Measures:
    """As `_measure_each` with the chat reader, for whole columns."""
    messages = batch.column(fields.messages)
    flat = messages.flatten()
    trained_names = [n for n, role in fields.roles.items() if role in fields.roles_to_train]
    names = pa.array([*trained_names, *(fields.roles_to_train - fields.roles.keys())])
    trained = pc.is_in(flat.field(fields.role), value_set=names).to_numpy(zero_copy_only=False)
    lengths = pc.fill_null(pc.utf8_length(flat.field(fields.content)), 0).to_numpy()
    counts = pc.fill_null(pc.list_value_length(messages), 0).to_numpy()
    row = np.repeat(np.arange(len(counts)), counts)
    total = np.bincount(row, weights=np.where(trained, lengths, 0), minlength=len(counts))
    has_trained = np.bincount(row, weights=trained, minlength=len(counts)) > 0
    length = np.where(has_trained, total, np.nan).astype(np.float32)
    return Measures(length, counts.astype(np.float32))


def _guessing(present: Sequence[str]) -> TextReader:
    return TextReader(list(present), _guess, lambda batch: _measure_each(batch, _guess))


def _guess(row: Row) -> Turns:
    for name in _DIALOGUES:
        value = row.get(name)
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            return tuple(_message(message) for message in value)
    texts = {name: value for name, value in row.items() if isinstance(value, str) and value}
    response = next((name for name in _RESPONSES if name in texts), None)
    before = [Turn(name, text, False) for name, text in texts.items() if name != response]
    after = [] if response is None else [Turn(response, texts[response], True)]
    return (*before, *after)


def _message(message: Mapping[str, Any]) -> Turn:
    role = message.get("role") or message.get("from")
    content = next((message[k] for k in ("content", "value", "text") if message.get(k)), "")
    text = content if isinstance(content, str) else str(content)
    return Turn(None if role is None else str(role), text, role in _ASSISTANT)


def _tokens(row: Row) -> Turns:
    ids, labels = row["input_ids"], row["labels"]
    trained = sum(label != IGNORE_INDEX for label in labels)
    shown = " ".join(map(str, ids[:_SHOWN_TOKENS])) + (" ..." if len(ids) > _SHOWN_TOKENS else "")
    return (Turn(f"{len(ids):,} tokens, {trained:,} of them trained", shown, True),)


def _measure_tokens(batch: pa.RecordBatch) -> Measures:
    labels = batch.column("labels")
    counts = pc.fill_null(pc.list_value_length(labels), 0).to_numpy()
    kept = pc.not_equal(labels.flatten(), IGNORE_INDEX).to_numpy(zero_copy_only=False)
    row = np.repeat(np.arange(len(counts)), counts)
    length = np.bincount(row, weights=kept, minlength=len(counts)).astype(np.float32)
    return Measures(length, np.full(len(counts), np.nan, dtype=np.float32))
