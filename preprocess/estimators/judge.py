"""Uncertainty as a capable model states it: one question a sample to a judge behind HTTP.

This is the estimator of UAL (arXiv 2406.04854): a GPT-4-class model is asked for the uncertainty of
instruction and response. The rubric is in `templates/`, the reading of answers in `judges.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

import numpy as np

from axolotl_ual.columns import ManifestUsage
from axolotl_ual.config import AnnotateConfig
from axolotl_ual.errors import BackendError, ConfigError

from ..asking import Question, Stream
from ..backends.api import ChatBackend, Counts, check_key, find_server
from ..cache import Cache, Judgement
from ..judges import load_rubric
from ..judging import Judge, Shown
from ..outcomes import CUT, SCORED, UNPARSABLE
from ..progress import Progress
from ..tally import Tally
from ..turns import Sample
from .base import Estimation, Estimator, Plan

_LONGEST_SHOWN: Final = 200
_PLANNED_AT_A_TIME: Final = 1024


@dataclass
class _Run:
    """What one call of `estimate` counts and shows."""

    progress: Progress
    tally: Tally
    cached: int = 0
    unscored: str = ""
    shown: Shown = field(default_factory=Shown)
    counts: Counts = field(default_factory=Counts)

    def settle(self, row: int, judgement: Judgement, cached: bool) -> None:
        self.cached += cached
        if judgement.outcome != SCORED and not self.unscored:
            self.unscored = judgement.text[:_LONGEST_SHOWN]
        if self.tally.add(row, judgement):
            self.progress.advance(1)


@dataclass(frozen=True)
class JudgeEstimator:
    """Asks one model about every sample.

    Attributes:
        judge: the model, its rubric and its server.
        cache: folder of the durable cache; None is the user's cache directory.
    """

    judge: Judge
    cache: str | None

    def plan(self, samples: Sequence[Sample]) -> Plan:
        """Tell how many requests are left to send. Sends nothing."""
        judge, left = self.judge, 0
        source = iter(samples)
        with Cache(self.cache) as cache:
            while chunk := list(islice(source, _PLANNED_AT_A_TIME)):
                keys = {judge.keys.key(sample) for sample in chunk}
                known = cache.find(keys)
                left += sum(key not in known or judge.is_stale(known[key]) for key in keys)
        lines = [
            f"judge {judge.config.model} at {judge.server.url}",
            f"{left:,} requests to send; {len(samples) - left:,} rows are in the cache or "
            "say the same as another",
        ]
        return Plan(lines, requests=left, cost_usd=None)

    def estimate(self, samples: Sequence[Sample], progress: Progress) -> Estimation:
        """Ask about every sample that the cache does not know.

        Raises:
            BackendError: the judge cannot be used, or nothing it said was a score.
            ConfigError: there is no key, or the cache cannot be used.
        """
        check_key(self.judge.server)
        run = _Run(progress, Tally(len(samples), repeats=1))
        with Cache(self.cache) as cache:
            asyncio.run(self._ask_all(samples, cache, run))
        return self._estimation(run)

    async def _ask_all(self, samples: Sequence[Sample], cache: Cache, run: _Run) -> None:
        judge = self.judge
        async with ChatBackend(judge.config, judge.server, run.progress.say) as backend:
            run.counts = backend.counts

            async def ask(question: Question) -> Judgement:
                return await judge.ask(backend, question, run.shown)

            stream = Stream(
                cache,
                cache.asker(judge.keys.description),
                ask,
                run.settle,
                is_stale=judge.is_stale,
                workers=2 * judge.config.max_concurrency,
            )
            await stream.run(self._questions(samples))

    def _questions(self, samples: Sequence[Sample]) -> Iterator[Question]:
        for row, sample in enumerate(samples):
            yield self.judge.question(sample, row, repeat=0)

    def _estimation(self, run: _Run) -> Estimation:
        failures = run.tally.missing()
        uncertainty = run.tally.mean.astype(np.float32)
        if uncertainty.size and np.isnan(uncertainty).all():
            raise self._nothing_scored(failures, run.unscored)
        if CUT in failures:
            run.progress.say(
                f"{failures[CUT]:,} answers were cut off by ual.annotate.judge.max_tokens: "
                f"{self.judge.config.max_tokens}; raise it and run again, only these are asked"
            )
        return Estimation(
            uncertainty=uncertainty,
            failures=failures,
            usage=ManifestUsage(
                requests=run.counts.requests,
                cached=run.cached,
                prompt_tokens=run.counts.prompt_tokens,
                completion_tokens=run.counts.completion_tokens,
            ),
            facts={
                **self.judge.facts,
                "shortened": run.shown.shortened,
                "replaced_characters": run.shown.replaced,
            },
        )

    def _nothing_scored(self, failures: dict[str, int], unscored: str) -> BackendError:
        counts = ", ".join(f"{reason}: {number:,}" for reason, number in failures.items())
        judge = self.judge
        fix = "look at what the server said; nothing was written"
        if CUT in failures:
            fix = "raise ual.annotate.judge.max_tokens: the answers were cut off by it"
        elif UNPARSABLE in failures:
            fix = (
                f"{judge.config.model} does not keep to the form that is asked for; use a more "
                "capable judge, or a server that takes a JSON schema"
            )
        return BackendError(
            f"none of the rows got a score from {judge.config.model} at {judge.server.url} "
            f"({counts}); the first answer: {unscored!r}",
            fix,
        )


def build(annotate: AnnotateConfig, base_model: str | None) -> Estimator:
    """Make the estimator that a recipe asks for.

    Raises:
        ConfigError: the rubric cannot be read.
    """
    if annotate.judge is None:
        raise ConfigError("ual.annotate.judge: `estimator: judge` needs this section")
    judge = Judge(
        annotate.judge,
        find_server(annotate.judge),
        load_rubric(annotate.judge.rubric),
        "verbalized",
    )
    return JudgeEstimator(judge, annotate.cache)
