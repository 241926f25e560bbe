"""The sampler that a recipe asks for."""

from __future__ import annotations

from axolotl_ual.errors import ConfigError
from axolotl_ual.settings.pairs import PairsConfig

from ..calls.ask import Session
from .base import SECTION, Sampler


def build_sampler(
    pairs: PairsConfig, base_model: str | None, template: str | None, session: Session
) -> Sampler:
    """The sampler that a recipe asks for.

    Args:
        pairs: the recipe's `ual.pairs`.
        base_model: the recipe's; what a local sampler uses by default.
        template: the recipe's own chat template, for a local model.
        session: of the command.

    Raises:
        ConfigError: no model is named, or a price list cannot be read.
    """
    settings = pairs.sampling
    if settings.backend == "api" and settings.api is not None:
        from .server import Sampling, ServerSampler

        asker = session.asker(settings.api, f"{SECTION}.api")
        task = Sampling(
            settings, settings.api.model, pairs.seed, shaping=settings.api.answer_shaping
        )
        return ServerSampler(task, asker)
    model = settings.local.model or base_model
    if model is None:
        raise ConfigError(
            f"{SECTION}.local.model: there is no model to sample from",
            "name one there, or a base_model in the recipe",
        )
    from .local import LocalSampler

    return LocalSampler(settings, model, pairs.seed, template, session)
