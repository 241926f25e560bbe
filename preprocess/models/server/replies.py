"""What a server's reply means: a completion, a reason to try again, or a reason not to.

Servers that call themselves OpenAI-compatible differ most in how they say no. All of that
knowledge is here: OpenAI, Azure, OpenRouter, vLLM, SGLang, llama.cpp, Ollama and TGI.
"""

from __future__ import annotations

import email.utils
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from enum import Enum
from typing import Any, Final

import orjson

from .transport import Reply

_LONGEST_MESSAGE: Final = 300
_LONGEST_WAIT: Final = 600.0

_TOO_LONG: Final = re.compile(
    r"context[_ ](?:length|window|size)|maximum (?:context|model|input|prompt|sequence) length|"
    r"(?:prompt|input|request|too many) (?:is|are)? ?(?:too long|too large|tokens)|max_model_len|"
    r"longer than the (?:maximum|model)|string_above_max_length|must have less than \d+ tokens",
    re.IGNORECASE,
)
_FILTERED: Final = re.compile(
    r"content[_ ]?filter|content management policy|responsible ?ai|moderation|flagged|"
    r"content[_ ]policy|safety system|usage policies",
    re.IGNORECASE,
)
_NO_CREDIT: Final = re.compile(
    r"insufficient_quota|exceeded your current quota|billing|insufficient (?:credit|balance|funds)",
    re.IGNORECASE,
)


class Kind(Enum):
    """What to do about a reply."""

    COMPLETION = "completion"
    RETRY = "retry"
    RATE_LIMITED = "rate limited"
    UNREACHABLE = "unreachable"
    REFUSED = "refused"
    TOO_LONG = "too long"
    BAD_REQUEST = "bad request"
    FATAL = "fatal"


@dataclass(frozen=True, slots=True)
class Completion:
    """A chat completion.

    Attributes:
        content: the text of the answer; empty where there is none.
        cut: the answer was ended by max_tokens.
        refused: the model declined, or a content filter took the answer.
        logprobs: `choices[0].logprobs.content`, or None where the server gave none.
        prompt_tokens: as the server counted them; 0 where it did not.
        completion_tokens: likewise.
        cached_tokens: of the prompt, those that the server had in its cache.
        finish_reason: as the server says.
        further: the other choices, where a request asked for several.
        tool_calls: what the model calls, as the server gives it; empty where it calls nothing.
    """

    content: str
    cut: bool = False
    refused: bool = False
    logprobs: list[dict[str, Any]] | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    finish_reason: str | None = None
    further: tuple[Completion, ...] = ()
    tool_calls: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """A reply, read.

    Attributes:
        kind: what to do.
        message: what the server said, shortened.
        status: of HTTP; 0 where no answer came.
        completion: where kind is COMPLETION.
        retry_after: seconds, where the server named them.
        param: the request's parameter that the server objects to, where it named one.
    """

    kind: Kind
    message: str = ""
    status: int = 0
    completion: Completion | None = None
    retry_after: float | None = None
    param: str = ""

    @property
    def is_lost(self) -> bool:
        """Whether there may be an answer, made and charged for, that is not here."""
        return self.kind is Kind.RETRY and self.status == 0


def read_reply(reply: Reply) -> Verdict:
    """Tell what a reply means."""
    try:
        body = orjson.loads(reply.body) if reply.body else None
    except orjson.JSONDecodeError:
        body = None
    if 200 <= reply.status < 300:
        return _read_success(body)
    return _read_error(reply.status, body, reply)


def _read_success(body: object) -> Verdict:
    if not isinstance(body, dict):
        return Verdict(Kind.RETRY, "an answer that is not JSON, or cut off")
    error = body.get("error")
    if isinstance(error, dict) and not body.get("choices"):
        code = error.get("code")
        status = code if isinstance(code, int) and 400 <= code < 600 else 500
        return _read_error(status, body, Reply(status, None, b""))
    choices = body.get("choices")
    first, *others = choices if isinstance(choices, list) and choices else [None]
    if not isinstance(first, dict) or not isinstance(first.get("message"), dict):
        return Verdict(Kind.RETRY, "an answer without choices")
    completion = _read_choice(first)
    if completion is None:
        return Verdict(Kind.RETRY, "an answer whose content is not text")
    usage = _mapping(body.get("usage"))
    return Verdict(
        Kind.COMPLETION,
        completion=replace(
            completion,
            prompt_tokens=_count(usage.get("prompt_tokens")),
            completion_tokens=_count(usage.get("completion_tokens")),
            cached_tokens=_count(_mapping(usage.get("prompt_tokens_details")).get("cached_tokens")),
            further=tuple(read for other in others if (read := _read_choice(other)) is not None),
        ),
    )


def _read_choice(choice: object) -> Completion | None:
    """One choice; None where its content is not text."""
    message = _mapping(_mapping(choice).get("message"))
    content = _text(message.get("content"))
    if content is None or not message:
        return None
    reason = _mapping(choice).get("finish_reason")
    return Completion(
        content=content,
        cut=reason == "length",
        refused=reason == "content_filter" or bool(message.get("refusal")),
        logprobs=_tokens(_mapping(_mapping(choice).get("logprobs")).get("content")),
        finish_reason=reason if isinstance(reason, str) else None,
        tool_calls=tuple(_mapping_list(message.get("tool_calls"))),
    )


def _read_error(status: int, body: object, reply: Reply) -> Verdict:
    error = _error_of(body)
    said = str(error.get("message") or error.get("detail") or "")
    if not said and reply.body:
        said = reply.body[:_LONGEST_MESSAGE].decode("utf-8", errors="replace")
    codes = f"{error.get('code') or ''} {error.get('type') or ''}"
    message = f"HTTP {status}: {' '.join(said.split())[:_LONGEST_MESSAGE]}".rstrip(": ")
    everything = f"{codes} {said}"
    param = str(error.get("param") or "")
    if status in (400, 403, 422) and _FILTERED.search(everything):
        return Verdict(Kind.REFUSED, message)
    if status == 413 or (status in (400, 422, 500) and _TOO_LONG.search(everything)):
        return Verdict(Kind.TOO_LONG, message)
    if status in (401, 402, 403, 404, 405) or 300 <= status < 400 or _is_unpaid(status, everything):
        return Verdict(Kind.FATAL, message, status)
    if status == 429:
        return Verdict(Kind.RATE_LIMITED, message, status, retry_after=_seconds(reply.retry_after))
    if status in (408, 409, 425) or status >= 500:
        return Verdict(Kind.RETRY, message, status, retry_after=_seconds(reply.retry_after))
    return Verdict(Kind.BAD_REQUEST, message, status, param=param)


def _is_unpaid(status: int, text: str) -> bool:
    return status == 429 and _NO_CREDIT.search(text) is not None


def _error_of(body: object) -> Mapping[str, Any]:
    """The part of an error body that says what is wrong: {"error": {...}}, {"error": "..."}, ..."""
    if not isinstance(body, dict):
        return {}
    error = body.get("error")
    if isinstance(error, dict):
        return error
    if isinstance(error, str):
        return {"message": error}
    detail = body.get("detail")
    if isinstance(detail, list):
        return {"message": "; ".join(str(_mapping(item).get("msg", item)) for item in detail)}
    return body


def _text(content: object) -> str | None:
    """The answer's text; None where it is neither text nor absent."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [_mapping(part) for part in content]
        texts = [part.get("text") for part in parts if part.get("type") == "text"]
        if texts and all(isinstance(text, str) for text in texts):
            return "".join(str(text) for text in texts)
    return None


def _tokens(logprobs: object) -> list[dict[str, Any]] | None:
    if not isinstance(logprobs, list):
        return None
    return [token for token in logprobs if isinstance(token, dict)] or None


def _mapping_list(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After as seconds: a number or an HTTP date."""
    if not retry_after:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            date = email.utils.parsedate_to_datetime(retry_after)
        except ValueError:
            return None
        if date.tzinfo is None:
            date = date.replace(tzinfo=timezone.utc)
        seconds = (date - datetime.now(timezone.utc)).total_seconds()
    return min(max(0.0, seconds), _LONGEST_WAIT) if math.isfinite(seconds) else None
