"""What every section of `ual:` is, and how a model behind HTTP is reached."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

OPERATIONAL: dict[str, Any] = {"operational": True}
"""Marks a key that changes how a run proceeds, and never what it produces."""


class Section(BaseModel):
    """A section: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", validate_default=True)


class EnvironmentValue(Section):
    """A value that stands in an environment variable, and is never written down."""

    env: str = Field(min_length=1, description="Name of the variable.")


_OWN_KEYS = {
    "logprobs": "score",
    "max_completion_tokens": "max_tokens",
    "max_tokens": "max_tokens",
    "messages": None,
    "model": "model",
    "n": None,
    "reasoning_effort": "reasoning_effort",
    "response_format": None,
    "seed": None,
    "stream": None,
    "temperature": "temperature",
    "top_logprobs": "top_logprobs",
}
"""What a request holds already, and the key of the section that sets it."""


class ServerConfig(Section):
    """A model behind an OpenAI-compatible `/v1/chat/completions`."""

    model: str = Field(min_length=1, description="Model name as the server knows it.")
    base_url: str | None = Field(
        None,
        description="Server root with its /v1; null is the openai client's default.",
        json_schema_extra=OPERATIONAL,
    )
    api_key_env: str = Field(
        "OPENAI_API_KEY",
        min_length=1,
        description="Environment variable that holds the key. A local server needs none.",
        json_schema_extra=OPERATIONAL,
    )
    max_concurrency: int = Field(
        64, ge=1, le=4096, description="Requests in flight.", json_schema_extra=OPERATIONAL
    )
    timeout: float = Field(
        120.0, gt=0, description="Seconds a request may take.", json_schema_extra=OPERATIONAL
    )
    max_retries: int = Field(
        6,
        ge=0,
        le=100,
        description="Further tries after 429, 5xx, timeout or a lost connection.",
        json_schema_extra=OPERATIONAL,
    )
    requests_per_minute: float | None = Field(
        None,
        gt=0,
        description="A limit of the account, kept to; without one the server's 429s are heeded.",
        json_schema_extra=OPERATIONAL,
    )
    tokens_per_minute: float | None = Field(
        None,
        gt=0,
        description="Likewise, of prompt and completion together.",
        json_schema_extra=OPERATIONAL,
    )
    patience: float = Field(
        300.0,
        gt=0,
        description="Seconds without one answer, by the clock on the wall, after which a run ends.",
        json_schema_extra=OPERATIONAL,
    )
    prices: str | None = Field(
        None,
        description="YAML file with prices of models that are not publicly listed.",
        json_schema_extra=OPERATIONAL,
    )
    mode: Literal["live", "batch"] = Field(
        "live",
        description="batch: OpenAI's Batch API, at half the price and within a day.",
        json_schema_extra=OPERATIONAL,
    )
    batch_requests: int = Field(
        50_000, ge=1, description="The most in one batch.", json_schema_extra=OPERATIONAL
    )
    batch_poll: float = Field(
        30.0,
        gt=0,
        description="Seconds between looks at running batches.",
        json_schema_extra=OPERATIONAL,
    )
    extra_body: dict[str, Any] | None = Field(
        None,
        description="Further fields of every request, for example "
        "{chat_template_kwargs: {enable_thinking: false}}.",
    )
    reasoning_effort: str | None = Field(
        None, min_length=1, description="How much a reasoning model thinks: minimal, low, ..."
    )
    top_logprobs: int | None = Field(
        None,
        ge=1,
        le=100,
        description="Likeliest tokens asked for at each place, where log-probabilities are read; "
        "null asks for 20, and for as many as the server allows.",
    )
    headers: dict[str, str | EnvironmentValue] = Field(
        default_factory=dict,
        description="Of every request; {env: NAME} takes a value from the environment. They are "
        "never written down.",
        json_schema_extra=OPERATIONAL,
    )
    api_version: str | None = Field(
        None,
        min_length=1,
        description="Azure's; the key then goes into the header api-key.",
        json_schema_extra=OPERATIONAL,
    )
    ca_file: str | None = Field(
        None,
        description="PEM file of certificates to trust beside the system's; null: "
        "REQUESTS_CA_BUNDLE or SSL_CERT_FILE, where they are set.",
        json_schema_extra=OPERATIONAL,
    )

    @field_validator("extra_body")
    @classmethod
    def _no_field_twice(cls, extra: dict[str, Any] | None) -> dict[str, Any] | None:
        for name in extra or {}:
            if name in _OWN_KEYS:
                own = _OWN_KEYS[name]
                where = f"set `{own}` in this section" if own else "every request has its own"
                raise ValueError(f"`{name}` cannot be set here: {where}")
        return extra

    @property
    def answer_shaping(self) -> dict[str, Any]:
        """What is set of the keys that can change an answer, for the keys of a cache.

        A key that is not set is left out, so that answers from before it was there stay valid.
        """
        shaping = {"extra_body": self.extra_body, "reasoning_effort": self.reasoning_effort}
        return {name: value for name, value in shaping.items() if value}


def shaping(section: BaseModel) -> dict[str, Any]:
    """The values of a section and of those in it as JSON values, without operational keys."""
    values = {}
    for name, field in type(section).model_fields.items():
        extra = field.json_schema_extra
        if not (isinstance(extra, dict) and extra.get("operational")):
            values[name] = _plain(getattr(section, name))
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return shaping(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
