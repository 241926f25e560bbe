"""n responses to each prompt, from a server or a local model, through the durable cache.

What was sampled once is never sampled again: a server's answer is kept as it comes, a local batch
when it is done. Seeds come from the prompt's content, so nothing depends on the order of the data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Protocol

import orjson

from axolotl_ual.columns import ManifestUsage
from axolotl_ual.errors import ConfigError
from axolotl_ual.settings.pairs import PairsConfig

from ..calls.budget import price_of
from ..calls.cache import Cache
from ..calls.prices import Purse
from ..data.prompt import Prompt
from ..data.sample import Sample, Turn
from ..judge.plan import Work
from ..models.server.client import find_server
from ..progress import Progress
from .responses import Response

SECTION: Final = "ual.pairs.sampling"


@dataclass(slots=True)
class Sampled:
    """What sampling gave.

    Attributes:
        responses: n for each of P prompts, failures included.
        usage: requests and tokens of this run.
        facts: for the manifest.
    """

    responses: list[list[Response]]
    usage: ManifestUsage = field(default_factory=ManifestUsage)
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a sampler would do.

    Attributes:
        line: for the user.
        known: the responses in the cache, by prompt; those that are not complete are left out.
        answer: tokens that a response is likely to have.
        work: what a server has left to answer; None where nothing is paid.
    """

    line: str
    known: dict[Prompt, list[Response]]
    answer: float
    work: Work | None = None


class Sampler(Protocol):
    """Draws n responses to each prompt."""

    def plan(self, prompts: Sequence[Prompt], cache: Cache) -> Outlook:
        """Tell what is left to be done, without doing it."""
        ...

    def sample(self, prompts: Sequence[Prompt], cache: Cache, progress: Progress) -> Sampled:
        """Sample what the cache does not hold.

        Raises:
            BackendError: the server or the model cannot be used at all.
        """
        ...


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


def seed_of(prompt: Prompt, base: int, number: int) -> int:
    """A seed of 31 bits, as servers take it, for one draw from one prompt."""
    digest = hashlib.sha256(f"{base}:{number}:{prompt.digest()}".encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1


def prompt_sample(prompt: Prompt) -> Sample:
    """The prompt in the shape that cache keys are made of."""
    return Sample(tuple(Turn(role, content, trained=False) for role, content in prompt.messages))


def dump_responses(responses: Iterable[Response]) -> str:
    """Responses as text for the cache."""
    return orjson.dumps([asdict(response) for response in responses]).decode()


def load_responses(text: str) -> list[Response]:
    """The other way."""
    return [Response(**fields) for fields in orjson.loads(text)]
