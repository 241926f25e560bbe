"""What messages say: a text, or parts that are texts and images in the order of a dialogue.

An image is in a message as what was found in a row, and becomes base64 when its request is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import orjson

from ...data.image import Image

_IN_PLACE: Final = '{"type":"image_url"}'


def text_part(text: str) -> dict[str, Any]:
    """A part that is a text."""
    return {"type": "text", "text": text}


def said(message: Mapping[str, Any]) -> str:
    """The text of a message, without its images."""
    content = message.get("content")
    if not isinstance(content, list):
        return content or ""
    return "".join(part["text"] for part in content if not isinstance(part, Image))


def images_in(messages: Iterable[Mapping[str, Any]]) -> Iterator[Image]:
    """The images of messages, in their order."""
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            yield from (part for part in content if isinstance(part, Image))


def put_before(text: str, content: Any) -> Any:
    """The content of a message with a text before it."""
    if not isinstance(content, list):
        return f"{text}{content}"
    if content and not isinstance(content[0], Image):
        return [text_part(f"{text}{content[0]['text']}"), *content[1:]]
    return [text_part(text), *content]


def as_json(body: Any) -> bytes:
    """A request as it is sent, its images in base64.

    Raises:
        DataError: the file of an image cannot be read any more.
    """
    return orjson.dumps(body, default=_sent, option=orjson.OPT_PASSTHROUGH_DATACLASS)


def bytes_of_text(part: Any) -> int:
    """Bytes of a message or another part of a request as JSON, its images aside."""
    return len(orjson.dumps(part, default=_left_out, option=orjson.OPT_PASSTHROUGH_DATACLASS))


def _sent(value: Any) -> Any:
    if isinstance(value, Image):
        return value.part()
    raise TypeError(f"{type(value).__name__} is no JSON")


def _left_out(value: Any) -> Any:
    if isinstance(value, Image):
        return _IN_PLACE
    raise TypeError(f"{type(value).__name__} is no JSON")
