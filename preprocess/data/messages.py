"""One message of a conversation: what it says as text, and in the shape of a chat API.

How reasoning and tool calls are spelled belongs to the model's chat template: as text, the
reasoning comes before the content, and each tool call follows it as a line of JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from .chat_fields import ChatFields
from .images import FIX, is_image
from .sample import BadRow, kind_of, shorten, text_of

Piece = tuple[str, bool]
"""Text and whether it is trained."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message as the row spells it.

    Attributes:
        key: where it lies in the row.
        role: system, user, assistant, tool, ...
        raw: its keys.
    """

    key: str
    role: str
    raw: Mapping[str, Any]


def pieces_of(message: Message, fields: ChatFields, should: bool) -> list[Piece]:
    """What a message says as text, cut where training begins and ends.

    Args:
        message: to read.
        fields: of the entry.
        should: whether messages of this role are trained.

    Raises:
        BadRow: it says nothing, or something that is no text.
    """
    key, raw = message.key, message.raw
    omit = fields.images == "omit"
    content, detail = _content(raw.get(fields.content), f"{key}.{fields.content}", omit)
    reasoning, reasoning_detail = _content(
        raw.get(fields.reasoning), f"{key}.{fields.reasoning}", omit
    )
    calls = "\n".join(
        json.dumps(call, ensure_ascii=False, default=str) for call in _functions(message, fields)
    )
    if content is None and not reasoning and not calls:
        raise BadRow(f"{key}.{fields.content}", "is missing or null")
    own_detail = raw.get(fields.training_detail) if fields.training_detail else None
    if detail is None and own_detail is not None:
        detail = _details(own_detail, f"{key}.{fields.training_detail}")
    flag = raw.get(fields.training) if fields.training else None
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


def structured(message: Message, fields: ChatFields) -> dict[str, Any]:
    """A message in the shape of a chat API and of chat templates.

    Returns:
        role and content (a text), and where they are there reasoning_content, tool_calls (with
        their arguments as objects), tool_call_id and name.
    """
    key, raw = message.key, message.raw
    omit = fields.images == "omit"
    content, _ = _content(raw.get(fields.content), f"{key}.{fields.content}", omit)
    reasoning, _ = _content(raw.get(fields.reasoning), f"{key}.{fields.reasoning}", omit)
    shaped: dict[str, Any] = {"role": message.role, "content": content or ""}
    if reasoning:
        shaped["reasoning_content"] = reasoning
    functions = _functions(message, fields)
    if functions:
        spelled = raw.get(fields.others["tool_calls"]) or [{}]
        shaped["tool_calls"] = [
            {**_id(call), "type": "function", "function": function}
            for call, function in zip(spelled, functions, strict=True)
        ]
    for name in ("tool_call_id", "name"):
        value = raw.get(fields.others[name])
        if value:
            shaped[name] = text_of(value, f"{key}.{fields.others[name]}")
    return shaped


def said_with_calls(content: str, calls: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """An answer that calls tools, as text and as JSON of a message.

    Args:
        content: what was said beside the calls.
        calls: in the shape of a chat API.

    Returns:
        The text, and the message with role, content and tool_calls; no message where the
        arguments of a call are no JSON, so that no chat template could render it.
    """
    said = {"content": content, "tool_calls": list(calls)}
    message, fields = Message("", "assistant", said), ChatFields()
    try:
        text = "".join(piece for piece, _ in pieces_of(message, fields, False))
    except BadRow:
        written = [json.dumps(call, ensure_ascii=False) for call in calls]
        return "\n\n".join(part for part in (content, "\n".join(written)) if part), ""
    return text, json.dumps(structured(message, fields), ensure_ascii=False, default=str)


def tools_of(value: Any, key: str) -> list[dict[str, Any]]:
    """Definitions of tools in the shape of a chat API.

    Args:
        value: a list of definitions or its JSON; each may be JSON too, and bare (name, parameters).
        key: the column.

    Raises:
        BadRow: it is neither.
    """
    tools = parse_json(value, key) if isinstance(value, str) else value
    if not isinstance(tools, list):
        raise BadRow(key, f"is {kind_of(tools)} and not a list of tools")
    shaped = []
    for number, spelled in enumerate(tools):
        here = f"{key}[{number}]"
        tool = parse_json(spelled, here) if isinstance(spelled, str) else spelled
        if not isinstance(tool, Mapping):
            raise BadRow(here, f"is {kind_of(tool)} and not the definition of a tool")
        function = tool.get("function", tool)
        if not isinstance(function, Mapping) or not function.get("name"):
            raise BadRow(f"{here}.function", f"has no name: {shorten(function)}")
        function = {name: item for name, item in function.items() if name != "type"}
        if isinstance(function.get("parameters"), str):
            where = f"{here}.function.parameters"
            function["parameters"] = parse_json(function["parameters"], where)
        shaped.append({"type": "function", "function": function})
    return shaped


def parse_json(text: str, key: str) -> Any:
    """The value of a JSON text.

    Raises:
        BadRow: it is no JSON.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise BadRow(key, f"is a string that is not JSON ({error}): {shorten(text)}") from None


def without_nulls(value: Any) -> Any:
    """Drop null keys of objects: Arrow gives every object of a column the keys of all of them."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


def _id(call: Any) -> dict[str, str]:
    given = call.get("id") if isinstance(call, Mapping) else None
    return {"id": str(given)} if given else {}


def _functions(message: Message, fields: ChatFields) -> list[Any]:
    """What a message calls: {name, arguments} each, the arguments read where they are JSON."""
    name = fields.others["tool_calls"]
    calls = message.raw.get(name)
    if not calls and message.raw.get("function_call"):
        return [_function(message.raw["function_call"], f"{message.key}.function_call")]
    if not calls:
        return []
    if not isinstance(calls, list):
        raise BadRow(f"{message.key}.{name}", f"is {kind_of(calls)} and not a list")
    return [_function(call, f"{message.key}.{name}[{i}]") for i, call in enumerate(calls)]


def _function(call: Any, key: str) -> Any:
    if not isinstance(call, Mapping):
        raise BadRow(key, f"is {kind_of(call)} and not a tool call")
    function = call.get("function", call)
    if isinstance(function, Mapping) and isinstance(function.get("arguments"), str):
        try:
            function = {**function, "arguments": json.loads(function["arguments"])}
        except json.JSONDecodeError as error:
            raise BadRow(f"{key}.function.arguments", f"is not JSON: {error}") from None
    return function


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
    value: Any, key: str, omit_images: bool
) -> tuple[str | None, list[tuple[int, int]] | None]:
    """The text of a message, and its trained spans where its parts carry flags of their own."""
    if value is None:
        return None, None
    if not isinstance(value, list):
        return text_of(value, key), None
    text, spans, flagged = "", [], False
    for i, part in enumerate(value):
        if omit_images and is_image(part):
            continue
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
        fix = FIX if is_image(part) else ""
        raise BadRow(key, f"has no text (type: {kind!r}); only text can be judged", fix)
    name = next((name for name in names if part[name]), names[0])
    flag = part.get("train")
    if flag is None and part.get("weight") is not None:
        flag = part["weight"] != 0
    return text_of(part[name], f"{key}.{name}"), None if flag is None else bool(flag)
