"""How consistent uncertainty is: between repeats of the scoring, and between two checkpoints.

The responses stay; what they are scored against is drawn anew. A repeat samples n - 1 fresh
responses to each prompt as evidence, and asks the judge anew:

    u_s(r)   1 - (1 + evidence in the cluster of r) / n, clusters over responses and evidence
    u_f(r)   mean contradiction of r by the evidence, or the judge's verdicts once more
    u_v(r)   the judge's ratings once more; a classifier says the same each time

For each dimension, over k repeats:

    repeat sd          mean over responses of the standard deviation (k - 1) over repeats
    rank correlation   Spearman's rho over responses, mean over pairs of repeats
    flips              among pairs of responses to one prompt that both repeats order strictly, the
                       share that they order differently
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from axolotl_ual.labels.ranks import average_ranks

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far k scorings of N responses agree.

    Attributes:
        responses: those that every scoring has a value for.
        repeat_sd: mean standard deviation over scorings.
        rank_correlation: mean over pairs of scorings; NaN where one of them is constant.
        flips: share of response pairs whose order flips; NaN where no pair is ordered strictly.
        compared: number of such pairs, over all pairs of scorings.
    """

    responses: int
    repeat_sd: float
    rank_correlation: float
    flips: float
    compared: int


def agreement(values_KN: FloatArray, prompt_N: IntArray) -> Agreement:
    """Compare scorings.

    Args:
        values_KN: k >= 2 scorings of N responses, NaN where one is missing.
        prompt_N: prompt of each response.
    """
    known_N = ~np.isnan(values_KN).any(axis=0)
    values, prompt = values_KN[:, known_N], prompt_N[known_N]
    if not values.shape[1]:
        return Agreement(0, float("nan"), float("nan"), float("nan"), 0)
    first, second = _pairs_within(prompt)
    correlations, flipped, compared = [], 0, 0
    for one, other in itertools.combinations(values, 2):
        correlations.append(rank_correlation(one, other))
        signs = np.sign(one[first] - one[second]) * np.sign(other[first] - other[second])
        flipped += int((signs < 0).sum())
        compared += int((signs != 0).sum())
    return Agreement(
        responses=int(known_N.sum()),
        repeat_sd=float(values.std(axis=0, ddof=1).mean()),
        rank_correlation=float(np.mean(correlations)),
        flips=flipped / compared if compared else float("nan"),
        compared=compared,
    )


def rank_correlation(one: FloatArray, other: FloatArray) -> float:
    """Spearman's rho with average ranks; NaN where one side is constant."""
    first, second = average_ranks(one), average_ranks(other)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])


def _pairs_within(prompt_N: IntArray) -> tuple[IntArray, IntArray]:
    """Places of all pairs of responses to one prompt."""
    order = np.argsort(prompt_N, kind="stable")
    _, starts = np.unique(prompt_N[order], return_index=True)
    firsts, seconds = [], []
    for members in np.split(order, starts[1:]):
        left, right = np.triu_indices(len(members), k=1)
        firsts.append(members[left])
        seconds.append(members[right])
    return np.concatenate(firsts), np.concatenate(seconds)


def report_lines(agreements: Sequence[tuple[str, Agreement]]) -> list[str]:
    """A table, one line a dimension."""
    head = f"{'dimension':<12}{'responses':>10}{'sd':>9}{'rank corr.':>12}{'flips':>9}{'of':>9}"
    return [
        head,
        *(
            f"{name:<12}{found.responses:>10,}{found.repeat_sd:>9.4f}"
            f"{found.rank_correlation:>12.4f}{found.flips:>9.4f}{found.compared:>9,}"
            for name, found in agreements
        ),
    ]
