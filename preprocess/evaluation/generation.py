"""Greedy responses of a model to held-out prompts, for the measures that need them.

A prompt is the tokens before the response, as the model was trained on them. Equal prompts are
answered once. Batches are planned over all prompts, whatever the cache holds, and kept as they are
done: a run that was interrupted generates nothing twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from axolotl_ual.errors import ConfigError
from axolotl_ual.settings.evaluate import GenerationConfig

from ..calls.cache import Cache
from ..data.sample import Sample, Turn
from ..models.local.causal import LocalModel
from ..models.local.encoding import Encoded
from ..models.local.generate import Draw, Generator
from ..progress import Progress
from .reading import Reader, Text

_FORMAT: Final = 1
_GREEDY: Final = 0.0

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Response:
    """What a model answered.

    Attributes:
        text: without special tokens.
        stopped: it ended by itself, not by max_tokens.
    """

    text: str
    stopped: bool


def prompt_ids(item: Encoded) -> Ids:
    """The tokens before the last response."""
    scored = np.flatnonzero(item.scored)
    breaks = np.flatnonzero(np.diff(scored) > 1)
    first = int(scored[int(breaks[-1]) + 1] if len(breaks) else scored[0])
    return tuple(int(token) for token in item.ids[:first])


def plan_batches(prompts: Sequence[Ids], max_tokens: int, batch_tokens: int) -> list[list[Ids]]:
    """Distinct prompts, longest first, in batches of at most so many padded tokens."""
    batches: list[list[Ids]] = []
    width = 0
    for prompt in sorted(set(prompts), key=lambda ids: (-len(ids), ids)):
        if batches and (len(batches[-1]) + 1) * width <= batch_tokens:
            batches[-1].append(prompt)
        else:
            batches.append([prompt])
            width = len(prompt) + max_tokens
    return batches


def generate(
    reader: Reader,
    text: Text,
    rows: Sequence[int],
    settings: GenerationConfig,
    cache: Cache,
    progress: Progress,
) -> list[Response]:
    """Answer the prompts of rows.

    Args:
        reader: has the model.
        text: the held-out rows.
        rows: readable ones, to be answered.
        settings: of the generation.
        cache: what was answered before.
        progress: counts rows.

    Raises:
        BackendError: the model cannot be used.
    """
    room = Room.of(settings, text.max_length)
    encoded = [text.encoded[row] for row in rows]
    prompts = [room.cut(prompt_ids(item)) for item in encoded if isinstance(item, Encoded)]
    assert len(prompts) == len(rows), "rows to be answered are readable"
    repeats = {prompt: 0 for prompt in prompts}
    for prompt in prompts:
        repeats[prompt] += 1
    store = cache.values(
        {
            "kind": "evaluate-generate",
            "format": _FORMAT,
            **reader.identity(text.max_length),
            "max_tokens": room.max_tokens,
        }
    )
    answers: dict[Ids, Response] = {}
    for batch in plan_batches(prompts, room.max_tokens, settings.batch_tokens):
        known = store.find([_sample(prompt) for prompt in batch])
        if any(value is None for value in known):
            found = _answer(reader.local, batch, room.max_tokens)
            store.put(
                (_sample(prompt), [response.text, response.stopped])
                for prompt, response in zip(batch, found, strict=True)
            )
        else:
            found = [Response(*value) for value in known]
        answers.update(zip(batch, found, strict=True))
        progress.advance(sum(repeats[prompt] for prompt in batch))
    return [answers[prompt] for prompt in prompts]


@dataclass(frozen=True, slots=True)
class Room:
    """Tokens that a prompt and a response may have."""

    prompt: int
    max_tokens: int

    @classmethod
    def of(cls, settings: GenerationConfig, max_length: int) -> Room:
        """What fits in max_length tokens; a response takes at most half of them.

        Raises:
            ConfigError: no prompt fits.
        """
        max_tokens = min(settings.max_tokens, max_length // 2)
        if max_tokens < 1:
            raise ConfigError(
                f"ual.evaluate.max_length: {max_length} leaves no room for a response",
                "raise it",
            )
        return cls(min(settings.max_prompt_length, max_length - max_tokens), max_tokens)

    def cut(self, prompt: Ids) -> Ids:
        """The prompt without tokens from its left, behind the first one."""
        if len(prompt) <= self.prompt:
            return prompt
        return (*prompt[:1], *prompt[len(prompt) - self.prompt + 1 :])


def _answer(local: LocalModel, prompts: Sequence[Ids], max_tokens: int) -> list[Response]:
    generator = Generator.of(local)
    drawn = generator.generate(prompts, [0] * len(prompts), Draw(_GREEDY, 1.0, max_tokens))
    return [Response(item.text.strip(), item.stopped) for item in drawn]


def _sample(prompt: Ids) -> Sample:
    """The prompt in the shape that cache keys are made of."""
    return Sample((Turn(None, " ".join(map(str, prompt)), trained=False),))
