"""Differences with their intervals, and what they say of a claim.

A difference is arm less reference. With numbers by row it is paired by row and by seed, and its
variance is the sum of that over rows and that over seeds (`axolotl_ual.evaluation.differences`);
with one number a run, that over seeds alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from axolotl_ual.evaluation.differences import Spread, clustered_spread, seed_spread, t_test

LEAST_SEEDS = 3
LOOKED_AT = (
    "Results were looked at when one seed was there, before the three that were planned. Nothing "
    "was changed by what they showed.\n"
)
SUPPORTED, AGAINST, UNKNOWN, NOT_RUN = "supported", "not supported", "cannot tell", "not run yet"


@dataclass(frozen=True)
class Claim:
    """One line of the list of claims."""

    claim: str
    verdict: str
    numbers: str


@dataclass(frozen=True)
class Section:
    """What a study adds to the page."""

    title: str
    lines: list[str]
    claims: list[Claim] = field(default_factory=list)


@dataclass(frozen=True)
class Difference:
    """Arm less reference, with its 95 % interval; infinite where nothing tells."""

    value: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        shown = f"{self.value:+.3f}"
        if math.isfinite(self.low):
            shown += f" [{self.low:+.3f}, {self.high:+.3f}]"
        return shown


def paired(
    arm: Sequence[Sequence[float]],
    reference: Sequence[Sequence[float]],
    weight: Sequence[float],
) -> Difference:
    """Difference of sum(values) / sum(weight), of equal seeds on equal rows.

    Args:
        arm: sums by row, of each of S seeds.
        reference: likewise.
        weight: what the sums are divided by, by row.
    """
    first, second = np.array(arm, dtype=np.float64), np.array(reference, dtype=np.float64)
    below = np.array(weight, dtype=np.float64)
    spread = clustered_spread((first - second).mean(axis=0), below)
    values = (first.sum(axis=1) / below.sum(), second.sum(axis=1) / below.sum())
    return _difference(values[0], values[1], [] if spread is None else [spread])


def by_seed(arm: Sequence[float], reference: Sequence[float]) -> Difference:
    """Difference of one number a run, of equal seeds."""
    return _difference(np.array(arm), np.array(reference), [])


def _difference(
    arm: np.ndarray[tuple[int], np.dtype[np.float64]],
    reference: np.ndarray[tuple[int], np.dtype[np.float64]],
    spreads: list[Spread],
) -> Difference:
    value = float(arm.mean() - reference.mean())
    seeds = seed_spread(arm.tolist(), reference.tolist(), paired=True)
    test = t_test(value, [*spreads, *seeds])
    half = math.inf if test is None else float(stats.t.ppf(0.975, test.freedom)) * test.error
    return Difference(value, value - half, value + half, len(arm))


def claim_of(
    words: str,
    found: Difference | None,
    say: Callable[[Difference, float], str],
    margin: float,
    unit: str = "",
) -> Claim:
    """A claim as a difference decides it.

    Args:
        words: the claim.
        found: None where it was not run.
        say: `lower`, `higher`, `not_lower` or `not_higher`.
        margin: differences up to it are none.
        unit: of the difference, for people.
    """
    if found is None:
        return Claim(words, NOT_RUN, "")
    numbers = f"{found} {unit}".rstrip()
    seeds = f"{found.seeds} seed" + ("s" if found.seeds > 1 else "")
    return Claim(words, say(found, margin), f"{numbers}, {seeds}")


def lower(difference: Difference, margin: float) -> str:
    """What a difference says of the claim that the arm is lower than the reference.

    Args:
        difference: arm less reference.
        margin: differences up to it are none.
    """
    if difference.seeds < LEAST_SEEDS:
        return UNKNOWN
    if difference.high < 0:
        return SUPPORTED
    if difference.low > 0 or (-margin < difference.low and difference.high < margin):
        return AGAINST
    return UNKNOWN


def higher(difference: Difference, margin: float) -> str:
    """Likewise of the claim that the arm is higher."""
    return lower(_turned(difference), margin)


def not_higher(difference: Difference, margin: float) -> str:
    """Likewise of the claim that the arm is higher by no more than the margin."""
    if difference.seeds < LEAST_SEEDS:
        return UNKNOWN
    if difference.high < margin:
        return SUPPORTED
    return AGAINST if difference.low > margin else UNKNOWN


def not_lower(difference: Difference, margin: float) -> str:
    """Likewise of the claim that the arm is lower by no more than the margin."""
    return not_higher(_turned(difference), margin)


def _turned(one: Difference) -> Difference:
    """Reference less arm."""
    return Difference(-one.value, -one.high, -one.low, one.seeds)
