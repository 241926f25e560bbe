"""An answer that came in pieces, as `text/event-stream`, though none were asked for.

Some servers only stream. The pieces are put together into the body that an answer in one piece
would have had.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

_FIELDS: Final = (b"data:", b"event:", b"id:", b"retry:", b":")
"""What a line may begin with; a colon alone begins a comment."""


def is_event_stream(body: bytes) -> bool:
    """Whether a body is a stream of events."""
    return body.lstrip().startswith(_FIELDS)


def join_events(body: bytes) -> dict[str, Any] | None:
    """The body of the whole answer; None where the stream broke off or holds no answer.

    An event that is an error is returned as it is.
    """
    joined: dict[str, Any] = {}
    choices: dict[int, _Choice] = {}
    for line in body.splitlines():
        name, _, data = line.partition(b":")
        if name.strip() != b"data" or data.strip() in (b"", b"[DONE]"):
            continue
        try:
            event = orjson.loads(data)
        except orjson.JSONDecodeError:
            return None
        if not isinstance(event, dict):
            return None
        if event.get("error"):
            return event
        joined.update({k: v for k, v in event.items() if k != "choices" and v is not None})
        for piece in event.get("choices") or []:
            choices.setdefault(piece.get("index") or 0, _Choice()).add(piece)
    if not choices or any(choice.reason is None for choice in choices.values()):
        return None
    return {**joined, "choices": [choices[index].whole for index in sorted(choices)]}


@dataclass(slots=True)
class _Choice:
    """One of the answers in a stream, while its pieces come."""

    text: str = ""
    thought: str = ""
    reason: str | None = None
    logprobs: list[Any] = field(default_factory=list)
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)

    def add(self, piece: Mapping[str, Any]) -> None:
        delta = piece.get("delta") or piece.get("message") or {}
        self.text += delta.get("content") or ""
        self.thought += delta.get("reasoning_content") or delta.get("reasoning") or ""
        self.logprobs += (piece.get("logprobs") or {}).get("content") or []
        self.reason = piece.get("finish_reason") or self.reason
        for call in delta.get("tool_calls") or []:
            self._add_call(call)

    def _add_call(self, piece: Mapping[str, Any]) -> None:
        """A call comes with its name first and its arguments letter by letter."""
        empty: dict[str, Any] = {"type": "function", "function": {"name": "", "arguments": ""}}
        call = self.calls.setdefault(piece.get("index") or 0, empty)
        call.update({name: piece[name] for name in ("id", "type") if piece.get(name)})
        for name, value in (piece.get("function") or {}).items():
            call["function"][name] = call["function"].get(name, "") + (value or "")

    @property
    def whole(self) -> dict[str, Any]:
        message: dict[str, Any] = {
            "role": "assistant",
            "content": self.text,
            "reasoning_content": self.thought,
        }
        if self.calls:
            message["tool_calls"] = [self.calls[index] for index in sorted(self.calls)]
        logprobs = {"content": self.logprobs}
        return {"message": message, "finish_reason": self.reason, "logprobs": logprobs}
