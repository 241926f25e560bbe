"""What every section of `ual:` is, and how a model behind HTTP is reached."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

OPERATIONAL: dict[str, Any] = {"operational": True}
"""Marks a key that changes how a run proceeds, and never what it produces."""


class Section(BaseModel):
    """A section: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", validate_default=True)


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
        description="Seconds to wait for a server that answers nothing but errors.",
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
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
