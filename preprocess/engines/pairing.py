"""What workers do with the prompts of `pairs`: sample responses, and score them.

All that is decided of a response is decided by its prompt and the other responses to it, so that
the results of blocks of prompts, one behind the other, are those of all prompts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from axolotl_ual.settings.pairs import PairsConfig

from ..calls.ask import Session
from ..calls.budget import total_usage
from ..calls.outcomes import Outcome
from ..calls.plan import Paying
from ..data.prompt import Prompt
from ..data.responses import Response, ResponseSet
from ..dimensions.base import Usable
from ..dimensions.scores import Scores, build_dimensions, score_responses
from ..progress import Progress
from ..sampling.base import Sampled
from ..sampling.build import build_sampler

_COUNTS: Final = {"cut", "prompts_cut", "replaced_characters", "shortened"}
"""Facts that are numbers of prompts or responses; `cut` holds several."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt.

    Attributes:
        prompt: likewise.
        responses: to it, where they are given; None: they are to be sampled.
    """

    prompt: Prompt
    responses: list[Response] | None


@dataclass(frozen=True, slots=True)
class Part:
    """What was done with the prompts of a block."""

    sampled: Sampled
    scores: Scores


class Pairing:
    """Samples and scores.

    Args:
        settings: the recipe's `ual.pairs`.
        base_model: the recipe's.
        template: the recipe's own chat template, for a local model.
        samples: whether responses are to be sampled.
        session: of the worker.

    Raises:
        UALError: what is missing here, a key or a model.
    """

    def __init__(
        self,
        settings: PairsConfig,
        base_model: str | None,
        template: str | None,
        samples: bool,
        session: Session,
    ) -> None:
        self._keep_truncated = settings.sampling.truncated == "keep"
        self._sampler = build_sampler(settings, base_model, template, session) if samples else None
        self._dimensions = build_dimensions(settings, session)
        self._cut: dict[str, dict[str, int]] = {}
        for asker in (self._sampler, *self._dimensions):
            if isinstance(asker, Paying):
                asker.check()

    def do(self, rows: Sequence[Asked], progress: Progress) -> Part:
        """Sample and score some prompts."""
        prompts = [row.prompt for row in rows]
        stages = _Stages(progress, len(rows), len(self._dimensions) + (self._sampler is not None))
        if self._sampler is None:
            sampled = Sampled([row.responses or [] for row in rows])
        else:
            with stages("sampling", len(prompts)) as shown:
                sampled = self._sampler.sample(prompts, shown)
        usable = Usable(ResponseSet(prompts, sampled.responses), self._keep_truncated)
        scores = score_responses(self._dimensions, usable, stages)
        for name, facts in scores.facts.items():
            if "cut" in facts:
                scores.facts[name] = {**facts, "cut": self._newly_cut(name, facts["cut"])}
        return Part(sampled, scores)

    def _newly_cut(self, name: str, cut: dict[str, int]) -> dict[str, int]:
        """Of texts that a model has cut since it was loaded, those of the last block."""
        before = self._cut.get(name, {})
        self._cut[name] = dict(cut)
        return {kind: number - before.get(kind, 0) for kind, number in cut.items()}


def join_parts(parts: Sequence[Part]) -> Part:
    """The results of blocks as those of all prompts, in the order of the blocks.

    Args:
        parts: at least one, all of one recipe.
    """
    scores = [part.scores for part in parts]
    failures: Counter[str] = Counter()
    for part in scores:
        failures.update(part.failures)
    sampled = Sampled(
        [group for part in parts for group in part.sampled.responses],
        total_usage([part.sampled.usage for part in parts]),
        joined_facts([part.sampled.facts for part in parts]),
    )
    return Part(
        sampled,
        Scores(
            {n: np.concatenate([s.dimensions[n] for s in scores]) for n in scores[0].dimensions},
            {n: np.concatenate([s.columns[n] for s in scores]) for n in scores[0].columns},
            failures,
            total_usage([part.usage for part in scores]),
            {n: joined_facts([part.facts[n] for part in scores]) for n in scores[0].facts},
        ),
    )


def prompt_without_result(asked: Asked, like: Part, n: int) -> Part:
    """The result of one prompt for which nothing could be done.

    Args:
        asked: it.
        like: of other prompts, by the same recipe.
        n: responses that were to be sampled.
    """
    failed = Outcome.FAILED.value
    responses = asked.responses or [Response.failed(failed) for _ in range(n)]
    usable = sum(response.failure is None for response in responses)
    return Part(
        Sampled([responses], facts=_without_counts(like.sampled.facts)),
        Scores(
            {name: np.full(len(responses), np.nan) for name in like.scores.dimensions},
            {name: np.full(len(responses), np.nan) for name in like.scores.columns},
            Counter({f"{name}: {failed}": usable for name in like.scores.dimensions if usable}),
            facts={name: _without_counts(facts) for name, facts in like.scores.facts.items()},
        ),
    )


def _without_counts(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name not in _COUNTS}


def joined_facts(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Facts about parts as facts about all of them.

    Counts add up, what is listed is listed once, and of what differs each is listed.
    """
    joined: dict[str, Any] = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        values = [part[name] for part in parts if name in part]
        if name in _COUNTS:
            joined[name] = _sum(values)
        elif isinstance(values[0], list):
            joined[name] = list(dict.fromkeys(item for value in values for item in value))
        else:
            different = [value for n, value in enumerate(values) if value not in values[:n]]
            joined[name] = different[0] if len(different) == 1 else different
    return joined


def _sum(values: Sequence[Any]) -> Any:
    if not isinstance(values[0], dict):
        return sum(values)
    total: Counter[str] = Counter()
    for value in values:
        total.update(value)
    return dict(total)


class _Stages:
    """Opens a progress for each stage of the work on a block; all of them together are its rows."""

    def __init__(self, progress: Progress, rows: int, stages: int) -> None:
        self._progress = progress
        self._rows = rows
        self._stages = stages
        self._done = 0.0
        self._told = 0

    @contextmanager
    def __call__(self, label: str, total: int) -> Iterator[Progress]:
        yield _Stage(self._progress, self._advance, total)

    def _advance(self, share: float) -> None:
        self._done += self._rows * share / self._stages
        # Rounding errors of many small shares must not hide the last row.
        done = min(self._rows, int(self._done + 1e-6))
        if done > self._told:
            self._progress.advance(done - self._told)
            self._told = done


class _Stage:
    def __init__(self, progress: Progress, advance: Any, total: int) -> None:
        self._progress = progress
        self._advance = advance
        self._total = max(1, total)

    def advance(self, done: int = 1) -> None:
        self._advance(done / self._total)

    def status(self, text: str) -> None:
        self._progress.status(text)

    def say(self, line: str) -> None:
        self._progress.say(line)
