"""What the demo looks up in what was written, beside the evaluation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from axolotl_ual.labels.ranks import average_ranks

Floats = npt.NDArray[np.float64]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read a JSONL file."""
    with path.open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def rank_correlation(a: Floats, b: Floats) -> float:
    """Spearman's rank correlation of two (N,) arrays: Pearson's, of their average ranks."""
    return float(np.corrcoef(average_ranks(a), average_ranks(b))[0, 1])


def by_certainty(evaluation: Mapping[str, Any], measure: str) -> dict[str, dict[str, float]]:
    """Values of a measure by arm, of held-out questions with one answer and with several.

    Args:
        evaluation: what `evaluation.json` holds, with rows grouped by `true_entropy` in two halves.
        measure: its name.
    """
    halves = [
        result["values"]
        for result in evaluation["results"]
        if result["measure"] == measure and result["group"].startswith("true_entropy ")
    ]
    return dict(zip(("certain", "uncertain"), halves, strict=True))
