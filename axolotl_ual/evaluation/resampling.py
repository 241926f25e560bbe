"""Bootstrap over prompts and over seeds.

A draw takes C of the C prompts with replacement, and S of the S seeds of an arm, and computes a
difference from what it took (Efron 1979). Prompts say how the difference would vary on other
questions, seeds how it would vary if the same recipe trained once more; both together are the
interval to quote. All arms are drawn with the same prompts, and arms with the same seeds with the
same seeds, so a difference stays paired.

Every measure here is a function of sums over rows, so a draw is a vector of counts, and B draws of
a measure are one matrix product: counts (B, C) times sums (C, K). With S seeds there are only
S^S draws of them: an interval over three seeds is coarse, and its ends are the extremes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]
Sums = Mapping[str, FloatArray]
"""Quantity -> sums, (...) or (..., bins)."""
Measure = Callable[[Sums], FloatArray]
"""Sums with any leading shape -> values of that shape."""

RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Draws:
    """Which prompts each of B resamples takes.

    Attributes:
        counts: (B, C), how often each prompt is taken; each row sums to C.
        seed: of the draws.
    """

    counts: FloatArray
    seed: int

    @classmethod
    def of(cls, num_clusters: int, seed: int, resamples: int = RESAMPLES) -> Draws:
        """Draw with replacement; equal arguments give equal draws."""
        rng = np.random.default_rng(seed)
        share = np.full(num_clusters, 1.0 / num_clusters)
        counts = rng.multinomial(num_clusters, share, size=resamples).astype(np.float64)
        return cls(counts, seed)

    def seed_counts(self, num_seeds: int, arm: int) -> FloatArray:
        """(B, S) how often each seed is taken, by the number of the arm that has them."""
        rng = np.random.default_rng([self.seed, num_seeds, arm])
        share = np.full(num_seeds, 1.0 / num_seeds)
        return rng.multinomial(num_seeds, share, size=len(self.counts)).astype(np.float64)


def resample(measure: Measure, sums: Sums, draws: Draws) -> FloatArray:
    """A measure on every draw of prompts.

    Args:
        measure: of sums.
        sums: by quantity, (C,) or (C, bins).
        draws: of C prompts.

    Returns:
        (B,)
    """
    drawn = {name: np.tensordot(draws.counts, values, axes=1) for name, values in sums.items()}
    return measure(drawn)


def interval(values: FloatArray, level: float = LEVEL) -> tuple[float, float] | None:
    """Percentile interval of draws (B,); None where no draw has a value."""
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
