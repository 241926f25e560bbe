"""The request a server takes. Parameters that it objects to are left out for the rest of the run.

Each fallback is taken once, is remembered, and is said in a line: JSON schema to JSON asked for by
the prompt, max_tokens to max_completion_tokens, temperature left to the server, the system message
put before the user's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

_RESPONSE_FORMAT: Final = re.compile(
    r"response_format|json_schema|structured output|guided|grammar|schema", re.IGNORECASE
)
_MAX_TOKENS: Final = re.compile(r"max_completion_tokens|max_tokens.{0,40}(?:not|un)supported", re.I)
_TEMPERATURE: Final = re.compile(r"temperature", re.IGNORECASE)
_LOGPROBS: Final = re.compile(r"logprobs|log[- ]probabilities", re.IGNORECASE)
_SEVERAL: Final = re.compile(
    r"^n\b|[`'\"]n[`'\"]|\bn (?:>|must|is|=)|multiple (?:choices|completions)"
)
_TOOLS: Final = re.compile(r"\btool(?:s|_choice|_calls| choice| call|-call)?\b", re.IGNORECASE)
_SYSTEM: Final = re.compile(
    r"system[^.]{0,40}(?:role|message|prompt)|roles must alternate|"
    r"role[^.]{0,20}system",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Chat:
    """One question to a model.

    Attributes:
        messages: of roles system, user, assistant.
        max_tokens: of the completion.
        temperature: of sampling.
        response_format: a JSON schema, or None.
        top_logprobs: number of log-probabilities wanted at each token; 0 for none.
        seed: varies the sampling between repeats, or None.
        prompt_tokens: about how many the messages are.
        n: completions wanted.
        top_p: mass that is sampled from, or None for the server's default.
        logprobs: whether the log-probability of each token is wanted.
        tools: definitions of tools that the model may call.
        plain: the messages with tools and calls written out as text, for a server that takes none.
        shortened: whether a text in it was cut to fit.
        replaced: whether characters were replaced that UTF-8 cannot carry.
    """

    messages: list[dict[str, Any]]
    max_tokens: int
    temperature: float
    response_format: dict[str, Any] | None = None
    top_logprobs: int = 0
    seed: int | None = None
    prompt_tokens: int = 0
    n: int = 1
    top_p: float | None = None
    logprobs: bool = False
    tools: list[dict[str, Any]] = field(default_factory=list)
    plain: list[dict[str, Any]] | None = None
    shortened: bool = False
    replaced: bool = False

    @property
    def wants_logprobs(self) -> bool:
        """Whether log-probabilities are asked for in some form."""
        return self.logprobs or self.top_logprobs > 0


class Dialect:
    """How requests are written for one server.

    Args:
        model: name of the model.
        say: prints a line for the user.
    """

    def __init__(self, model: str, say: Callable[[str], None]) -> None:
        self._model = model
        self._say = say
        self._given_up: set[str] = set()

    @property
    def version(self) -> int:
        """Number of fallbacks taken: a request of an earlier one is worth sending again."""
        return len(self._given_up)

    @property
    def gives_logprobs(self) -> bool:
        """Whether the server has not refused to give log-probabilities."""
        return "logprobs" not in self._given_up

    def body(self, chat: Chat) -> bytes:
        """The JSON of a request."""
        messages = chat.messages
        if chat.plain is not None and "tools" in self._given_up:
            messages = chat.plain
        if "system" in self._given_up:
            messages = _merge_system(messages)
        body: dict[str, Any] = {"model": self._model, "messages": messages}
        limit = "max_completion_tokens" if "max_tokens" in self._given_up else "max_tokens"
        body[limit] = chat.max_tokens
        if "temperature" not in self._given_up:
            body["temperature"] = chat.temperature
        if chat.response_format is not None and "response_format" not in self._given_up:
            body["response_format"] = chat.response_format
        if chat.wants_logprobs and self.gives_logprobs:
            body["logprobs"] = True
            if chat.top_logprobs:
                body["top_logprobs"] = chat.top_logprobs
        if chat.seed is not None and "seed" not in self._given_up:
            body["seed"] = chat.seed
        if chat.n > 1 and "n" not in self._given_up:
            body["n"] = chat.n
        if chat.top_p is not None and "top_p" not in self._given_up:
            body["top_p"] = chat.top_p
        if chat.tools and "tools" not in self._given_up:
            body["tools"] = chat.tools
        return orjson.dumps(body)

    def adapt(self, chat: Chat, message: str, param: str) -> bool:
        """Leave out what a server objected to.

        Args:
            chat: what was asked.
            message: what the server said.
            param: the parameter it named, or an empty string.

        Returns:
            Whether something was left out, so that asking again is worth it.
        """
        said = f"{param} {message}"
        for name, pattern, line in self._fallbacks(chat):
            if name not in self._given_up and pattern.search(said):
                self._given_up.add(name)
                self._say(f"{line} ({message})")
                return True
        return False

    def _fallbacks(self, chat: Chat) -> list[tuple[str, re.Pattern[str], str]]:
        found = []
        if chat.wants_logprobs:
            found.append(("logprobs", _LOGPROBS, "the server gives no log-probabilities"))
        if chat.response_format is not None:
            line = "the server takes no JSON schema: the prompt alone asks for JSON"
            found.append(("response_format", _RESPONSE_FORMAT, line))
        line = "the server takes max_completion_tokens instead of max_tokens"
        found.append(("max_tokens", _MAX_TOKENS, line))
        line = "the server takes no temperature for this model: its default is used"
        found.append(("temperature", _TEMPERATURE, line))
        if chat.seed is not None:
            found.append(("seed", re.compile(r"\bseed\b"), "the server takes no seed"))
        if chat.n > 1:
            found.append(("n", _SEVERAL, "the server gives one completion a request"))
        if chat.top_p is not None:
            line = "the server takes no top_p for this model: its default is used"
            found.append(("top_p", re.compile(r"\btop_p\b"), line))
        if chat.plain is not None:
            line = "the server takes no tools: they are written out in the system message"
            found.append(("tools", _TOOLS, line))
        if chat.messages[0]["role"] == "system":
            line = "the model takes no system message: it is put before the user's"
            found.append(("system", _SYSTEM, line))
        return found


def _merge_system(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    first, *rest = messages
    if first["role"] != "system" or not rest:
        return messages
    second, *others = rest
    merged = {**second, "content": f"{first['content']}\n\n{second['content']}"}
    return [merged, *others]
