"""The request a server takes. What it objects to is changed or left out for the rest of the run.

Each fallback is taken once, is remembered, and is said in a line:

    JSON schema       without its bounds, then json_object, then by the prompt alone
    top_logprobs      as many as the server allows, then no log-probabilities
    max_tokens        max_completion_tokens
    temperature       just above 0 where 0 is refused, then left to the server
    top_p             left to the server; it goes before temperature where only one is taken
    system message    put before the user's
    seed, n, reasoning_effort: left out
    an answer in one piece: a stream, where the server gives no other
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from axolotl_ual.settings.server import ServerConfig

from .content import as_json, images_in, put_before

_RESPONSE_FORMAT: Final = re.compile(
    r"response_?format|json_schema|json_object|json mode|structured[ _]outputs?|guided|grammar|"
    r"schema|requested parameters|for '\w+' type, propert",
    re.IGNORECASE,
)
_TEMPERATURE: Final = re.compile(r"temperature", re.IGNORECASE)
_POSITIVE: Final = re.compile(r"positive|greater than 0|> ?0|\(0|non-?zero|at least 0\.", re.I)
_LOGPROBS: Final = re.compile(r"logprobs|log[- ]probabilities|requested parameters", re.IGNORECASE)
_NUMBER: Final = re.compile(r"(?<![\w.-])\d+(?![\w-]|\.\d)")
_FEW_LOGPROBS: Final = 5
"""What servers allow that allow fewer than OpenAI."""
_LEAST_TEMPERATURE: Final = 0.01
_BOUNDS: Final = {"minimum", "maximum", "minItems", "maxItems", "minLength", "maxLength"}
_FORMATS: Final = (
    "the server takes a JSON schema only without bounds",
    "the server takes no JSON schema: it is asked for any JSON object",
    "the server takes no JSON schema: the prompt alone asks for JSON",
)
"""What is said at each step down from the whole schema."""


@dataclass(frozen=True, slots=True)
class Chat:
    """One question to a model.

    Attributes:
        messages: of roles system, user, assistant; the content of one is a text, or a list of
            texts and images (`content.py`).
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
    def has_images(self) -> bool:
        """Whether images are shown."""
        return any(True for _ in images_in(self.messages))

    @property
    def wants_logprobs(self) -> bool:
        """Whether log-probabilities are asked for in some form."""
        return self.logprobs or self.top_logprobs > 0


@dataclass(frozen=True, slots=True)
class Fallback:
    """What is done once a server objects to a part of the requests.

    Attributes:
        name: of the part.
        pattern: of objections to it: the parameter and the message of the server's error.
        line: said once.
        change: rewrites the JSON of a request from then on.
        applies: whether a request had the part.
    """

    name: str
    pattern: re.Pattern[str]
    line: str
    change: Callable[[dict[str, Any], Chat], None]
    applies: Callable[[Chat, ServerConfig], bool] = lambda chat, config: True


def _without(*names: str) -> Callable[[dict[str, Any], Chat], None]:
    def change(body: dict[str, Any], chat: Chat) -> None:
        for name in names:
            body.pop(name, None)

    return change


def _rename_limit(body: dict[str, Any], chat: Chat) -> None:
    body["max_completion_tokens"] = body.pop("max_tokens")


def _write_out_tools(body: dict[str, Any], chat: Chat) -> None:
    body.pop("tools", None)
    if chat.plain is not None:
        body["messages"] = chat.plain


def _merge_system(body: dict[str, Any], chat: Chat) -> None:
    first, *rest = body["messages"]
    if first["role"] == "system" and rest:
        second, *others = rest
        merged = {**second, "content": put_before(f"{first['content']}\n\n", second["content"])}
        body["messages"] = [merged, *others]


def _stream(body: dict[str, Any], chat: Chat) -> None:
    body.update(stream=True, stream_options={"include_usage": True})


FALLBACKS: tuple[Fallback, ...] = (
    Fallback(
        "logprobs",
        _LOGPROBS,
        "the server gives no log-probabilities",
        _without("logprobs", "top_logprobs"),
        lambda chat, _: chat.wants_logprobs,
    ),
    Fallback(
        "stream",
        re.compile(
            r"only supports? (?:the )?stream|non-stream|streaming (?:is )?(?:only|required)|"
            r"stream[`'\" ]{1,2}(?:must|should|has to) be (?:set to )?true",
            re.IGNORECASE,
        ),
        "the server answers by streams only: it is asked for one",
        _stream,
    ),
    Fallback(
        "stream_options",
        re.compile(r"stream_options"),
        "the server takes no stream_options: it may not count tokens",
        _without("stream_options"),
    ),
    Fallback(
        "max_tokens",
        re.compile(r"max_completion_tokens|max_tokens.{0,40}(?:not|un)supported", re.IGNORECASE),
        "the server takes max_completion_tokens instead of max_tokens",
        _rename_limit,
    ),
    Fallback(
        "top_p",
        re.compile(r"\btop_p\b"),
        "the server takes no top_p for this model: its default is used",
        _without("top_p"),
        lambda chat, _: chat.top_p is not None,
    ),
    Fallback(
        "temperature",
        _TEMPERATURE,
        "the server takes no temperature for this model: its default is used",
        _without("temperature"),
    ),
    Fallback(
        "seed",
        re.compile(r"\bseed\b"),
        "the server takes no seed",
        _without("seed"),
        lambda chat, _: chat.seed is not None,
    ),
    Fallback(
        "n",
        re.compile(r"^n\b|[`'\"]n[`'\"]|\bn (?:>|must|is|=)|multiple (?:choices|completions)"),
        "the server gives one completion a request",
        _without("n"),
        lambda chat, _: chat.n > 1,
    ),
    Fallback(
        "reasoning_effort",
        re.compile(r"reasoning"),
        "the server takes no reasoning_effort for this model",
        _without("reasoning_effort"),
        lambda _, config: config.reasoning_effort is not None,
    ),
    Fallback(
        "tools",
        re.compile(r"\btool(?:s|_choice|_calls| choice| call|-call)?\b", re.IGNORECASE),
        "the server takes no tools: they are written out in the system message",
        _write_out_tools,
        lambda chat, _: chat.plain is not None,
    ),
    Fallback(
        "system",
        re.compile(
            r"system[^.]{0,40}(?:role|message|prompt)|roles must alternate|developer instruction|"
            r"role[^.]{0,20}system",
            re.IGNORECASE,
        ),
        "the model takes no system message: it is put before the user's",
        _merge_system,
        lambda chat, _: chat.messages[0]["role"] == "system",
    ),
)
"""In the order of trying and of rewriting: the first that an objection fits is taken."""


class Dialect:
    """How requests are written for one server.

    Args:
        config: the section of the server.
        say: prints a line for the user.
    """

    def __init__(self, config: ServerConfig, say: Callable[[str], None]) -> None:
        self._config = config
        self._say = say
        self._changes: list[str] = []
        self._given_up: set[str] = set()
        self._format_step = 0
        self._least_temperature = 0.0
        self._most_logprobs: int | None = config.top_logprobs

    @property
    def version(self) -> int:
        """Number of fallbacks taken: a request of an earlier one is worth sending again."""
        return len(self._changes)

    @property
    def changes(self) -> list[str]:
        """The fallbacks in words, for the manifest."""
        return list(self._changes)

    @property
    def gives_logprobs(self) -> bool:
        """Whether the server has not refused to give log-probabilities."""
        return "logprobs" not in self._given_up

    def body(self, chat: Chat) -> bytes:
        """The JSON of a request."""
        body: dict[str, Any] = {
            "model": self._config.model,
            "messages": chat.messages,
            "max_tokens": chat.max_tokens,
            "temperature": max(chat.temperature, self._least_temperature),
            **self._response_format(chat),
        }
        if chat.wants_logprobs:
            body["logprobs"] = True
            if chat.top_logprobs:
                body["top_logprobs"] = self._most_logprobs or chat.top_logprobs
        optional = {
            "seed": chat.seed,
            "n": chat.n if chat.n > 1 else None,
            "top_p": chat.top_p,
            "reasoning_effort": self._config.reasoning_effort,
            "tools": chat.tools or None,
        }
        body.update({name: value for name, value in optional.items() if value is not None})
        for fallback in FALLBACKS:
            if fallback.name in self._given_up:
                fallback.change(body, chat)
        return as_json({**body, **(self._config.extra_body or {})})

    def adapt(self, chat: Chat, message: str, param: str) -> bool:
        """Change or leave out what a server objected to.

        Args:
            chat: what was asked.
            message: what the server said.
            param: the parameter it named, or an empty string.

        Returns:
            Whether something was changed, so that asking again is worth it.
        """
        said = f"{param} {message}"
        for take in (self._lower_logprobs, self._simplify_format, self._raise_temperature):
            if (line := take(chat, said)) is not None:
                return self._note(line, message)
        for fallback in FALLBACKS:
            if fallback.name in self._given_up or not fallback.pattern.search(said):
                continue
            if fallback.applies(chat, self._config):
                self._given_up.add(fallback.name)
                return self._note(fallback.line, message)
        return False

    def _note(self, line: str, message: str) -> bool:
        self._changes.append(line)
        self._say(f"{line} ({message})")
        return True

    def _response_format(self, chat: Chat) -> dict[str, Any]:
        wanted = chat.response_format
        if wanted is None or self._format_step == len(_FORMATS):
            return {}
        if self._format_step == 0:
            return {"response_format": wanted}
        if self._format_step == 1:
            return {"response_format": _without_bounds(wanted)}
        return {"response_format": {"type": "json_object"}}

    def _simplify_format(self, chat: Chat, said: str) -> str | None:
        if chat.response_format is None or not _RESPONSE_FORMAT.search(said):
            return None
        if self._format_step == len(_FORMATS):
            return None
        has_bounds = _without_bounds(chat.response_format) != chat.response_format
        if self._format_step == 0 and not has_bounds:
            self._format_step = 1
        self._format_step += 1
        return _FORMATS[self._format_step - 1]

    def _lower_logprobs(self, chat: Chat, said: str) -> str | None:
        asked = self._most_logprobs or chat.top_logprobs
        if not chat.top_logprobs or not self.gives_logprobs or not _LOGPROBS.search(said):
            return None
        named = [int(number) for number in _NUMBER.findall(said) if 0 < int(number) < asked]
        if named:
            self._most_logprobs = max(named)
        elif "top_logprobs" in said and asked > _FEW_LOGPROBS and "support" not in said:
            self._most_logprobs = _FEW_LOGPROBS
        else:
            return None
        return f"the server gives the {self._most_logprobs} likeliest tokens and not {asked}"

    def _raise_temperature(self, chat: Chat, said: str) -> str | None:
        refused = _TEMPERATURE.search(said) and _POSITIVE.search(said)
        if not refused or chat.temperature > 0 or self._least_temperature:
            return None
        self._least_temperature = _LEAST_TEMPERATURE
        return f"the server takes no temperature of 0: it gets {_LEAST_TEMPERATURE:g}"


def _without_bounds(schema: Any) -> Any:
    """A JSON schema without what says how large or how long a value may be."""
    if isinstance(schema, Mapping):
        is_leaf = isinstance(schema.get("type"), str)
        return {
            name: _without_bounds(value)
            for name, value in schema.items()
            if not (is_leaf and name in _BOUNDS)
        }
    if isinstance(schema, list):
        return [_without_bounds(item) for item in schema]
    return schema
