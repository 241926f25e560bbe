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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from axolotl_ual.columns import DISAGREEMENT, MASS, SPREAD
from axolotl_ual.errors import BackendError, ConfigError
from axolotl_ual.settings.estimators import JudgeConfig
from axolotl_ual.settings.ual import AnnotateConfig

from ..calls.budget import check_price, price_of
from ..calls.cache import Cache
from ..calls.outcomes import CUT, OUTCOMES, UNPARSABLE
from ..calls.plan import Plan, RunOptions
from ..data.sample import Sample
from ..judge.plan import plan_judges
from ..judge.rubric import load_rubric
from ..judge.run import JudgeRun
from ..judge.uncertainty import Judge
from ..models.server.client import check_key, find_server
from ..progress import Progress
from .base import Estimation, Estimator, FloatArray

COMBINE: Final = {"mean": np.nanmean, "median": np.nanmedian}


@dataclass(frozen=True)
class JudgeEstimator:
    """Asks one model, or a panel, about every sample.

    Attributes:
        judges: with their rubrics and servers.
        combine: "mean" or "median" over the judges.
        cache: folder of the durable cache; None is the user's cache directory.
        options: of the command line.
    """

    judges: tuple[Judge, ...]
    combine: str
    cache: str | None
    options: RunOptions

    def plan(self, samples: Sequence[Sample]) -> Plan:
        """Tell requests, tokens and price. Sends nothing."""
        with Cache(self.cache) as cache:
            return plan_judges(self.judges, samples, cache, self.options)

    def estimate(self, samples: Sequence[Sample], progress: Progress) -> Estimation:
        """Ask about every sample that the cache does not know.

        Raises:
            BackendError: a judge cannot be used, or nothing it said was a score.
            ConfigError: there is no key, no price under --max-cost, or the cache cannot be used.
            LimitError: --max-cost was reached.
        """
        self.check()
        with Cache(self.cache) as cache:
            run = JudgeRun(self.judges, samples, cache, progress, self.options)
            run.run_batches()
            asyncio.run(run.run())
        return self._estimation(run, progress)

    def check(self) -> None:
        """Find what is missing before anything is sent.

        Raises:
            ConfigError: a key, or a price under --max-cost.
        """
        for judge in self.judges:
            check_key(judge.server)
            check_price(judge.price, self.options.purse, judge.config.model, judge.server)

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
            usage=run.usage(),
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
        elif self.judges[0].config.repeats > 1:
            columns[SPREAD] = run.tallies[0].spread.astype(np.float32)
        if len(self.judges) == 1 and run.judges[0].score == "expected":
            columns[MASS] = run.tallies[0].mass
        return columns

    def _facts(self, run: JudgeRun) -> dict[str, Any]:
        shown = {
            "shortened": run.shown.shortened,
            "replaced_characters": run.shown.replaced,
        }
        if len(run.judges) == 1:
            return {**run.judges[0].facts, **shown}
        members = [
            {**judge.facts, "failures": tally.missing()}
            for judge, tally in zip(run.judges, run.tallies, strict=True)
        ]
        return {"judges": members, "combine": self.combine, **shown}

    def _say_what_was_cut(self, run: JudgeRun, progress: Progress) -> None:
        for judge, tally in zip(run.judges, run.tallies, strict=True):
            cut = tally.missing().get(CUT, 0)
            if cut:
                progress.say(
                    f"{cut:,} answers of {judge.config.model} were cut off by `max_tokens: "
                    f"{judge.config.max_tokens}`; raise it and run again: only these are asked"
                )

    def _nothing_scored(self, run: JudgeRun, failures: dict[str, int]) -> BackendError:
        counts = ", ".join(f"{name}: {failures[name]:,}" for name in OUTCOMES if name in failures)
        judge = run.judges[0]
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
            f"({counts}); the first answer: {run.unscored!r}",
            fix,
        )


def _over_judges(function: Any, scores_JN: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    with warnings.catch_warnings():
        # A row without any score is NaN, which numpy warns of.
        warnings.simplefilter("ignore", RuntimeWarning)
        combined: npt.NDArray[np.float64] = function(scores_JN, axis=0)
    return combined


def make_judge(config: JudgeConfig, section: str) -> Judge:
    """A judge from its section.

    Raises:
        ConfigError: the rubric or the price list cannot be read.
    """
    server = find_server(config, section)
    rubric = load_rubric(config.rubric)
    return Judge(config, server, rubric, config.score, price_of(config, server))


def build(
    annotate: AnnotateConfig, base_model: str | None, options: RunOptions | None = None
) -> Estimator:
    """Make the estimator that a recipe asks for: one judge, or a panel.

    Raises:
        ConfigError: a rubric or a price list cannot be read.
    """
    options = options or RunOptions()
    if annotate.estimator == "panel" and annotate.panel is not None:
        judges = tuple(
            make_judge(config, f"ual.annotate.panel.judges.{index}")
            for index, config in enumerate(annotate.panel.judges)
        )
        return JudgeEstimator(judges, annotate.panel.combine, annotate.cache, options)
    if annotate.judge is None:
        raise ConfigError("ual.annotate.judge: `estimator: judge` needs this section")
    judge = make_judge(annotate.judge, "ual.annotate.judge")
    return JudgeEstimator((judge,), "mean", annotate.cache, options)
