"""What a model costs at a server.

Prices come from a list of the user's own (`prices:` in the section of the server), else from
genai-prices, which knows the public servers by their address. A server that it does not know has no
price: not even a local one is taken to be free, because it may be a proxy.

A price list is a YAML file, in USD for a million tokens:

    my-model: {input: 0.5, output: 1.5, cached_input: 0.1}
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from axolotl_ual.errors import ConfigError

BYTES_PER_TOKEN: Final = 4
"""A tokenizer would do better, but the same text must give the same request on every machine."""
_MILLION: Final = 1_000_000
_PROBE_TOKENS: Final = 1000
"""Below the thresholds from which some servers take more."""


@dataclass(frozen=True, slots=True)
class Price:
    """USD for one token.

    Attributes:
        input: of the prompt.
        output: of the completion.
        cached_input: of the part of a prompt that the server had in its cache.
    """

    input: float
    output: float
    cached_input: float

    def cost(self, prompt: float, completion: float, cached: float = 0) -> float:
        """USD for so many tokens; `cached` of the prompt's came from the server's cache."""
        return (
            (prompt - cached) * self.input + cached * self.cached_input + completion * self.output
        )

    def times(self, factor: float) -> Price:
        """This price with a discount."""
        return Price(self.input * factor, self.output * factor, self.cached_input * factor)

    def most(self, prompt: float, completion: float) -> float:
        """USD for so many tokens at most, whatever the server has in its cache."""
        return prompt * max(self.input, self.cached_input) + completion * self.output


class _ListedPrice(BaseModel):
    model_config = ConfigDict(extra="forbid")

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cached_input: float | None = Field(None, ge=0)


def usd(amount: float) -> str:
    """An amount to be read: cents, or what there is below a dollar."""
    return f"{amount:.2f}" if amount >= 1 else f"{amount:.4f}"


def find_price(model: str, base_url: str, prices: str | None, section: str) -> Price | None:
    """The price of a model at a server; None where it is not known.

    Args:
        model: its name.
        base_url: the server's root.
        prices: path of a price list, or None.
        section: the YAML section that names it, for error messages.

    Raises:
        ConfigError: the price list cannot be read.
    """
    listed = _read_list(prices, section) if prices else {}
    if model in listed:
        own = listed[model]
        cached = own.input if own.cached_input is None else own.cached_input
        return Price(own.input / _MILLION, own.output / _MILLION, cached / _MILLION)
    return _known_price(model, base_url)


def _known_price(model: str, base_url: str) -> Price | None:
    from genai_prices import Usage, calc_price

    def per_token(**usage: int) -> float:
        found = calc_price(Usage(**usage), model_ref=model, provider_api_url=base_url)
        return float(found.total_price) / _PROBE_TOKENS

    try:
        return Price(
            per_token(input_tokens=_PROBE_TOKENS),
            per_token(output_tokens=_PROBE_TOKENS),
            per_token(input_tokens=_PROBE_TOKENS, cache_read_tokens=_PROBE_TOKENS),
        )
    except (LookupError, ValueError):
        return None


def _read_list(path: str, section: str) -> dict[str, _ListedPrice]:
    where = f"{section}.prices: {path}"
    fix = "write for each model, in USD for a million tokens: my-model: {input: 0.5, output: 1.5}"
    try:
        raw: Any = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{where}: cannot be read: {error}", fix) from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{where}: is not a mapping of model names", fix)
    listed = {}
    for model, entry in raw.items():
        try:
            listed[str(model)] = _ListedPrice.model_validate(entry)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in (model, *first["loc"]))
            raise ConfigError(f"{where}: {key}: {first['msg']}", fix) from None
    return listed
