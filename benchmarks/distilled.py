"""`estimator: distilled` against the judge on all rows, where the entropy of each answer is known.

    python benchmarks/distilled.py MODEL [--output distilled.json] [--rows 12000]

The rows are those of the demo's invented world, half of them with one answer. The judge is
simulated: it says the true entropy over ln 16 as a percentage, with Gaussian noise of `--noise`
points. For each k and regressor the rows that were not judged are compared with what the judge
would have said of them and with the truth: Spearman's correlation, with 95 % of bootstrap samples
of the rows. MODEL is a folder or Hub name for sentence-transformers.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from axolotl_ual.demo.world import CHOICES, NUM_WORDINGS, draw_rows, make_world
from axolotl_ual.preprocess.calls.plan import Plan
from axolotl_ual.preprocess.data.sample import Sample, Turn
from axolotl_ual.preprocess.estimators.base import Estimation, RowScores
from axolotl_ual.preprocess.estimators.distilled import Distilled
from axolotl_ual.preprocess.labels.agreement import rank_correlation
from axolotl_ual.preprocess.progress import SilentProgress
from axolotl_ual.settings.estimators import DistilledConfig

Array = npt.NDArray[np.float64]
JUDGED = (500, 2000, 8000)
RESAMPLES = 1000


@dataclass
class Simulated:
    """A judge that says what it is told to.

    Attributes:
        says: rating of each sample.
    """

    says: dict[Sample, float]

    def check(self) -> None:
        """Nothing is missing."""

    def plan(self, samples: Sequence[Sample]) -> Plan:
        """Free."""
        return Plan([])

    def scorer(self) -> Simulated:
        """Itself."""
        return self

    def score(self, samples: Sequence[Sample], progress: SilentProgress) -> RowScores:
        """Look up."""
        return RowScores({"u": np.array([self.says[sample] for sample in samples])})

    def finish(self, scores: RowScores) -> Estimation:
        """As they are."""
        return Estimation(scores.values["u"].astype(np.float32))


def compare(predicted: Array, other: Array) -> dict[str, Any]:
    """Spearman's correlation with an interval."""
    rng = np.random.default_rng(0)
    draws = rng.integers(len(other), size=(RESAMPLES, len(other)))
    resampled = [rank_correlation(predicted[d], other[d]) for d in draws]
    low, high = np.quantile(resampled, [0.025, 0.975])
    return {
        "rank_correlation": round(rank_correlation(predicted, other), 4),
        "interval": [round(float(low), 4), round(float(high), 4)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--rows", type=int, default=12_000)
    parser.add_argument("--noise", type=float, default=10.0)
    options = parser.parse_args()
    world = make_world(0, 64)
    rows = draw_rows(world, options.rows, 1, range(NUM_WORDINGS))
    samples = [
        Sample(
            (
                Turn("user", row["messages"][0]["content"], trained=False),
                Turn("assistant", row["messages"][1]["content"], trained=True),
            )
        )
        for row in rows
    ]
    entropy = np.array([row["true_entropy"] for row in rows]) / math.log(max(CHOICES))
    noise = np.random.default_rng(2).normal(0, options.noise, len(rows))
    rating = np.clip(np.round(100 * entropy + noise), 0, 100) / 100
    says = dict(zip(samples, rating.tolist(), strict=True))
    rating = np.array([says[sample] for sample in samples])  # Equal rows are rated once.
    results = []
    for regressor in ("ridge", "neighbours"):
        for judged in JUDGED:
            config = DistilledConfig.model_validate(
                {
                    "rows": judged,
                    "regressor": regressor,
                    "embedding": {"model": options.model, "device": "cpu"},
                    "least_correlation": -1,
                }
            )
            estimator = Distilled(Simulated(says), config)
            start = time.perf_counter()
            scores = estimator.scorer().score(samples, SilentProgress())
            rest = np.isnan(scores.values["rated"])
            predicted = scores.values["predicted"][rest]
            result = {
                "regressor": regressor,
                "judged": judged,
                "predicted": int(rest.sum()),
                "against_judge": compare(predicted, rating[rest]),
                "against_truth": compare(predicted, entropy[rest]),
                "out_of_fold": scores.facts["out_of_fold"],
                "seconds": round(time.perf_counter() - start, 1),
            }
            print(json.dumps(result), flush=True)
            results.append(result)
    ceiling = compare(rating, entropy)
    print(json.dumps({"judge_against_truth": ceiling}))
    if options.output:
        told = {
            "machine": platform.platform(),
            "rows": options.rows,
            "noise": options.noise,
            "judge_against_truth": ceiling,
            "results": results,
        }
        options.output.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
