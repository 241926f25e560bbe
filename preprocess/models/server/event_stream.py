"""An answer that came in pieces, as `text/event-stream`, though none were asked for.

Some servers only stream. The pieces are put together into the body that an answer in one piece
would have had.
"""

from __future__ import annotations

from typing import Any

import orjson


def is_event_stream(body: bytes) -> bool:
    """Whether a body is a stream of events."""
    return body.lstrip()[:6] in (b"data: ", b"event:") or body.lstrip().startswith(b"data:{")


def join_events(body: bytes) -> dict[str, Any] | None:
    """The body of the whole answer; None where the stream broke off or holds no answer.

    An event that is an error is returned as it is.
    """
    joined: dict[str, Any] = {}
    text, thought, reason = "", "", None
    logprobs: list[Any] = []
    for line in body.splitlines():
        field, _, data = line.partition(b":")
        if field.strip() != b"data" or data.strip() in (b"", b"[DONE]"):
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
        for choice in event.get("choices") or []:
            delta = choice.get("delta") or choice.get("message") or {}
            text += delta.get("content") or ""
            thought += delta.get("reasoning_content") or delta.get("reasoning") or ""
            logprobs += (choice.get("logprobs") or {}).get("content") or []
            reason = choice.get("finish_reason") or reason
    if reason is None:
        return None
    message = {"role": "assistant", "content": text, "reasoning_content": thought}
    choice = {"message": message, "finish_reason": reason, "logprobs": {"content": logprobs}}
    return {**joined, "choices": [choice]}
