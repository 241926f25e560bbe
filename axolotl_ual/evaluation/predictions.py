"""What a model makes of the tokens of held-out responses, summed by row, and measures of the sums.

    nll            -log p(y_t)                                  nats a token, and a response
    entropy        -sum_v p_v log p_v                           nats a token
    accuracy       whether the most likely token follows        in [0, 1]
    brier          sum_v (p_v - [v = y_t])^2                    in [0, 2]
    ece_*, rms     see `reliability`                            in [0, 1]

Sums over rows are all that a measure needs, so any group of rows and any resample of them is a sum
of rows. Edges of bins of equal mass are those of all rows of the model, whatever the group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from axolotl_ual.evaluation.differences import cluster_sums
from axolotl_ual.evaluation.reliability import (
    SCHEMES,
    assign_bins,
    bin_edges,
    bin_sums,
    expected_error,
    rms_error,
)
from axolotl_ual.evaluation.resampling import Sums

FloatArray = npt.NDArray[np.floating[Any]]
IndexArray = npt.NDArray[np.integer[Any]]

BINS: Final = (10, 15)
DIAGRAM: Final = "width_10"
"""Bins of the reliability diagram."""
Better = Literal["lower", "higher"]


@dataclass(frozen=True, slots=True)
class Predictions:
    """Next-token predictions at the T tokens of the responses of R rows.

    Attributes:
        row: (T,) ascending, from 0 to R - 1.
        num_rows: R.
        nll: (T,) in nats.
        entropy: (T,) in nats.
        confidence: (T,) probability of the most likely token.
        correct: (T,) 1 where that is the token that follows, else 0.
        brier: (T,) in [0, 2].
    """

    row: IndexArray
    num_rows: int
    nll: FloatArray
    entropy: FloatArray
    confidence: FloatArray
    correct: FloatArray
    brier: FloatArray


@dataclass(frozen=True, slots=True)
class Measure:
    """A number that sums over rows give.

    Attributes:
        name: in files.
        label: for people.
        better: which way is better; None where that depends.
        value: sums with any leading shape to values of that shape.
        ratio: the two sums that it is the ratio of, where it is one.
    """

    name: str
    label: str
    better: Better | None
    value: Callable[[Sums], FloatArray]
    ratio: tuple[str, str] | None = None


def ratio(name: str, label: str, above: str, below: str, better: Better | None) -> Measure:
    """A measure that is a mean: a ratio of two sums."""

    def value(sums: Sums) -> FloatArray:
        count = np.asarray(sums[below], dtype=np.float64)
        return np.where(count > 0, sums[above] / np.where(count > 0, count, 1.0), np.nan)

    return Measure(name, label, better, value, (above, below))


def _ece(bins: str) -> Measure:
    scheme, _, number = bins.partition("_")
    return Measure(
        f"ece_{bins}",
        f"ECE, {number} bins of equal {scheme}",
        "lower",
        lambda sums: expected_error(sums[f"count_{bins}"], sums[f"gap_{bins}"]),
    )


MEASURES: Final = (
    ratio("nll", "NLL a token", "nll", "tokens", "lower"),
    ratio("sequence_nll", "NLL a response", "nll", "rows", "lower"),
    ratio("accuracy", "Token accuracy", "correct", "tokens", "higher"),
    ratio("entropy", "Entropy a token", "entropy", "tokens", None),
    ratio("brier", "Brier score", "brier", "tokens", "lower"),
    *(_ece(f"{scheme}_{bins}") for scheme in SCHEMES for bins in BINS),
    Measure(
        "rms",
        "RMS calibration error, 15 bins of equal mass",
        "lower",
        lambda sums: rms_error(sums["count_mass_15"], sums["gap_mass_15"]),
    ),
)
EXACT_MATCH: Final = ratio("exact_match", "Exact match", "exact", "answered", "higher")


def sum_by_row(predictions: Predictions) -> dict[str, FloatArray]:
    """Sums over the tokens of each row.

    Returns:
        By quantity (R,), and by `count_*`, `gap_*` and `confidence_*` of a kind of bins (R, bins).
    """
    ones = np.ones(len(predictions.row))
    quantities = {
        "tokens": ones,
        "nll": predictions.nll,
        "entropy": predictions.entropy,
        "correct": predictions.correct,
        "brier": predictions.brier,
    }
    sums = {
        name: cluster_sums(values, predictions.row, predictions.num_rows)
        for name, values in quantities.items()
    }
    sums["rows"] = (sums["tokens"] > 0).astype(np.float64)
    confidence = predictions.confidence.astype(np.float64)
    gap = predictions.correct.astype(np.float64) - confidence
    for scheme in SCHEMES:
        for number in BINS:
            edges = bin_edges(confidence, number, scheme)
            bins = assign_bins(confidence, edges)
            parts = {"count": ones, "gap": gap}
            if f"{scheme}_{number}" == DIAGRAM:
                parts["confidence"] = confidence
            for name, values in parts.items():
                sums[f"{name}_{scheme}_{number}"] = bin_sums(
                    predictions.row, values, bins, predictions.num_rows, number
                )
    return sums
