"""Answers in pieces, put together."""

from __future__ import annotations

import json
from typing import Any

import pytest

from axolotl_ual.preprocess.models.server.event_stream import is_event_stream, join_events
from axolotl_ual.preprocess.models.server.replies import Kind, read_reply
from axolotl_ual.preprocess.models.server.transport import Reply


def stream(*events: dict[str, Any], end: str = "data: [DONE]\n\n") -> bytes:
    lines = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    return (lines + end).encode()


def piece(index: int, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": delta, "finish_reason": reason}]}


def test_choices_that_come_in_turns_are_kept_apart() -> None:
    body = stream(
        piece(0, {"role": "assistant", "content": "ye"}),
        piece(1, {"content": "n"}),
        piece(0, {"content": "s"}),
        piece(1, {"content": "o"}, "stop"),
        piece(0, {}, "length"),
        {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 4}},
    )
    completion = read_reply(Reply(200, body)).completion
    assert completion is not None
    assert (completion.content, completion.cut) == ("yes", True)
    assert [(other.content, other.cut) for other in completion.further] == [("no", False)]
    assert (completion.prompt_tokens, completion.completion_tokens) == (7, 4)


def test_a_choice_that_never_ends_is_no_answer() -> None:
    body = stream(piece(0, {"content": "yes"}, "stop"), piece(1, {"content": "n"}))
    assert join_events(body) is None
    assert read_reply(Reply(200, body)).kind is Kind.RETRY


def test_a_call_comes_letter_by_letter() -> None:
    first = {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}
    body = stream(
        piece(0, {"tool_calls": [first]}),
        piece(0, {"tool_calls": [{"index": 0, "function": {"arguments": '{"x"'}}]}),
        piece(0, {"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]}),
        piece(0, {"tool_calls": [{"index": 1, "id": "b", "function": {"name": "g"}}]}),
        piece(0, {}, "tool_calls"),
    )
    completion = read_reply(Reply(200, body)).completion
    assert completion is not None
    calls = [(call["id"], call["function"]) for call in completion.tool_calls]
    assert calls == [
        ("a", {"name": "f", "arguments": '{"x": 1}'}),
        ("b", {"name": "g", "arguments": ""}),
    ]


@pytest.mark.parametrize(
    ("body", "is_stream"),
    [
        (b"data: {}\n\n", True),
        (b": comment\n\ndata: {}\n\n", True),
        (b"event: message\ndata: {}\n\n", True),
        (b"id: 1\ndata: {}\n\n", True),
        (b'{"choices": []}', False),
        (b"<html>", False),
        (b"", False),
    ],
)
def test_a_stream_is_told_by_its_first_line(body: bytes, is_stream: bool) -> None:
    assert is_event_stream(body) is is_stream
