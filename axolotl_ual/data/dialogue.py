"""A dialogue with tools, as the chat template of a model can take it.

Sampling and training render a prompt by the same rule, so that a response is trained behind the
very prompt that it was sampled for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

Messages = list[dict[str, Any]]


def renderable(
    chat: str | None, texts: Sequence[dict[str, Any]], template: str
) -> tuple[Messages, Messages | None]:
    """What `apply_chat_template` is given: messages, and tools or None.

    Args:
        chat: the dialogue as JSON of {messages, tools}, or nothing.
        texts: the same dialogue with tools and calls written out in the content.
        template: the chat template's source.

    Returns:
        The dialogue as it is where the template writes tools and calls; else the texts, so that
        nothing of it is lost.
    """
    if not chat:
        return list(texts), None
    dialogue = json.loads(chat)
    messages, tools = dialogue["messages"], dialogue.get("tools")
    needed = {
        "tools": bool(tools),
        "tool_calls": any("tool_calls" in message for message in messages),
    }
    if any(wanted and name not in template for name, wanted in needed.items()):
        return list(texts), None
    return messages, tools
