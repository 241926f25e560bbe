"""Is the judge worth its price? Some rows judged several times, before all are paid for.

What is told is the agreement of single scores (`labels/repeats.py`). The mean of r repeats has
r ICC / (1 + (r - 1) ICC) (Spearman-Brown).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from axolotl_ual.errors import BackendError, ConfigError

from ..data.sample import Sample
from ..estimators.base import Estimator
from ..estimators.judge import JudgeEstimator
from ..judge.member import Judge
from ..judge.run import JudgeRun
from ..labels.repeats import Repeats, repeats_agree
from ..progress import Progress

REPEATS: Final = 5
_GOOD: Final = 0.9
_FAIR: Final = 0.5


def audit(
    estimator: Estimator, samples: Sequence[Sample], rows: int, progress: Progress
) -> list[str]:
    """Judge some rows several times.

    Args:
        estimator: a judge or a panel.
        samples: all of them; the rows are drawn from them, the same ones each time.
        rows: number to judge.
        progress: advances by one for each row.

    Returns:
        Sentences for the user.

    Raises:
        ConfigError: the estimator asks no judge.
        BackendError: a judge cannot be used.
    """
    if not isinstance(estimator, JudgeEstimator):
        raise ConfigError(
            "--audit: this recipe's estimator asks no judge",
            "take --audit out, or set ual.annotate.estimator to judge or panel",
        )
    chosen = sorted(random.Random(0).sample(range(len(samples)), min(rows, len(samples))))
    judges = [replace(judge, repeats=REPEATS) for judge in estimator.judges]
    estimator.check()
    run = JudgeRun(judges, [samples[row] for row in chosen], progress)
    run.run()
    return [f"audit: {len(chosen):,} rows, {REPEATS} times each", *_report(run)]


def _report(run: JudgeRun) -> Iterator[str]:
    for judge, tally in zip(run.judges, run.tallies, strict=True):
        full = tally.scores == REPEATS
        found = repeats_agree(tally.mean[full], tally.spread[full], REPEATS)
        if found is None:
            raise BackendError(
                f"{judge.name} scored fewer than two rows {REPEATS} times ({tally.missing()}); "
                f"the first answer: {run.meter.first_unscored!r}"
            )
        for line in _lines(judge, found):
            yield f"{judge.task.config.model}: {line}"
    cost = run.meter.usage().cost_usd
    if cost is not None:
        yield f"the audit cost {cost:.4f} USD"


def _lines(judge: Judge, found: Repeats) -> list[str]:
    lines = [
        f"{found.rows:,} rows with all scores; standard deviation {found.within:.3f} between "
        f"repeats of a row, {found.between:.3f} between rows"
    ]
    if np.isnan(found.single):
        return [*lines, "all scores are the same: this judge does not tell the rows apart"]
    lines.append(f"agreement of single scores (ICC): {found.single:.3f}; {_advice(found.single)}")
    if judge.task.config.temperature == 0:
        lines.append(
            "at `temperature: 0` repeats show how far the server is from deterministic, not how "
            "sure the model is"
        )
    return lines


def _advice(icc: float) -> str:
    if icc >= _GOOD:
        return "one score for each row is enough"
    if icc >= _FAIR:
        needed = int(np.ceil(_GOOD * (1 - icc) / (icc * (1 - _GOOD))))
        return f"`repeats: {needed}` would bring the mean to {_GOOD}"
    return "most of what it says is chance: use another judge or rubric"
