"""What a server answered: the text, what was thought before it, why it ended, what it took.

Only an answer that ended by itself or by max_tokens is one. An answer that the server broke off
(`finish_reason: "error"`), that is empty without a reason, or that is an error in the place of a
choice, is a fault. Tokens that a server leaves out of `completion_tokens` (reasoning, at some) are
found in the total:

    completion = max(completion_tokens, total_tokens - prompt_tokens, reasoning + answer)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from .thinking import split_thinking

_ENDED: Final = {"stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete", "finished"}
_CUT: Final = {"length", "max_tokens", "max_output_tokens", "model_length", "model_context_window"}
_FILTERED: Final = {
    "content_filter", "safety", "refusal", "recitation", "prohibited_content", "blocklist", "spii",
    "sensitive", "guardrail_intervened",
}  # fmt: skip
_CALLED: Final = {"tool_calls", "tool_use", "function_call"}
_THOUGHT_FIELDS: Final = ("reasoning_content", "reasoning", "thinking", "reasoning_text")
_THOUGHT_PARTS: Final = {"thinking", "reasoning", "reasoning_text", "redacted_thinking", "summary"}


@dataclass(frozen=True, slots=True)
class Completion:
    """A chat completion.

    Attributes:
        content: the answer, without what was thought before it; empty where there is none.
        cut: the answer was ended by max_tokens.
        refused: the model declined, or a content filter took the answer.
        logprobs: `choices[0].logprobs.content`, or None where the server gave none.
        prompt_tokens: as the server counted them; 0 where it did not.
        completion_tokens: likewise, those for thinking included.
        cached_tokens: of the prompt, those that the server had in its cache.
        finish_reason: stop or length, or as the server says.
        further: the other choices, where a request asked for several.
        thinking: what was thought, whether it came in tags, fields or parts.
        model: that answered, as the server says.
        fingerprint: of the server's configuration, as it says.
        prompt_cut: the server did not read the whole prompt.
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
    thinking: str = ""
    model: str | None = None
    fingerprint: str | None = None
    prompt_cut: bool = False
    tool_calls: tuple[dict[str, Any], ...] = ()


class Faulty(Exception):
    """An answer that is none; the message says why.

    Args:
        message: in a few words.
        error: what stands in the place of the answer, where it is an error object.
        completion: what was charged for it, where that is known.
    """

    def __init__(
        self,
        message: str,
        error: Mapping[str, Any] | None = None,
        completion: Completion | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.error = error
        self.completion = completion


def read_completion(body: Mapping[str, Any]) -> Completion:
    """Read the body of a successful reply.

    Raises:
        Faulty: it holds no answer.
    """
    choices = body.get("choices")
    charged = _charged(body)
    if not isinstance(choices, list) or not choices:
        raise Faulty("an answer without choices", completion=charged)
    try:
        first, *others = (_read_choice(_mapping(choice)) for choice in choices[:1])
    except Faulty as fault:
        raise Faulty(fault.message, fault.error, charged) from None
    for choice in choices[1:]:
        try:
            others.append(_read_choice(_mapping(choice)))
        except Faulty:
            continue  # The others count; what is missing is asked for once more.
    return replace(
        charged,
        content=first.content,
        cut=first.cut,
        refused=first.refused,
        logprobs=first.logprobs,
        finish_reason=first.finish_reason,
        thinking=first.thinking,
        tool_calls=first.tool_calls,
        further=tuple(others),
    )


def _charged(body: Mapping[str, Any]) -> Completion:
    """A completion that has all but its text."""
    usage = _mapping(body.get("usage"))
    prompt = _count(usage.get("prompt_tokens")) or _input(usage)
    completion = _count(usage.get("completion_tokens") or usage.get("output_tokens"))
    reasoning = _count(_mapping(usage.get("completion_tokens_details")).get("reasoning_tokens"))
    beside = completion + reasoning if reasoning > completion else 0
    details = _mapping(usage.get("prompt_tokens_details"))
    cached = _count(details.get("cached_tokens") or usage.get("prompt_cache_hit_tokens"))
    cached = cached or _count(usage.get("cache_read_input_tokens"))
    model, fingerprint = body.get("model"), body.get("system_fingerprint")
    return Completion(
        "",
        prompt_tokens=prompt,
        completion_tokens=max(completion, _count(usage.get("total_tokens")) - prompt, beside),
        cached_tokens=min(cached, prompt),
        model=model if isinstance(model, str) else None,
        fingerprint=fingerprint if isinstance(fingerprint, str) else None,
    )


def _input(usage: Mapping[str, Any]) -> int:
    """Anthropic's names, where what is in the cache, or goes into it, is beside the input."""
    names = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    return sum(_count(usage.get(name)) for name in names)


def _read_choice(choice: Mapping[str, Any]) -> Completion:
    error = choice.get("error")
    if error:
        raise Faulty("an error in the place of an answer", {"error": error})
    message = choice.get("message")
    if not isinstance(message, Mapping):
        raise Faulty("an answer without choices")
    text, thought = _text(message.get("content"))
    parts = split_thinking(text)
    fields = (message.get(name) for name in _THOUGHT_FIELDS)
    thinking = next((field for field in fields if isinstance(field, str) and field), thought)
    said = choice.get("finish_reason")
    reason = said.strip().lower() if isinstance(said, str) else ""
    filtered = _is_refused(message) or reason.split(":")[0] in _FILTERED
    if not filtered:
        reason = _ending(reason or "length" * parts.is_open, message, parts.answer)
    logprobs = choice.get("logprobs")
    return Completion(
        content=parts.answer,
        cut=reason == "length",
        refused=filtered,
        logprobs=_tokens(_mapping(logprobs)),
        finish_reason=reason or None,
        thinking="\n".join(part for part in (thinking, parts.thinking) if part),
        tool_calls=tuple(_mappings(message.get("tool_calls"))),
    )


def _is_refused(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    return bool(message.get("refusal")) or any(
        _mapping(part).get("type") == "refusal" for part in parts
    )


def _ending(reason: str, message: Mapping[str, Any], answer: str) -> str:
    """`stop`, `length`, `tool_calls`, or nothing where the server does not say.

    Raises:
        Faulty: the answer was broken off.
    """
    if reason in _CUT or reason.startswith("model_context"):
        return "length"
    if reason in _CALLED or (message.get("tool_calls") and not answer):
        return "tool_calls"
    if reason in _ENDED:
        return "stop"
    if reason:
        raise Faulty(f"an answer that ended by `{reason}`")
    if not answer:
        raise Faulty("an empty answer without a finish_reason")
    return ""


def _text(content: object) -> tuple[str, str]:
    """The answer's text and what was thought in parts of its own.

    Raises:
        Faulty: it is neither text nor absent.
    """
    if content is None:
        return "", ""
    if isinstance(content, str):
        return content, ""
    if isinstance(content, Mapping):
        # Some servers parse the JSON that was asked for.
        return json.dumps(content, ensure_ascii=False), ""
    if not isinstance(content, list):
        raise Faulty("an answer whose content is not text")
    texts, thoughts = [], []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
            continue
        kind = str(_mapping(part).get("type"))
        if kind in _THOUGHT_PARTS:
            thoughts.append(_thought(part))
        elif kind in ("text", "output_text") and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind != "refusal":
            raise Faulty(f"an answer with a part of type `{kind}`")
    return "".join(texts), "".join(thoughts)


def _thought(part: Mapping[str, Any]) -> str:
    inner = part.get("thinking") or part.get("text") or part.get("reasoning") or ""
    if isinstance(inner, list):
        return "".join(str(_mapping(piece).get("text") or "") for piece in inner)
    return str(inner)


def _tokens(logprobs: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Tokens with their log-probabilities; those of the older form of completions as well."""
    content = logprobs.get("content")
    if isinstance(content, list):
        return _mappings(content) or None
    tokens, values = logprobs.get("tokens"), logprobs.get("token_logprobs")
    if not isinstance(tokens, list) or not isinstance(values, list):
        return None
    found: list[dict[str, Any]] = [
        {"token": token, "logprob": value} for token, value in zip(tokens, values, strict=False)
    ]
    for token, top in zip(found, logprobs.get("top_logprobs") or [], strict=False):
        likely = _mapping(top).items()
        token["top_logprobs"] = [{"token": name, "logprob": value} for name, value in likely]
    return found or None


def _mappings(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
