"""Uncertainty as a capable model states it: a question for each sample to a judge behind HTTP.

This is the estimator of UAL (arXiv 2406.04854): a GPT-4-class model is asked for the uncertainty of
instruction and response. The rubric is in `templates/`, the reading of answers in `judge/parse.py`.

    u_i = mean_k score_ik                 k repeats of one judge; spread = their standard deviation
    u_i = mean_j u_ij or median_j u_ij    a panel of judges j; disagreement = std_j u_ij

Means and medians are over the scores that were had: where a judge failed, the others count.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from axolotl_ual.columns import DISAGREEMENT, MASS, SPREAD
from axolotl_ual.errors import BackendError, ConfigError
from axolotl_ual.settings.ual import AnnotateConfig

from ..calls.ask import Session
from ..calls.outcomes import Outcome
from ..calls.plan import Plan, joined
from ..data.sample import Sample
from ..judge.member import Judge, make_judge
from ..judge.run import JudgeRun
from ..progress import Progress
from .base import Estimation, Estimator, RowScores

_UNCERTAINTY: Final = "uncertainty"
COMBINE: Final = {"mean": np.nanmean, "median": np.nanmedian}


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
