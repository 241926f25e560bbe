"""Sampling from a model on this machine.

Batches are planned over all prompts, whatever the cache holds, and a batch is kept as a whole: a
run that was interrupted goes on with the same batches and ends in the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from axolotl_ual.columns import ManifestUsage
from axolotl_ual.data.dialogue import renderable
from axolotl_ual.errors import ConfigError
from axolotl_ual.settings.pairs import SamplingConfig

from ..calls.ask import Session
from ..calls.cache import Values
from ..data.prompt import Prompt
from ..data.responses import Response
from ..models.local.encoding import render
from ..models.local.generate import Draw, Generated, Generator
from ..progress import Progress
from .base import SECTION, Outlook, Sampled, prompt_sample, seed_of

_ENDS_OF_FILE: Final = 1 << 20


@dataclass(frozen=True)
class LocalSampler:
    """Samples from a local causal language model.

    Attributes:
        settings: of the sampling.
        model: folder or Hub name.
        seed: base of all seeds.
        template: a chat template that takes the place of the tokenizer's, or None.
        session: of the command.
    """

    settings: SamplingConfig
    model: str
    seed: int
    template: str | None
    session: Session

    @cached_property
    def values(self) -> Values:
        """What was sampled, by the weights and what shapes a response."""
        settings, local = self.settings, self.settings.local
        return self.session.cache.values(
            {
                "kind": "sample-local",
                "model": identity(self.model),
                "adapter": identity(local.adapter) if local.adapter else None,
                "template": self.template,
                "n": settings.n,
                "temperature": settings.temperature,
                "top_p": settings.top_p,
                "max_tokens": settings.max_tokens,
                "max_prompt_length": local.max_prompt_length,
                "dtype": local.dtype,
                "seed": self.seed,
            }
        )

    def plan(self, prompts: Sequence[Prompt]) -> Outlook:
        """Tell which prompts are left."""
        distinct = list(dict.fromkeys(prompts))
        known = self._recall(distinct)
        tokens = [r.tokens for responses in known.values() for r in responses if r.tokens]
        answer = sum(tokens) / len(tokens) if tokens else self.settings.max_tokens / 2
        name = (
            f"{self.model} with {self.settings.local.adapter}"
            if self.settings.local.adapter
            else self.model
        )
        line = (
            f"sampling: {self.settings.n} responses to each prompt from {name}; "
            f"{len(distinct) - len(known):,} of {len(distinct):,} distinct prompts are left"
        )
        return Outlook(line, known, answer)

    def sample(self, prompts: Sequence[Prompt], progress: Progress) -> Sampled:
        """Generate, batch by batch, what the cache does not hold."""
        distinct = sorted(set(prompts), key=lambda prompt: prompt.digest())
        found = self._recall(distinct)
        num_known = len(found)
        progress.advance(sum(prompt in found for prompt in prompts))
        repeats = {prompt: 0 for prompt in distinct}
        for prompt in prompts:
            repeats[prompt] += 1
        num_cut = 0
        if len(found) < len(distinct):
            run = _LocalRun(self, distinct)
            num_cut = run.num_cut
            for batch in run.batches:
                missing = [prompt for prompt in batch if prompt not in found]
                if not missing:
                    continue
                responses = run.generate(missing)
                self.values.put(
                    (prompt_sample(prompt), [asdict(each) for each in group])
                    for prompt, group in responses.items()
                )
                found.update(responses)
                progress.advance(sum(repeats[prompt] for prompt in missing))
        tokens = sum(r.tokens or 0 for group in found.values() for r in group)
        return Sampled(
            [found[prompt] for prompt in prompts],
            ManifestUsage(cached=num_known, completion_tokens=tokens),
            {"model": self.model, "logprobs": True, "prompts_cut": num_cut},
        )

    def _recall(self, prompts: Sequence[Prompt]) -> dict[Prompt, list[Response]]:
        """The responses that the cache holds, by prompt."""
        kept = self.values.find([prompt_sample(prompt) for prompt in prompts])
        return {
            prompt: [Response(**fields) for fields in group]
            for prompt, group in zip(prompts, kept, strict=True)
            if group is not None
        }


class _LocalRun:
    """A loaded model and the plan of its batches."""

    def __init__(self, sampler: LocalSampler, prompts: Sequence[Prompt]) -> None:
        settings, local = sampler.settings, sampler.settings.local
        self._sampler = sampler
        self._draw = Draw(settings.temperature, settings.top_p, settings.max_tokens)
        self._generator = Generator.load(
            sampler.model,
            local.adapter,
            key=f"{SECTION}.local",
            device=local.device,
            dtype=local.dtype,
        )
        if sampler.template is not None:
            self._generator.tokenizer.chat_template = sampler.template
        limit = self._limit()
        self._ids = {}
        self.num_cut = 0
        for prompt in prompts:
            rendered, from_template = self._render(prompt)
            whole = self._generator.encode(rendered, from_template, 1 << 30)
            self._ids[prompt] = (
                whole
                if len(whole) <= limit
                else self._generator.encode(rendered, from_template, limit)
            )
            self.num_cut += len(whole) > limit
        self.batches = self._plan(prompts)

    def generate(self, prompts: Sequence[Prompt]) -> dict[Prompt, list[Response]]:
        """Draw n responses to each prompt, as one batch."""
        n = self._sampler.settings.n
        rows = [(prompt, number) for prompt in prompts for number in range(n)]
        seeds = [seed_of(prompt, self._sampler.seed, number) for prompt, number in rows]
        ids = [self._ids[prompt] for prompt, _ in rows]
        drawn = self._generator.generate(ids, seeds, self._draw)
        responses: dict[Prompt, list[Response]] = {prompt: [] for prompt in prompts}
        for (prompt, _), seed, generated in zip(rows, seeds, drawn, strict=True):
            responses[prompt].append(_response(generated, seed))
        return responses

    def _limit(self) -> int:
        settings = self._sampler.settings
        positions = self._generator.max_positions
        room = settings.local.max_prompt_length
        if positions is not None:
            room = min(room, positions - settings.max_tokens)
        if room < 1:
            raise ConfigError(
                f"{SECTION}.max_tokens: {settings.max_tokens} leaves no room for a prompt in the "
                f"{positions} positions of {self._sampler.model}",
                f"set it to less than {positions}",
            )
        return room

    def _render(self, prompt: Prompt) -> tuple[str, bool]:
        """The prompt as the model reads it, and whether a chat template wrote it."""
        tokenizer = self._generator.tokenizer
        if tokenizer.chat_template is None:
            rendered = render(prompt.sample(), tokenizer)
            text = rendered if isinstance(rendered, str) else rendered.text
            return f"{text}\n\nAssistant:", False
        try:
            template = tokenizer.get_chat_template(tools=prompt.tools or None)
            messages, tools = renderable(prompt.chat, prompt.texts(), template)
            text = tokenizer.apply_chat_template(
                messages, tools=tools, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # A template is the model author's program: it may raise.
            raise ConfigError(
                f"the chat template of {self._sampler.model} refuses a prompt: "
                f"{str(error).strip() or type(error).__name__}; it begins with "
                f"{prompt.question[:60]!r}",
                "mend the prompt's roles, or name another `chat_template` in the recipe",
            ) from None
        return str(text), True

    def _plan(self, prompts: Sequence[Prompt]) -> list[list[Prompt]]:
        """Prompts of similar length together, all n responses of a prompt in one batch."""
        settings = self._sampler.settings
        batches: list[list[Prompt]] = []
        width = 0
        for prompt in sorted(prompts, key=lambda p: (-len(self._ids[p]), p.digest())):
            rows = settings.n * (len(batches[-1]) + 1) if batches else 0
            if batches and rows * width <= settings.local.batch_tokens:
                batches[-1].append(prompt)
            else:
                batches.append([prompt])
                width = len(self._ids[prompt]) + settings.max_tokens
        return batches


def identity(name: str) -> str:
    """What tells one model from another: a Hub name, or a digest of what lies in a folder.

    Weights are known by size, time of change and both ends of each file: a checkpoint that was
    trained on in its folder is another model, and gigabytes need not be read to see it.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return name
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.suffix in (".md", ".log", ".txt"):
            continue
        status = path.stat()
        digest.update(f"{path.name}\0{status.st_size}\0".encode())
        with path.open("rb") as stream:
            digest.update(stream.read(_ENDS_OF_FILE))
            if status.st_size > 2 * _ENDS_OF_FILE:
                digest.update(str(status.st_mtime_ns).encode())
                stream.seek(-_ENDS_OF_FILE, 2)
            digest.update(stream.read(_ENDS_OF_FILE))
    return digest.hexdigest()


def _response(generated: Generated, seed: int) -> Response:
    logprobs = generated.logprobs
    return Response(
        text=generated.text.strip(),
        finish_reason="stop" if generated.stopped else "length",
        seed=seed,
        logprob_sum=float(logprobs.sum()) if logprobs.size else None,
        logprob_mean=float(logprobs.mean()) if logprobs.size else None,
        tokens=len(logprobs),
    )
