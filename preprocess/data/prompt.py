"""A prompt: what is answered, and its shape in Arrow tables."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from .sample import Sample, Turn

MESSAGES: Final = "messages"
CHAT: Final = "chat"
"""Column of the dialogues that have more than roles and texts, as JSON; null for all others."""


MESSAGE_LIST = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


Message = tuple[str, str]
"""(role, content)"""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is answered: a dialogue whose last turn is not the assistant's.

    Attributes:
        messages: (role, content) in order, at least one. All of the dialogue is in these texts:
            definitions of tools in the system message, reasoning and calls in the content.
        chat: the same dialogue in the shape of a chat API, as JSON of {messages, tools}, where it
            has more than roles and texts; else empty.
    """

    messages: tuple[Message, ...]
    chat: str = ""

    @property
    def question(self) -> str:
        """The last user turn: what entailment between responses is conditioned on."""
        users = [content for role, content in self.messages if role == "user"]
        return users[-1] if users else self.messages[-1][1]

    @property
    def tools(self) -> list[dict[str, Any]]:
        """Definitions of the tools that may be called; empty where there are none."""
        tools: list[dict[str, Any]] = json.loads(self.chat).get("tools", []) if self.chat else []
        return tools

    def texts(self) -> list[dict[str, Any]]:
        """Messages of role and content alone."""
        return [{"role": role, "content": content} for role, content in self.messages]

    def as_dicts(self) -> list[dict[str, Any]]:
        """Messages as chat templates take them, the arguments of calls as objects."""
        if not self.chat:
            return self.texts()
        messages: list[dict[str, Any]] = json.loads(self.chat)["messages"]
        return messages

    def for_server(self) -> list[dict[str, Any]]:
        """Messages as servers take them, the arguments of calls as JSON."""
        return [_for_server(message) for message in self.as_dicts()]

    def sample(self) -> Sample:
        """The dialogue as turns, none of them trained."""
        return Sample(tuple(Turn(role, content, trained=False) for role, content in self.messages))

    def digest(self) -> str:
        """SHA-256 of the content, 64 hexadecimal digits: the identity of a prompt."""
        content = [self.messages, self.chat] if self.chat else self.messages
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def chat_json(messages: Iterable[dict[str, Any]], tools: list[dict[str, Any]]) -> str:
    """`Prompt.chat` of a dialogue; empty where roles and texts are all that there is.

    Calls without an id get one, and the answers of tools that name no call get the ids in their
    order: servers and some chat templates insist on them.
    """
    shaped = [dict(message) for message in messages]
    if not tools and all(message.keys() <= {"role", "content"} for message in shaped):
        return ""
    unanswered: list[str] = []
    number = 0
    for message in shaped:
        for call in message.get("tool_calls", []):
            # Nine letters and digits are what Mistral's templates take.
            call.setdefault("id", f"call{number:05d}")
            unanswered.append(call["id"])
            number += 1
        if message["role"] == "tool":
            answered = message.get("tool_call_id") or (unanswered[0] if unanswered else None)
            if answered in unanswered:
                unanswered.remove(answered)
            if answered is not None:
                message["tool_call_id"] = answered
    dialogue = {"messages": shaped, **({"tools": tools} if tools else {})}
    return json.dumps(dialogue, ensure_ascii=False, default=str)


def message_array(prompts: Sequence[Prompt]) -> pa.Array:
    """The prompts as Arrow lists of {role, content}."""
    return pa.array([prompt.texts() for prompt in prompts], type=MESSAGE_LIST)


def _for_server(message: dict[str, Any]) -> dict[str, Any]:
    calls = message.get("tool_calls")
    if not calls:
        return message
    spelled = [
        {
            **call,
            "function": {
                **call["function"],
                "arguments": json.dumps(call["function"].get("arguments", {}), ensure_ascii=False),
            },
        }
        for call in calls
    ]
    return {**message, "content": message["content"] or None, "tool_calls": spelled}
