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
from collections import Counter
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
from ..judge.notices import Notices
from ..judge.rubric import load_rubric
from ..judge.tally import Tally
from ..judge.uncertainty import Uncertainty
from ..progress import Progress
from .base import Estimation, Estimator, RowScores

_UNCERTAINTY: Final = "uncertainty"
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
        plan = work.plan(f"{self.name}: {work.requests:,} requests{rest}")
        beside = self.asked_beside(samples)
        return replace(plan, lines=[*plan.lines, *([f"  {beside}"] if beside else [])])

    def settled(self) -> Judge:
        """This judge, or with stated numbers where its server gives no log-probabilities."""
        if not self.task.needs_logprobs or not self.asker.lacks_logprobs(self.task):
            return self
        return self.verbalized

    @property
    def verbalized(self) -> Judge:
        """This judge, asked for stated numbers."""
        return replace(self, task=replace(self.task, score="verbalized"))

    def asked_beside(self, samples: Sequence[Sample]) -> str:
        """What to say where stated numbers are kept and none by log-probabilities; or nothing.

        They may be of a server that gives none, or of a run that asked for nothing else.
        """
        task, asker = self.task, self.asker
        if (
            not task.needs_logprobs
            or asker.holds_scores(task)
            or not asker.holds_scores(self.verbalized.task)
        ):
            return ""
        wanted = len(samples) * self.repeats
        known = wanted - asker.plan(self.verbalized.questions(samples)).requests
        if not known:
            return ""
        return (
            f"{self.name}: the cache holds {known:,} of {wanted:,} answers as stated numbers, and "
            f"none by log-probabilities: `score: expected` asks {wanted:,} times for these, or, "
            "where the server gives none, a few times; `score: verbalized` uses what is there"
        )

    def notices(self) -> Notices:
        """A fresh look at its answers."""
        of_hundred = self.task.rubric.scale == {"uncertainty": (0, 100)}
        return Notices(self.name, of_hundred and not self.task.needs_logprobs)

    def warn(self, progress: Progress) -> None:
        """Say what is paid for without a use."""
        if self.repeats > 1 and self.task.config.temperature == 0:
            progress.say(
                f"{self.name}: `repeats: {self.repeats}` at `temperature: 0` pays for identical "
                "requests, which most servers answer alike; set a temperature above 0"
            )

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
        notices: what the answers of each judge look like taken together.
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
        self.notices = [judge.notices() for judge in judges]
        total = sum(len(samples) * judge.repeats for judge in judges)
        self.meter = self._session.meter(progress, total)

    def run(self) -> None:
        """Ask all.

        Raises:
            BackendError: a judge cannot be used.
            LimitError: as much as may be spent was spent.
        """
        for judge in self.judges:
            judge.warn(self._progress)
        self._session.run(self._ask_all())
        self.meter.finish()
        for notices in self.notices:
            for line in notices.lines():
                self._progress.say(line)

    def seen(self, index: int) -> dict[str, list[str]]:
        """How a server took requests, and what is worth a look in its answers."""
        seen = dict(self.judges[index].asker.facts)
        if lines := self.notices[index].lines():
            seen["notices"] = lines
        return seen

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

        if self.judges[index].settled() is not self.judges[index]:
            self._fall_back(index, ", as the cache knows; --retry-failed asks it again")
        elif beside := self.judges[index].asked_beside(self._samples):
            self._progress.say(beside)
        while True:
            judge = self.judges[index]
            try:
                await judge.asker.ask(judge.questions(self._samples), on_answer, self.meter)
            except NoLogprobs:
                self._fall_back(index)
            else:
                return

    def _fall_back(self, index: int, how: str = "") -> None:
        """Go on with stated numbers: this server gives no log-probabilities."""
        judge = self.judges[index]
        self._progress.say(
            f"{judge.asker.endpoint.server.url} gives no log-probabilities for "
            f"{judge.task.config.model}: `score: expected` falls back to `score: verbalized` for "
            f"all rows{how}"
        )
        self._left[self.tallies[index].complete] += 1
        self.judges[index] = judge.verbalized
        self.tallies[index] = Tally(len(self._samples), judge.repeats)
        self.notices[index] = self.judges[index].notices()

    def _settle(self, index: int, row: int, answer: Answer) -> None:
        self.meter.count()
        self.notices[index].add(answer)
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

    def check(self) -> None:
        """Find what is missing before anything is sent.

        Raises:
            ConfigError: a key, or a price under --max-cost.
        """
        for judge in self.judges:
            judge.asker.check()

    def plan(self, samples: Sequence[Sample]) -> Plan:
        """Tell requests, tokens and price. Sends nothing."""
        return joined(judge.settled().plan(samples) for judge in self.judges)

    def scorer(self) -> JudgeScorer:
        """What asks about rows."""
        return JudgeScorer(self.judges, self.combine)

    def finish(self, scores: RowScores) -> Estimation:
        """Tell whether anything was scored, and name the columns.

        Raises:
            BackendError: nothing that the judges said was a score.
        """
        uncertainty = scores.values[_UNCERTAINTY]
        if uncertainty.size and np.isnan(uncertainty).all():
            raise self._nothing_scored(scores)
        return Estimation(
            uncertainty=uncertainty.astype(np.float32),
            failures=scores.failures,
            usage=scores.usage,
            facts=self._facts(scores),
            columns={
                name: values.astype(np.float32)
                for name, values in scores.values.items()
                if name != _UNCERTAINTY
            },
        )

    def _facts(self, scores: RowScores) -> dict[str, Any]:
        members = list(scores.members.values())
        if len(members) == 1:
            return {**members[0].facts, **members[0].seen, **scores.counts}
        told = [
            {**member.facts, **member.seen, "failures": dict(member.failures)} for member in members
        ]
        return {"judges": told, "combine": self.combine, **scores.counts}

    def _nothing_scored(self, scores: RowScores) -> BackendError:
        counts = ", ".join(f"{name}: {number:,}" for name, number in scores.failures.items())
        judge = self.judges[0]
        fix = "look at what the server said; nothing was written"
        if Outcome.CUT.value in scores.failures:
            fix = "raise ual.annotate.judge.max_tokens: the answers were cut off by it"
        elif Outcome.UNPARSABLE.value in scores.failures:
            fix = (
                f"{judge.task.config.model} does not keep to the form that is asked for; use a "
                "more capable judge, or a server that takes a JSON schema"
            )
        return BackendError(
            f"none of the rows got a score from {judge.name} ({counts}); the first answer: "
            f"{scores.example!r}",
            fix,
        )


@dataclass(frozen=True)
class JudgeScorer:
    """Asks judges about rows.

    Attributes:
        judges: of the estimator.
        combine: "mean" or "median" over the judges.
    """

    judges: tuple[Judge, ...]
    combine: str

    def score(self, samples: Sequence[Sample], progress: Progress) -> RowScores:
        """Ask about every sample that the cache does not know.

        Raises:
            BackendError: a judge cannot be used.
            ConfigError: the cache cannot be used.
            LimitError: --max-cost was reached.
        """
        run = JudgeRun(self.judges, samples, progress)
        run.run()
        scores_JN = np.stack([tally.mean for tally in run.tallies])
        uncertainty = _over_judges(COMBINE[self.combine], scores_JN)
        _say_what_was_cut(run, progress)
        return RowScores(
            values={_UNCERTAINTY: uncertainty, **self._columns(run, scores_JN)},
            # Of rows that no judge scored: the reason that the first one gave.
            failures=Counter(run.tallies[0].reasons(np.isnan(uncertainty))),
            counts=Counter(run.meter.shown),
            usage=run.meter.usage(),
            example=run.meter.first_unscored or "",
            members={
                str(place): RowScores(
                    failures=Counter(tally.missing()),
                    facts=judge.task.facts,
                    seen=run.seen(place),
                )
                for place, (judge, tally) in enumerate(zip(run.judges, run.tallies, strict=True))
            },
        )

    def _columns(
        self, run: JudgeRun, scores_JN: npt.NDArray[np.float64]
    ) -> dict[str, npt.NDArray[np.float64]]:
        columns: dict[str, npt.NDArray[np.float64]] = {}
        if len(self.judges) > 1:
            spread = _over_judges(np.nanstd, scores_JN)
            spread[np.isfinite(scores_JN).sum(axis=0) < 2] = np.nan
            columns[DISAGREEMENT] = spread
        elif self.judges[0].repeats > 1:
            columns[SPREAD] = run.tallies[0].spread
        if len(self.judges) == 1 and run.judges[0].task.score == "expected":
            columns[MASS] = run.tallies[0].mass.astype(np.float64)
        return columns


def _say_what_was_cut(run: JudgeRun, progress: Progress) -> None:
    for judge, tally in zip(run.judges, run.tallies, strict=True):
        cut = tally.missing().get(Outcome.CUT.value, 0)
        config = judge.task.config
        if cut and judge.task.max_tokens == config.max_tokens:
            progress.say(
                f"{cut:,} answers of {config.model} were cut off by `max_tokens: "
                f"{config.max_tokens}`; raise it and run again: only these are asked"
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
    rubric = load_rubric(config.rubric, reason=bool(config.reason), key=section)
    if config.score == "expected" and rubric.brings_schema and not rubric.scale.is_digits:
        raise ConfigError(
            f"{section}.score: expected: the rubric {config.rubric} rates by numbers of several "
            "digits, whose log-probabilities are those of no one token",
            "set `score: verbalized`, or bounds from 0 to 9 in its schema",
        )
    task = Uncertainty(config, rubric, config.score)
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
