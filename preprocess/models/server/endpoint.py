"""A model at a server: who is asked, and at what price."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from axolotl_ual.errors import ConfigError
from axolotl_ual.settings.server import ServerConfig

from .address import Server, check_key, find_server
from .content import bytes_of_text, images_in
from .dialect import Chat
from .image_tokens import most_tokens
from .prices import Price, find_price
from .replies import Completion

_FRAME_TOKENS: Final = 64
"""What chat templates put around messages: roles, separators, a line about the date."""


@dataclass(frozen=True)
class Endpoint:
    """A model behind HTTP.

    Attributes:
        config: its section.
        server: where it is.
        price: of its tokens, or None where it is not known.
    """

    config: ServerConfig
    server: Server
    price: Price | None

    def check(self, limit: float | None) -> None:
        """Find what is missing before anything is sent.

        Args:
            limit: USD that may be spent, or None.

        Raises:
            ConfigError: a key, or a price where spending is limited.
        """
        check_key(self.server)
        if limit is not None and self.price is None:
            model, section = self.config.model, self.server.section
            raise ConfigError(
                f"--max-cost: no price is known for {model} at {self.server.url}",
                f"write one to a YAML file, as `{model}: {{input: 0.5, output: 1.5}}` in USD for "
                f"a million tokens, and name the file as {section}.prices",
            )

    def highest_cost(self, chat: Chat) -> float:
        """USD that a request can cost at most; 0 where no price is known.

            most = p_in * (bytes of the text + images + frame) + p_out * n * max_tokens

        A tokenizer that falls back to bytes never makes more tokens than there are bytes, so the
        bound holds for any language. Images count as `image_tokens.py` says. The prompt is paid
        once for all n completions of a request.
        """
        if self.price is None:
            return 0.0
        asked = [[*chat.messages, *chat.tools], chat.plain or []]
        prompt = _FRAME_TOKENS + max(sum(map(bytes_of_text, parts)) for parts in asked)
        if chat.response_format is not None:
            prompt += bytes_of_text(chat.response_format)
        prompt += sum(most_tokens(image, self.config.model) for image in images_in(chat.messages))
        return self.price.most(prompt, chat.n * chat.max_tokens)

    def cost(self, completion: Completion, most: float) -> float:
        """USD that a completion cost; `most` where the server does not count its tokens."""
        if self.price is None:
            return 0.0
        if not completion.prompt_tokens and not completion.completion_tokens:
            return most
        return self.price.cost(
            completion.prompt_tokens, completion.completion_tokens, completion.cached_tokens
        )


def find_endpoint(config: ServerConfig, section: str) -> Endpoint:
    """Resolve address, key and price from settings and environment.

    Raises:
        ConfigError: the price list cannot be read.
    """
    server = find_server(config, section)
    price = find_price(config.model, server.base_url, config.prices, section)
    return Endpoint(config, server, price)
