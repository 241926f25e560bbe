"""The sampler that a recipe asks for."""

from __future__ import annotations

from axolotl_ual.errors import ConfigError
from axolotl_ual.settings.pairs import PairsConfig

from ..calls.budget import price_of
from ..calls.prices import Purse
from ..models.server.client import find_server
from .base import SECTION, Sampler


def build_sampler(
    pairs: PairsConfig, base_model: str | None, template: str | None, purse: Purse | None = None
) -> Sampler:
    """The sampler that a recipe asks for.

    Args:
        pairs: the recipe's `ual.pairs`.
        base_model: the recipe's; what a local sampler uses by default.
        template: the recipe's own chat template, for a local model.
        purse: of the command.

    Raises:
        ConfigError: no model is named, or a price list cannot be read.
    """
    settings = pairs.sampling
    if settings.backend == "api" and settings.api is not None:
        from .server import ApiSampler

        server = find_server(settings.api, f"{SECTION}.api")
        price = price_of(settings.api, server)
        return ApiSampler(settings, settings.api, server, pairs.seed, price, purse or Purse())
    model = settings.local.model or base_model
    if model is None:
        raise ConfigError(
            f"{SECTION}.local.model: there is no model to sample from",
            "name one there, or a base_model in the recipe",
        )
    from .local import LocalSampler

    return LocalSampler(settings, model, pairs.seed, template)
