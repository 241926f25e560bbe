"""A server's reply over HTTP -> a verdict: a completion, a reason to try again, or not to.

OpenAI, Azure, OpenRouter, Anthropic, Gemini, Groq, Mistral, DashScope, vLLM, SGLang, llama.cpp,
Ollama and TGI were read; what each kind of reply means is in `completions` and `error_replies`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import orjson

from .completions import Completion, Faulty, read_completion
from .error_replies import read_error, status_of
from .event_stream import is_event_stream, join_events
from .transport import Reply
from .verdicts import Kind, Verdict

__all__ = ["Completion", "Kind", "Verdict", "read_reply"]

NO_API: Final = "a web page and not an answer: this is not the address of an API"


def read_reply(reply: Reply) -> Verdict:
    """Tell what a reply means."""
    body = _decode(reply.body)
    if not 200 <= reply.status < 300:
        verdict = read_error(reply.status, body, reply.headers, reply.body)
        return _written_answer(body) or verdict
    if body is None and is_event_stream(reply.body):
        body = join_events(reply.body)
    if not isinstance(body, dict) and not _is_error(body):
        return Verdict(Kind.RETRY, _not_an_answer(reply), 200, in_answer=True)
    if _is_error(body):
        status = status_of(body)
        verdict = read_error(status or 500, body, reply.headers)
        return replace(verdict, in_answer=status is None)
    try:
        return Verdict(Kind.COMPLETION, completion=read_completion(body))
    except Faulty as fault:
        return _faulty(fault, reply.headers)


def _faulty(fault: Faulty, headers: Mapping[str, str]) -> Verdict:
    """An answer that is none: tried again, unless it is an error that says otherwise."""
    verdict = Verdict(Kind.RETRY, fault.message, in_answer=True)
    if fault.error is not None:
        status = status_of(fault.error)
        verdict = read_error(status or 500, fault.error, headers)
        if verdict.kind is not Kind.RETRY:
            return verdict
        verdict = replace(verdict, in_answer=status is None)
    return replace(verdict, status=200, charged=fault.completion)


def _is_error(body: object) -> bool:
    """Whether the body of a successful reply is an error, or a list of them."""
    if isinstance(body, list):
        return any(_is_error(part) for part in body)
    if not isinstance(body, Mapping) or body.get("choices"):
        return False
    told = {"error", "errors", "detail", "base_resp", "message", "msg"} & body.keys()
    return bool([name for name in told if body[name]]) or body.get("object") == "error"


def _written_answer(body: object) -> Verdict | None:
    """What Groq writes beside its error when an answer does not fit the schema: it is an answer."""
    error = body.get("error") if isinstance(body, dict) else None
    written = error.get("failed_generation") if isinstance(error, dict) else None
    if not isinstance(written, str) or not written.strip():
        return None
    return Verdict(Kind.COMPLETION, completion=Completion(written.strip(), finish_reason="stop"))


def _not_an_answer(reply: Reply) -> str:
    start = reply.body.lstrip()[:200].lower()
    if start.startswith((b"<!doctype", b"<html", b"<head")) or "html" in reply.content_type:
        return NO_API
    if is_event_stream(reply.body):
        return "a stream of events that broke off"
    return "an answer that is not JSON, or cut off"


def _decode(body: bytes) -> Any:
    """JSON, with the NaN and Infinity that some servers write for log-probabilities."""
    if not body:
        return None
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
