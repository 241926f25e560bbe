"""One message of a conversation: what it says as text, and in the shape of a chat API.

How reasoning and tool calls are spelled belongs to the model's chat template: as text, the
reasoning comes before the content, and each tool call follows it as a line of JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from .chat_fields import ChatFields
from .image import Image
from .images import FIX, image_of_part, is_image
from .sample import BadRow, kind_of, shorten, text_of


class Piece(NamedTuple):
    """A part of what a message says.

    Attributes:
        text: empty for an image.
        trained: whether it is trained.
        image: in the place of a text.
    """

    text: str
    trained: bool
    image: Image | None = None


class _Said(NamedTuple):
    """The content of a message.

    Attributes:
        text: None where there is no content.
        detail: trained spans, where its parts carry flags of their own.
        images: each with its place in the text.
    """

    text: str | None = None
    detail: list[tuple[int, int]] | None = None
    images: Sequence[tuple[int, Image]] = ()


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
    """What a message says as text and images, cut where training begins and ends.

    Args:
        message: to read.
        fields: of the entry.
        should: whether messages of this role are trained.

    Raises:
        BadRow: it says nothing, or something that is no text.
    """
    key, raw = message.key, message.raw
    content, detail, images = _content(raw.get(fields.content), f"{key}.{fields.content}", fields)
    reasoning, reasoning_detail, shown = _content(
        raw.get(fields.reasoning), f"{key}.{fields.reasoning}", fields
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
        pieces = _cut(reasoning, reasoning_detail if should else None, whole)
        parts.append(_with_images(pieces, shown, whole))
    if content is not None:
        pieces = _cut(content, detail if should else None, whole)
        parts.append(_with_images(pieces, images, whole))
    if calls:
        parts.append([Piece(calls, whole)])
    return _merge(_spaced(parts, whole))


def structured(message: Message, fields: ChatFields) -> dict[str, Any]:
    """A message in the shape of a chat API and of chat templates.

    Returns:
        role and content (a text), and where they are there reasoning_content, tool_calls (with
        their arguments as objects), tool_call_id and name.
    """
    key, raw = message.key, message.raw
    content = _content(raw.get(fields.content), f"{key}.{fields.content}", fields).text
    reasoning = _content(raw.get(fields.reasoning), f"{key}.{fields.reasoning}", fields).text
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
        text = "".join(piece.text for piece in pieces_of(message, fields, False))
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
        says = any(piece.text or piece.image for piece in part)
        if begun and says:
            yield Piece("\n\n", trained)
        begun = begun or says
        yield from part


def _merge(pieces: Iterable[Piece]) -> list[Piece]:
    """Join texts that are trained alike; an image stays on its own."""
    merged: list[Piece] = []
    for piece in pieces:
        last = merged[-1] if merged else None
        if last and not (last.image or piece.image) and last.trained == piece.trained:
            merged[-1] = Piece(last.text + piece.text, piece.trained)
        else:
            merged.append(piece)
    kept = [piece for piece in merged if piece.text or piece.image]
    return kept or merged[:1]


def _with_images(
    pieces: Iterable[Piece], images: Sequence[tuple[int, Image]], trained: bool
) -> list[Piece]:
    """Put images at their places between the characters of a message."""
    found: list[Piece] = []
    left, start = list(images), 0
    for piece in pieces:
        done, end = 0, start + len(piece.text)
        while left and left[0][0] < end:
            place, image = left.pop(0)
            found.append(Piece(piece.text[done : place - start], piece.trained))
            found.append(Piece("", trained, image))
            done = place - start
        found.append(Piece(piece.text[done:], piece.trained))
        start = end
    return [*found, *(Piece("", trained, image) for _, image in left)]


def _cut(text: str, detail: list[tuple[int, int]] | None, whole: bool) -> list[Piece]:
    """Cut a text into trained and untrained pieces.

    Args:
        text: of a message.
        detail: trained spans, begin and end inclusive, or None where there are none.
        whole: whether all is trained; only asked where there is no detail.
    """
    if not detail:
        return [Piece(text, whole)]
    trained = [False] * len(text)
    for begin, end in detail:
        for i in range(max(begin, 0), min(end + 1, len(text))):
            trained[i] = True
    return [
        Piece("".join(text[i] for i in group), flag)
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


def _content(value: Any, key: str, fields: ChatFields) -> _Said:
    """The text of a message, with its images where they are to be read."""
    if value is None:
        return _Said()
    if not isinstance(value, list):
        return _Said(text_of(value, key))
    text, spans, flagged = "", [], False
    images: list[tuple[int, Image]] = []
    for i, part in enumerate(value):
        if fields.images != "error" and is_image(part):
            if fields.images == "send":
                images.append((len(text), image_of_part(part, f"{key}[{i}]", fields.image_detail)))
            continue
        said, flag = _part(part, f"{key}[{i}]")
        flagged = flagged or flag is not None
        if said:
            end = len(text) + len(said) - 1
            spans.append((len(text), len(text) - 1 if flag is False else end))
        text += said
    return _Said(text, spans if flagged else None, images)


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
