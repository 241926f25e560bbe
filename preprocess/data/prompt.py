"""A prompt: what is answered, and its shape in Arrow tables."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

MESSAGES: Final = "messages"


MESSAGE_LIST = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


Message = tuple[str, str]
"""(role, content)"""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is answered: a dialogue whose last turn is not the assistant's.

    Attributes:
        messages: (role, content) in order, at least one.
    """

    messages: tuple[Message, ...]

    @property
    def question(self) -> str:
        """The last user turn: what entailment between responses is conditioned on."""
        users = [content for role, content in self.messages if role == "user"]
        return users[-1] if users else self.messages[-1][1]

    def as_dicts(self) -> list[dict[str, str]]:
        """Messages in the shape of a chat API."""
        return [{"role": role, "content": content} for role, content in self.messages]

    def digest(self) -> str:
        """SHA-256 of the content, 64 hexadecimal digits: the identity of a prompt."""
        return hashlib.sha256(json.dumps(self.messages).encode()).hexdigest()


def message_array(prompts: Sequence[Prompt]) -> pa.Array:
    """The prompts as Arrow lists of {role, content}."""
    return pa.array([prompt.as_dicts() for prompt in prompts], type=MESSAGE_LIST)
