"""Uncertainty as a capable model states it: a question for each sample to a judge behind HTTP.

This is the estimator of UAL (arXiv 2406.04854): a GPT-4-class model is asked for the uncertainty of
instruction and response. The rubric is in `templates/`, the reading of answers in `judge/parse.py`.

    u_i = mean_k score_ik                 k repeats of one judge; spread = their standard deviation
    u_i = mean_j u_ij or median_j u_ij    a panel of judges j; disagreement = std_j u_ij

Means and medians are over the scores that were had: where a judge failed, the others count.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from axolotl_ual.columns import DISAGREEMENT, MASS, SPREAD
from axolotl_ual.errors import BackendError, ConfigError
from axolotl_ual.settings.estimators import JudgeConfig
from axolotl_ual.settings.ual import AnnotateConfig

from ..calls.ask import Asker, Session
from ..calls.cache import Answer
from ..calls.outcomes import Outcome
from ..calls.plan import Plan, joined
from ..calls.task import NoLogprobs, Question, Questions
from ..data.sample import Sample
from ..judge.rubric import load_rubric
from ..judge.tally import Tally
from ..judge.uncertainty import Uncertainty
from ..progress import Progress
from .base import Estimation, Estimator, FloatArray

COMBINE: Final = {"mean": np.nanmean, "median": np.nanmedian}


@dataclass(frozen=True)
class Judge:
    """One judge: what it is asked, how often, and by whom.

    Attributes:
        task: what it is asked.
        repeats: times that each sample is judged.
        asker: of its endpoint.
    """

    task: Uncertainty
    repeats: int
    asker: Asker

    def questions(self, samples: Sequence[Sample]) -> Questions:
        """Every question about N samples, by row."""

        def make() -> Iterator[Question]:
            for row, sample in enumerate(samples):
                for repeat in range(self.repeats):
                    yield Question(self.task, sample, repeat, [row])

        return Questions([self.task], make)

    def plan(self, samples: Sequence[Sample]) -> Plan:
        """Tell requests, tokens and price. Sends nothing."""
        work = self.asker.plan(self.questions(samples))
        wanted = len(samples) * self.repeats
        known = wanted - work.requests
        rest = f"; {known:,} of {wanted:,} are in the cache or equal to another" if known else ""
        return work.plan(f"{self.name}: {work.requests:,} requests{rest}")

    @property
    def name(self) -> str:
        """Model and server."""
        return f"{self.task.config.model} at {self.asker.endpoint.server.url}"


class JudgeRun:
    """Asks every judge about every sample.

    Args:
        judges: one, or the members of a panel.
        samples: lazy.
        progress: advances by one when all judges are done with a row.

    Attributes:
        judges: as they were used: a judge may have fallen back to another score.
        tallies: one for each judge.
        meter: of the run.
    """

    def __init__(
        self, judges: Sequence[Judge], samples: Sequence[Sample], progress: Progress
    ) -> None:
        self._samples = samples
        self._progress = progress
        self._session = judges[0].asker.session
        self._left = np.full(len(samples), len(judges), np.uint16)
        self._is_advanced = np.zeros(len(samples), np.bool_)
        self.judges = list(judges)
        self.tallies = [Tally(len(samples), judge.repeats) for judge in judges]
        total = sum(len(samples) * judge.repeats for judge in judges)
        self.meter = self._session.meter(progress, total)

    def run(self) -> None:
        """Ask all.

        Raises:
            BackendError: a judge cannot be used.
            LimitError: as much as may be spent was spent.
        """
        self._session.run(self._ask_all())
        self.meter.finish()

    async def _ask_all(self) -> None:
        tasks = [asyncio.create_task(self._ask(index)) for index in range(len(self.judges))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, index: int) -> None:
        def on_answer(row: int, answer: Answer) -> None:
            self._settle(index, row, answer)

        while True:
            judge = self.judges[index]
            try:
                await judge.asker.ask(judge.questions(self._samples), on_answer, self.meter)
            except NoLogprobs:
                self._fall_back(index)
            else:
                return

    def _fall_back(self, index: int) -> None:
        """Go on with stated numbers: this server gives no log-probabilities."""
        judge = self.judges[index]
        self._progress.say(
            f"{judge.asker.endpoint.server.url} gives no log-probabilities for "
            f"{judge.task.config.model}: `score: expected` falls back to `score: verbalized` for "
            "all rows"
        )
        self._left[self.tallies[index].complete] += 1
        self.judges[index] = replace(judge, task=replace(judge.task, score="verbalized"))
        self.tallies[index] = Tally(len(self._samples), judge.repeats)

    def _settle(self, index: int, row: int, answer: Answer) -> None:
        self.meter.count()
        if self.tallies[index].add(row, answer):
            self._left[row] -= 1
            if not self._left[row] and not self._is_advanced[row]:
                self._is_advanced[row] = True
                self._progress.advance(1)


@dataclass(frozen=True)
class JudgeEstimator:
    """Asks one model, or a panel, about every sample.

    Attributes:
        judges: with their rubrics and endpoints.
        combine: "mean" or "median" over the judges.
    """

    judges: tuple[Judge, ...]
    combine: str

    def plan(self, samples: Sequence[Sample]) -> Plan:
        """Tell requests, tokens and price. Sends nothing."""
        return joined(judge.plan(samples) for judge in self.judges)

    def estimate(self, samples: Sequence[Sample], progress: Progress) -> Estimation:
        """Ask about every sample that the cache does not know.

        Raises:
            BackendError: a judge cannot be used, or nothing it said was a score.
            ConfigError: there is no key, no price under --max-cost, or the cache cannot be used.
            LimitError: --max-cost was reached.
        """
        self.check()
        run = JudgeRun(self.judges, samples, progress)
        run.run()
        return self._estimation(run, progress)

    def check(self) -> None:
        """Find what is missing before anything is sent.

        Raises:
            ConfigError: a key, or a price under --max-cost.
        """
        for judge in self.judges:
            judge.asker.check()

    def _estimation(self, run: JudgeRun, progress: Progress) -> Estimation:
        scores_JN = np.stack([tally.mean for tally in run.tallies])
        uncertainty = _over_judges(COMBINE[self.combine], scores_JN)
        failures = self._failures(run, np.isnan(uncertainty))
        if uncertainty.size and np.isnan(uncertainty).all():
            raise self._nothing_scored(run, failures)
        self._say_what_was_cut(run, progress)
        return Estimation(
            uncertainty=uncertainty.astype(np.float32),
            failures=failures,
            usage=run.meter.usage(),
            facts=self._facts(run),
            columns=self._columns(run, scores_JN),
        )

    def _failures(self, run: JudgeRun, missing: npt.NDArray[np.bool_]) -> dict[str, int]:
        """Rows that no judge scored, by the reason that the first judge gave."""
        return run.tallies[0].reasons(missing)

    def _columns(self, run: JudgeRun, scores_JN: npt.NDArray[np.float64]) -> dict[str, FloatArray]:
        columns: dict[str, FloatArray] = {}
        if len(self.judges) > 1:
            spread = _over_judges(np.nanstd, scores_JN)
            spread[np.isfinite(scores_JN).sum(axis=0) < 2] = np.nan
            columns[DISAGREEMENT] = spread.astype(np.float32)
        elif self.judges[0].repeats > 1:
            columns[SPREAD] = run.tallies[0].spread.astype(np.float32)
        if len(self.judges) == 1 and run.judges[0].task.score == "expected":
            columns[MASS] = run.tallies[0].mass
        return columns

    def _facts(self, run: JudgeRun) -> dict[str, Any]:
        shown = run.meter.shown
        if len(run.judges) == 1:
            return {**run.judges[0].task.facts, **shown}
        members = [
            {**judge.task.facts, "failures": tally.missing()}
            for judge, tally in zip(run.judges, run.tallies, strict=True)
        ]
        return {"judges": members, "combine": self.combine, **shown}

    def _say_what_was_cut(self, run: JudgeRun, progress: Progress) -> None:
        for judge, tally in zip(run.judges, run.tallies, strict=True):
            cut = tally.missing().get(Outcome.CUT.value, 0)
            config = judge.task.config
            if cut and judge.task.max_tokens == config.max_tokens:
                progress.say(
                    f"{cut:,} answers of {config.model} were cut off by `max_tokens: "
                    f"{config.max_tokens}`; raise it and run again: only these are asked"
                )

    def _nothing_scored(self, run: JudgeRun, failures: dict[str, int]) -> BackendError:
        counts = ", ".join(f"{name}: {number:,}" for name, number in failures.items())
        judge = run.judges[0]
        fix = "look at what the server said; nothing was written"
        if Outcome.CUT.value in failures:
            fix = "raise ual.annotate.judge.max_tokens: the answers were cut off by it"
        elif Outcome.UNPARSABLE.value in failures:
            fix = (
                f"{judge.task.config.model} does not keep to the form that is asked for; use a "
                "more capable judge, or a server that takes a JSON schema"
            )
        return BackendError(
            f"none of the rows got a score from {judge.name} ({counts}); the first answer: "
            f"{run.meter.first_unscored!r}",
            fix,
        )


def _over_judges(function: Any, scores_JN: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    with warnings.catch_warnings():
        # A row without any score is NaN, which numpy warns of.
        warnings.simplefilter("ignore", RuntimeWarning)
        combined: npt.NDArray[np.float64] = function(scores_JN, axis=0)
    return combined


def make_judge(config: JudgeConfig, section: str, session: Session) -> Judge:
    """A judge from its section.

    Raises:
        ConfigError: the rubric or the price list cannot be read.
    """
    task = Uncertainty(config, load_rubric(config.rubric), config.score)
    return Judge(task, config.repeats, session.asker(config, section))


def build(annotate: AnnotateConfig, session: Session) -> Estimator:
    """Make the estimator that a recipe asks for: one judge, or a panel.

    Raises:
        ConfigError: a rubric or a price list cannot be read.
    """
    if annotate.estimator == "panel" and annotate.panel is not None:
        judges = tuple(
            make_judge(config, f"ual.annotate.panel.judges.{index}", session)
            for index, config in enumerate(annotate.panel.judges)
        )
        return JudgeEstimator(judges, annotate.panel.combine)
    if annotate.judge is None:
        raise ConfigError("ual.annotate.judge: `estimator: judge` needs this section")
    return JudgeEstimator((make_judge(annotate.judge, "ual.annotate.judge", session),), "mean")
