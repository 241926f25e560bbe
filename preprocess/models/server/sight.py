"""Whether a model sees images, as far as its server says so when it is shown some.

Servers word it differently: "image_url is only supported by certain models" (OpenAI), "unknown
variant `image_url`, expected `text`" (DeepSeek), "is not a multimodal model" (vLLM), "image input
is not supported" (llama.cpp), "No endpoints found that support image input" (OpenRouter). What is
said of one image (its format, its size, an address that cannot be fetched) is the row's. So the
words count until an image was answered, and so do several requests with images called bad.
"""

from __future__ import annotations

import re
from typing import Final

from .dialect import Chat
from .verdicts import Kind, Verdict

_BLIND: Final = re.compile(
    r"image_url[^.]{0,40}(?:only|not)[^.]{0,20}support|unknown variant `?'?image_url|"
    r"(?:not|n't|cannot)[^.]{0,20}(?:support|accept|take|allow|process|handle)[^.]{0,20}"
    r"(?:images?\b|vision|multi-?modal)(?! (?:format|type|size))|"
    r"(?:image|vision|multi-?modal)(?:s| inputs?| content| urls?)? (?:is|are) not (?:supported|"
    r"allowed|enabled|available)|not a (?:multi-?modal|vision)|at most 0 image|"
    r"support image input|mmproj|missing data required for image|"
    r"content[^.]{0,30}(?:must be|should be|expected|valid)[^.]{0,10}string",
    re.IGNORECASE,
)
_REFUSALS: Final = 4
"""Requests with images that are called bad before one was answered."""


class Sight:
    """Looks at what a server makes of images."""

    def __init__(self) -> None:
        self._sees = False
        self._refused = 0

    def is_refused(self, chat: Chat, verdict: Verdict) -> bool:
        """Whether the server says that it takes no images.

        Args:
            chat: that was sent.
            verdict: on it.
        """
        if not chat.has_images or self._sees:
            return False
        if verdict.completion is not None:
            self._sees = True
            return False
        return _BLIND.search(verdict.message) is not None

    def gives_up(self, chat: Chat, verdict: Verdict) -> bool:
        """Whether so many requests with images were called bad that no other is worth sending."""
        if self._sees or verdict.kind is not Kind.BAD_REQUEST or not chat.has_images:
            return False
        self._refused += 1
        return self._refused >= _REFUSALS
