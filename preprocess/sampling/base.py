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

from ..calls.plan import Plan, Work
from ..data.prompt import Prompt
from ..data.responses import Response
from ..data.sample import Sample, Turn
from ..progress import Progress

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

    def plan(self, before: str = "") -> Plan:
        """For the user; `before` goes in front of the line."""
        line = f"{before}{self.line}"
        return Plan([line]) if self.work is None else self.work.plan(line)


@dataclass(frozen=True, slots=True)
class Unsampled:
    """Responses that are not there yet.

    Attributes:
        prompts: distinct ones.
        n: responses to each.
        likely: tokens of a response.
        most: the most that it can have.
    """

    prompts: Sequence[Prompt]
    n: int
    likely: float
    most: float


class Sampler(Protocol):
    """Draws n responses to each prompt."""

    def plan(self, prompts: Sequence[Prompt]) -> Outlook:
        """Tell what is left to be done, without doing it."""
        ...

    def sample(self, prompts: Sequence[Prompt], progress: Progress) -> Sampled:
        """Sample what the cache does not hold.

        Raises:
            BackendError: the server or the model cannot be used at all.
        """
        ...


def seed_of(prompt: Prompt, base: int, number: int) -> int:
    """A seed of 31 bits, as servers take it, for one draw from one prompt."""
    digest = hashlib.sha256(f"{base}:{number}:{prompt.digest()}".encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1


def prompt_sample(prompt: Prompt) -> Sample:
    """The prompt in the shape that cache keys are made of: tools and calls are a part of it."""
    chat = (Turn("chat", prompt.chat, trained=False),) if prompt.chat else ()
    return Sample((*prompt.sample().turns, *chat))


def dump_responses(responses: Iterable[Response]) -> str:
    """Responses as text for the cache."""
    return orjson.dumps([asdict(response) for response in responses]).decode()


def load_responses(text: str) -> list[Response]:
    """The other way."""
    return [Response(**fields) for fields in orjson.loads(text)]
