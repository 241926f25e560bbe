"""Reader of `type: chat_template`: messages with roles, any number of turns.

Which messages are trained follows Axolotl: a message's own training flag, then its training
details, then `roles_to_train`. Details count characters here; Axolotl widens them to whole tokens.
How reasoning and tool calls are spelled belongs to the model's chat template: a sample holds the
reasoning before the content, and each tool call as a line of JSON after it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from axolotl_ual.errors import ConfigError

from .sample import BadRow, Reader, Row, Sample, Turn, kind_of, make_sample, shorten, text_of

_ROLES = {
    "user": ["human", "user"],
    "assistant": ["gpt", "assistant"],
    "system": ["system"],
    "tool": ["tool"],
}
_SYSTEM = "system"
"""The column that gives a conversation its system message where it does not begin with one."""

Piece = tuple[str, bool]
"""Text and whether it is trained."""


@dataclass(frozen=True, slots=True)
class ChatFields:
    """The options of a `chat_template` entry that decide what a row says."""

    messages: str = "messages"
    tools: str = "tools"
    role: str = "role"
    content: str = "content"
    reasoning: str = "reasoning_content"
    training: str | None = None
    training_detail: str | None = None
    roles: dict[str, str] = field(default_factory=dict)
    roles_to_train: frozenset[str] = frozenset({"assistant"})
    drop_system_message: bool = False
    train_on_inputs: bool = False

    @classmethod
    def of(cls, entry: Mapping[str, Any], train_on_inputs: bool, where: str) -> ChatFields:
        """Read the options of an entry.

        Raises:
            ConfigError: an option has the wrong shape, or two contradict each other.
        """
        given = {key: value for key, value in entry.items() if value is not None}
        mapping = _mapping(given, where)
        roles = _roles(given.get("roles") or _ROLES, where)
        to_train = given.get("roles_to_train", ["assistant"])
        if not isinstance(to_train, list):
            raise ConfigError(f"{where}.roles_to_train: must be a list, not {to_train!r}")
        thinking = given.get("template_thinking_key", "reasoning_content")
        return cls(
            messages=given.get("field_messages", "messages"),
            tools=given.get("field_tools", "tools"),
            role=mapping["role"],
            content=mapping["content"],
            reasoning=mapping.get(thinking) or thinking,
            training=given.get("message_field_training"),
            training_detail=given.get("message_field_training_detail"),
            roles=roles,
            roles_to_train=frozenset(roles.get(str(role), str(role)) for role in to_train),
            drop_system_message=bool(given.get("drop_system_message")),
            train_on_inputs=train_on_inputs,
        )


def chat_reader(fields: ChatFields) -> Reader:
    """A reader of conversations."""

    def read(row: Row) -> Sample:
        messages = _messages(_without_nulls(row.get(fields.messages)), fields)
        turns = _turns(messages, row, fields, everything=False)
        if fields.train_on_inputs and not any(turn.trained for turn in turns):
            turns = _turns(messages, row, fields, everything=True)
        return make_sample(turns, fields.messages)

    return Reader(
        read,
        (fields.messages,),
        (fields.tools, _SYSTEM),
        "set `field_messages:` of this dataset to the column with the conversations",
    )


def _roles(spelled: Any, where: str) -> dict[str, str]:
    """The role of each name that messages use."""
    if not isinstance(spelled, Mapping) or not all(isinstance(v, list) for v in spelled.values()):
        raise ConfigError(
            f"{where}.roles: must map each role to a list of names, not {spelled!r}",
            "write for example `roles: {user: [human], assistant: [gpt]}`",
        )
    return {str(name): str(role) for role, names in spelled.items() for name in names}


def _mapping(given: Mapping[str, Any], where: str) -> dict[str, str]:
    """`message_property_mappings` with the deprecated spelling of its two main keys taken in."""
    mapping = given.get("message_property_mappings", {})
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{where}.message_property_mappings: must be a mapping, not {mapping!r}")
    mapping = dict(mapping)
    for key in ("role", "content"):
        old = given.get(f"message_field_{key}")
        if old is not None and mapping.get(key, old) != old:
            raise ConfigError(
                f"{where}.message_field_{key}: {old!r} contradicts "
                f"message_property_mappings.{key}: {mapping[key]!r}",
                f"take the deprecated message_field_{key} out",
            )
        mapping.setdefault(key, old or key)
    return mapping


def _messages(value: Any, fields: ChatFields) -> list[Mapping[str, Any]]:
    key = fields.messages
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise BadRow(key, f"is a string that is not JSON ({error}): {shorten(value)}") from None
    if value is None:
        raise BadRow(key, "is missing or null")
    if not isinstance(value, list):
        raise BadRow(key, f"is {kind_of(value)} and not a list of messages")
    if not value:
        raise BadRow(key, "is an empty list")
    for i, message in enumerate(value):
        if not isinstance(message, Mapping):
            raise BadRow(f"{key}[{i}]", f"is {kind_of(message)} and not a message")
    return value


def _turns(
    messages: list[Mapping[str, Any]], row: Row, fields: ChatFields, *, everything: bool
) -> list[Turn]:
    turns: list[Turn] = []
    first_role = _role(messages[0], fields, f"{fields.messages}[0]")
    own_system = row.get(_SYSTEM)
    if first_role != "system" and own_system is not None:
        trained = everything or "system" in fields.roles_to_train
        turns.append(Turn("system", text_of(own_system, _SYSTEM), trained))
    for i, message in enumerate(messages):
        key = f"{fields.messages}[{i}]"
        role = _role(message, fields, key)
        should = everything or role in fields.roles_to_train
        turns.extend(_as_turns(role, _pieces(message, fields, should, key)))
    if fields.drop_system_message and turns[0].role == "system":
        turns = turns[_length_of_first(turns) :]
    return _with_tools(turns, row, fields)


def _as_turns(role: str, pieces: list[Piece]) -> list[Turn]:
    return [Turn(role, text, trained, i > 0) for i, (text, trained) in enumerate(pieces)]


def _length_of_first(turns: list[Turn]) -> int:
    """How many turns the first message is."""
    return next((i for i, turn in enumerate(turns) if i and not turn.continues), len(turns))


def _role(message: Mapping[str, Any], fields: ChatFields, key: str) -> str:
    if message.get(fields.role) is None:
        raise BadRow(
            f"{key}.{fields.role}",
            f"is missing or null; the message has {', '.join(sorted(message)) or 'no keys'}",
            "set `message_property_mappings: {role: ..., content: ...}` to the keys of a message",
        )
    role = text_of(message[fields.role], f"{key}.{fields.role}")
    return fields.roles.get(role, role)


def _pieces(message: Mapping[str, Any], fields: ChatFields, should: bool, key: str) -> list[Piece]:
    """What a message says, cut where training begins and ends."""
    content, detail = _content(message, fields.content, key)
    reasoning, reasoning_detail = _content(message, fields.reasoning, key)
    calls = _tool_calls(message, key)
    if content is None and not reasoning and not calls:
        raise BadRow(f"{key}.{fields.content}", "is missing or null")
    own_detail = message.get(fields.training_detail) if fields.training_detail else None
    if detail is None and own_detail is not None:
        detail = _details(own_detail, f"{key}.{fields.training_detail}")
    flag = message.get(fields.training) if fields.training else None
    if flag is not None:
        should = bool(flag)
    elif detail is not None or reasoning_detail is not None:
        should = bool(detail) or bool(reasoning_detail)
    whole = should and not detail and not reasoning_detail
    parts: list[list[Piece]] = []
    if reasoning:
        parts.append(_cut(reasoning, reasoning_detail if should else None, whole))
    if content is not None:
        parts.append(_cut(content, detail if should else None, whole))
    if calls:
        parts.append([(calls, whole)])
    return _merge(_spaced(parts, whole))


def _spaced(parts: list[list[Piece]], trained: bool) -> Iterable[Piece]:
    """The parts of a message with an empty line between those that have text."""
    begun = False
    for part in parts:
        if begun and any(text for text, _ in part):
            yield "\n\n", trained
        begun = begun or any(text for text, _ in part)
        yield from part


def _merge(pieces: Iterable[Piece]) -> list[Piece]:
    groups = groupby(pieces, key=lambda piece: piece[1])
    merged = [("".join(text for text, _ in group), trained) for trained, group in groups]
    kept = [(text, trained) for text, trained in merged if text]
    return kept or merged[:1]


def _cut(text: str, detail: list[tuple[int, int]] | None, whole: bool) -> list[Piece]:
    """Cut a text into trained and untrained pieces.

    Args:
        text: of a message.
        detail: trained spans, begin and end inclusive, or None where there are none.
        whole: whether all is trained; only asked where there is no detail.
    """
    if not detail:
        return [(text, whole)]
    trained = [False] * len(text)
    for begin, end in detail:
        for i in range(max(begin, 0), min(end + 1, len(text))):
            trained[i] = True
    return [
        ("".join(text[i] for i in group), flag)
        for flag, group in groupby(range(len(text)), key=trained.__getitem__)
    ]


def _details(value: Any, key: str) -> list[tuple[int, int]]:
    """Trained spans of `[{begin_offset, end_offset, train}, ...]`, ends inclusive."""
    if not isinstance(value, list):
        raise BadRow(key, f"is {kind_of(value)} and not a list of spans")
    spans = []
    for i, span in enumerate(value):
        try:
            begin, end, train = int(span["begin_offset"]), int(span["end_offset"]), span["train"]
        except (TypeError, KeyError, ValueError):
            raise BadRow(
                f"{key}[{i}]", f"needs begin_offset, end_offset and train: {shorten(span)}"
            ) from None
        spans.append((begin, end if train else begin - 1))
    return spans


def _content(
    message: Mapping[str, Any], name: str, key: str
) -> tuple[str | None, list[tuple[int, int]] | None]:
    """The text of a message, and its trained spans where its parts carry flags of their own."""
    value = message.get(name)
    if value is None:
        return None, None
    key = f"{key}.{name}"
    if not isinstance(value, list):
        return text_of(value, key), None
    text, spans, flagged = "", [], False
    for i, part in enumerate(value):
        said, flag = _part(part, f"{key}[{i}]")
        flagged = flagged or flag is not None
        if said:
            end = len(text) + len(said) - 1
            spans.append((len(text), len(text) - 1 if flag is False else end))
        text += said
    return text, spans if flagged else None


def _part(part: Any, key: str) -> tuple[str, bool | None]:
    """The text of a content part and its flag, None where it has none."""
    if not isinstance(part, Mapping):
        raise BadRow(key, f"is {kind_of(part)} and not an object with a `text`")
    names = [name for name in ("text", "content", "value") if part.get(name) is not None]
    if not names:
        kind = part.get("type")
        raise BadRow(key, f"has no text (type: {kind!r}); only text can be judged")
    name = next((name for name in names if part[name]), names[0])
    flag = part.get("train")
    if flag is None and part.get("weight") is not None:
        flag = part["weight"] != 0
    return text_of(part[name], f"{key}.{name}"), None if flag is None else bool(flag)


def _tool_calls(message: Mapping[str, Any], key: str) -> str:
    calls = message.get("tool_calls")
    if not calls:
        return ""
    if not isinstance(calls, list):
        raise BadRow(f"{key}.tool_calls", f"is {kind_of(calls)} and not a list")
    return "\n".join(_tool_call(call, f"{key}.tool_calls[{i}]") for i, call in enumerate(calls))


def _tool_call(call: Any, key: str) -> str:
    if not isinstance(call, Mapping):
        raise BadRow(key, f"is {kind_of(call)} and not a tool call")
    function = call.get("function", call)
    if isinstance(function, Mapping) and isinstance(function.get("arguments"), str):
        try:
            function = {**function, "arguments": json.loads(function["arguments"])}
        except json.JSONDecodeError as error:
            raise BadRow(f"{key}.function.arguments", f"is not JSON: {error}") from None
    return json.dumps(function, ensure_ascii=False, default=str)


def _with_tools(turns: list[Turn], row: Row, fields: ChatFields) -> list[Turn]:
    """Put the definitions of tools where chat templates put them: into the system message."""
    tools = _without_nulls(row.get(fields.tools))
    if not tools:
        return turns
    if isinstance(tools, str):
        text = tools
    elif isinstance(tools, list):
        text = json.dumps(tools, ensure_ascii=False, default=str)
    else:
        raise BadRow(fields.tools, f"is {kind_of(tools)} and not a list of tools")
    if not turns or turns[0].role != "system":
        return [Turn("system", text, False), *turns]
    length = _length_of_first(turns)
    return [*turns[:length], Turn("system", f"\n\n{text}", False, True), *turns[length:]]


def _without_nulls(value: Any) -> Any:
    """Drop null keys of objects: Arrow gives every object of a column the keys of all of them."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
