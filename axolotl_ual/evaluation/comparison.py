"""Arms of a comparison, each trained with some seeds, measured on the same rows.

The value of an arm is the mean over its seeds. Its difference to the reference comes with a
standard error and a test (`differences`), with intervals over prompts, over seeds and over both
(`resampling`), and with a p-value corrected over all arms and groups of a measure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from axolotl_ual.evaluation.differences import (
    Spread,
    TTest,
    cluster_sums,
    clustered_spread,
    holm,
    seed_spread,
    t_test,
)
from axolotl_ual.evaluation.predictions import Measure
from axolotl_ual.evaluation.resampling import Draws, Sums, interval, resample

FloatArray = npt.NDArray[np.floating[Any]]
IndexArray = npt.NDArray[np.integer[Any]]
BoolArray = npt.NDArray[np.bool_]
Interval = tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of training.

    Attributes:
        name: of the arm.
        seeds: what tells its runs apart, in order.
        sums: sums by row of each run.
        trained: whether another seed would give another model; the base model has no seeds.
    """

    name: str
    seeds: tuple[str, ...]
    sums: tuple[Sums, ...]
    trained: bool = True


@dataclass(slots=True)
class Difference:
    """An arm less the reference, of one measure in one group.

    Attributes:
        arm: its name.
        difference: of the means over seeds.
        test: None where nothing tells how sure it is.
        prompts: interval over prompts, the trained models as they are.
        seeds: interval over seeds, the prompts as they are; None below two seeds.
        both: over prompts and seeds.
        p_holm: corrected over all arms and groups of the measure.
    """

    arm: str
    difference: float
    test: TTest | None
    prompts: Interval
    seeds: Interval
    both: Interval
    p_holm: float | None = None


@dataclass(slots=True)
class Result:
    """One measure in one group of rows.

    Attributes:
        measure: its name.
        group: its name.
        rows: rows of the group.
        prompts: distinct prompts of them.
        values: mean over seeds by arm.
        by_seed: value of each seed by arm.
        intervals: over prompts and seeds by arm.
        differences: of the other arms to the reference.
    """

    measure: str
    group: str
    rows: int
    prompts: int
    values: dict[str, float]
    by_seed: dict[str, list[float]]
    intervals: dict[str, Interval]
    differences: list[Difference] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A measure of one arm: (S,) as it is, and (S, B) on draws of prompts."""

    arm: Arm
    plain: FloatArray
    drawn: FloatArray
    seed_counts: FloatArray

    @property
    def over_prompts(self) -> FloatArray:
        mean: FloatArray = self.drawn.mean(axis=0)
        return mean

    @property
    def over_seeds(self) -> FloatArray:
        return self.seed_counts @ self.plain / len(self.plain)

    @property
    def over_both(self) -> FloatArray:
        summed: FloatArray = np.einsum("bs,sb->b", self.seed_counts, self.drawn)
        return summed / len(self.plain)


def compare(
    arms: Sequence[Arm],
    clusters: IndexArray,
    groups: Mapping[str, BoolArray],
    measures: Sequence[Measure],
    reference: str,
    seed: int,
) -> list[Result]:
    """Measure arms in groups of rows.

    Args:
        arms: each with sums over the same R rows.
        clusters: (R,) which prompt a row answers.
        groups: (R,) members by name; a group without members has no result.
        measures: those whose sums every arm has.
        reference: name of the arm that the others are compared with.
        seed: of the draws.
    """
    results = []
    for name, members in groups.items():
        if not members.any():
            continue
        rows = np.flatnonzero(members)
        distinct, inside = np.unique(clusters[rows], return_inverse=True)
        by_arm = [_clustered(arm, rows, inside, len(distinct)) for arm in arms]
        draws = Draws.of(len(distinct), seed)
        results += [
            _compare_group(measure, name, len(rows), by_arm, reference, draws)
            for measure in measures
        ]
    for measure in measures:
        _correct([r for r in results if r.measure == measure.name])
    return results


def _clustered(arm: Arm, rows: IndexArray, clusters: IndexArray, count: int) -> Arm:
    sums = tuple(
        {name: cluster_sums(values[rows], clusters, count) for name, values in run.items()}
        for run in arm.sums
    )
    return Arm(arm.name, arm.seeds, sums, arm.trained)


def _compare_group(
    measure: Measure, group: str, rows: int, arms: Sequence[Arm], reference: str, draws: Draws
) -> Result:
    numbers = _seed_numbers(arms)
    drawn = {
        arm.name: _Drawn(
            arm,
            np.array([float(_total(measure, sums)) for sums in arm.sums]),
            np.stack([resample(measure.value, sums, draws) for sums in arm.sums]),
            draws.seed_counts(len(arm.sums), numbers[arm.name]),
        )
        for arm in arms
    }
    result = Result(
        measure.name,
        group,
        rows,
        draws.counts.shape[1],
        {name: float(item.plain.mean()) for name, item in drawn.items()},
        {name: item.plain.tolist() for name, item in drawn.items()},
        {name: interval(item.over_both) for name, item in drawn.items()},
    )
    result.differences = [
        _difference(measure, item, drawn[reference], draws.counts.shape[1])
        for name, item in drawn.items()
        if name != reference
    ]
    return result


def _total(measure: Measure, sums: Sums) -> FloatArray:
    return measure.value({name: values.sum(axis=0) for name, values in sums.items()})


def _seed_numbers(arms: Sequence[Arm]) -> dict[str, int]:
    """Arms with the same seeds get one number, so that their seeds are drawn together."""
    known: dict[tuple[str, ...], int] = {}
    return {arm.name: known.setdefault(arm.seeds, len(known)) for arm in arms}


def _difference(measure: Measure, arm: _Drawn, reference: _Drawn, clusters: int) -> Difference:
    difference = float(arm.plain.mean() - reference.plain.mean())
    over_prompts = arm.over_prompts - reference.over_prompts
    spreads = _prompt_spread(measure, arm.arm, reference.arm, over_prompts, clusters)
    paired = arm.arm.seeds == reference.arm.seeds
    seeds = seed_spread(arm.plain.tolist(), reference.plain.tolist(), paired)
    several = bool(seeds)
    return Difference(
        arm.arm.name,
        difference,
        t_test(difference, [*spreads, *seeds]) if spreads else None,
        interval(over_prompts),
        interval(arm.over_seeds - reference.over_seeds) if several else None,
        interval(arm.over_both - reference.over_both),
    )


def _prompt_spread(
    measure: Measure, arm: Arm, reference: Arm, over_prompts: FloatArray, clusters: int
) -> list[Spread]:
    """Clustered where both are ratios with one denominator, else by the bootstrap."""
    if measure.ratio is not None:
        above, below = measure.ratio
        weights = [sums[below] for sums in (*arm.sums, *reference.sums)]
        if all(np.array_equal(weights[0], other) for other in weights[1:]):
            means = [
                np.mean([sums[above] for sums in runs.sums], axis=0) for runs in (arm, reference)
            ]
            spread = clustered_spread(means[0] - means[1], weights[0])
            return [] if spread is None else [spread]
    known = over_prompts[np.isfinite(over_prompts)]
    if len(known) < 2 or clusters < 2:
        return []
    return [Spread(float(known.std(ddof=1)), clusters - 1)]


def _correct(results: Sequence[Result]) -> None:
    tested = [d for result in results for d in result.differences if d.test is not None]
    corrected = holm([d.test.p for d in tested if d.test is not None])
    for difference, p in zip(tested, corrected, strict=True):
        difference.p_holm = p
