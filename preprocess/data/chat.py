"""Reader of `type: chat_template`: messages with roles, any number of turns.

Which messages are trained follows Axolotl: a message's own training flag, then its training
details, then `roles_to_train`. Details count characters here; Axolotl widens them to whole tokens.
"""

from __future__ import annotations

import json
from typing import Any, Final

from .chat_fields import ChatFields
from .image import Image
from .images import FIX, any_image, beside, image_of, in_column, is_bare
from .messages import Message, parse_json, pieces_of, without_nulls
from .sample import BadRow, Reader, Row, Sample, Turn, kind_of, make_sample, text_of

SYSTEM: Final = "system"
"""The column that gives a conversation its system message where it does not begin with one."""


def chat_reader(fields: ChatFields) -> Reader[Sample]:
    """A reader of conversations."""

    def read(row: Row) -> Sample:
        messages = conversation(row, fields)
        column, beyond = beside(row, fields.image_columns), 0
        if column is not None and fields.images == "error":
            raise BadRow(column[0], "holds images; only text can be judged", FIX)
        if column is not None and fields.images == "send":
            (key, first), *others = in_column(*column)
            image = image_of(first, key, fields.image_detail)
            messages, beyond = _with_image(messages, image, fields), len(others)
        turns = turns_of(messages, row, fields, everything=False)
        if fields.train_on_inputs and not any(turn.trained for turn in turns):
            turns = turns_of(messages, row, fields, everything=True)
        has_images = any_image((message.raw for message in messages), fields.content)
        return make_sample(turns, fields.messages, has_images or column is not None, beyond)

    return Reader(
        read,
        (fields.messages,),
        (fields.tools, SYSTEM, *fields.image_columns),
        "set `field_messages:` of this dataset to the column with the conversations",
    )


def conversation(row: Row, fields: ChatFields) -> list[Message]:
    """The messages of a row, with the system message that a column of its own may hold.

    Raises:
        BadRow: the column holds no list of messages, nor JSON of one; or a message has no role.
    """
    found = _messages(row.get(fields.messages), fields)
    messages = []
    for number, raw in enumerate(found):
        key = f"{fields.messages}[{number}]"
        messages.append(Message(key, _role(raw, fields, key), raw))
    own_system = row.get(SYSTEM)
    if messages[0].role != "system" and own_system is not None:
        said = text_of(own_system, SYSTEM)
        messages.insert(0, Message(SYSTEM, "system", {fields.content: said}))
    if fields.drop_system_message and messages[0].role == "system":
        del messages[0]
    return messages


def turns_of(
    messages: list[Message], row: Row, fields: ChatFields, *, everything: bool = False
) -> list[Turn]:
    """What messages say, cut where training begins and ends, with the tools of the row.

    Args:
        messages: of the row.
        row: holds the definitions of tools.
        fields: of the entry.
        everything: call all of it trained that no flag of a message excludes.

    Raises:
        BadRow: a message says nothing, or something that is no text.
    """
    turns: list[Turn] = []
    for message in messages:
        should = everything or message.role in fields.roles_to_train
        pieces = pieces_of(message, fields, should)
        turns.extend(
            Turn(message.role, piece.text, piece.trained, place > 0, piece.image)
            for place, piece in enumerate(pieces)
        )
    return _with_tools(turns, row, fields)


def _with_image(messages: list[Message], image: Image, fields: ChatFields) -> list[Message]:
    """The messages with an image of a column where Axolotl puts it.

    That is a part of a message that says it is an image and not which; else behind what the user
    says first. A second part that names none stays as it is, and cannot be read.
    """
    contents = [message.raw.get(fields.content) for message in messages]
    bare = (
        (number, place)
        for number, said in enumerate(contents)
        for place, part in enumerate(_parts(said))
        if is_bare(part)
    )
    if (found := next(bare, None)) is not None:
        number, place = found
        parts = [*_parts(contents[number])]
        parts[place] = {**parts[place], "image": image}
    else:
        users = (i for i, message in enumerate(messages) if message.role == "user")
        number = next(users, 0)
        parts = [*_parts(contents[number]), {"type": "image", "image": image}]
    said = messages[number]
    changed = Message(said.key, said.role, {**said.raw, fields.content: parts})
    return [*messages[:number], changed, *messages[number + 1 :]]


def _parts(content: Any) -> list[Any]:
    if isinstance(content, list):
        return content
    return [] if content is None else [{"type": "text", "text": content}]


def _messages(value: Any, fields: ChatFields) -> list[dict[str, Any]]:
    key = fields.messages
    value = parse_json(value, key) if isinstance(value, str) else without_nulls(value)
    if value is None:
        raise BadRow(key, "is missing or null")
    if not isinstance(value, list):
        raise BadRow(key, f"is {kind_of(value)} and not a list of messages")
    if not value:
        raise BadRow(key, "is an empty list")
    for i, message in enumerate(value):
        if not isinstance(message, dict):
            raise BadRow(f"{key}[{i}]", f"is {kind_of(message)} and not a message")
    return value


def _role(message: dict[str, Any], fields: ChatFields, key: str) -> str:
    if message.get(fields.role) is None:
        raise BadRow(
            f"{key}.{fields.role}",
            f"is missing or null; the message has {', '.join(sorted(message)) or 'no keys'}",
            "set `message_property_mappings: {role: ..., content: ...}` to the keys of a message",
        )
    role = text_of(message[fields.role], f"{key}.{fields.role}")
    return fields.roles.get(role, role)


def _with_tools(turns: list[Turn], row: Row, fields: ChatFields) -> list[Turn]:
    """Put the definitions of tools where chat templates put them: into the system message."""
    tools = without_nulls(row.get(fields.tools))
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
    length = next((i for i, turn in enumerate(turns) if i and not turn.continues), len(turns))
    return [*turns[:length], Turn("system", f"\n\n{text}", False, True), *turns[length:]]
