"""How much of the mass should be smoothed by default: a map on the demo's world.

    python benchmarks/prior.py map.json           # the defaults of `prior: reference`, by the rule

What is trained and measured is said in `overfitting.py`, what comes of the defaults is in
`evidence/world.py`.

Rule of the map, written before it was run. Its world, base model and seeds are not those of other
studies, its LoRAs take 20 epochs. Every point (mean, max) of GRID is trained with `prior:
reference` at every seed, with each of two uncertainties: the rank of the row's perplexity under the
base model, which the demo uses, and the true entropy of its question, as a perfect judge would say
it. A run's score is the mean over the three groups of log(NLL / NLL of plain SFT at that seed), so
that each group counts alike; a point's is the mean over its runs. The best point has the lowest
score. Chosen is, of the points that are within one standard error of the best (of paired
differences, over runs), the one of least mean, then of least max. Where that is the point of the
uniform prior, (0.1, 0.5), there are no defaults of its own. A point that one of the uncertainties
cannot reach is left out of GRID: a default must not fail on a judge that calls half of the rows
certain.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from overfitting import ESTIMATORS, GROUPS, Arm, Course, Study, make_base

from axolotl_ual.demo.base_model import BaseSize

GRID = ((0.1, 0.5), (0.1, 0.9), (0.2, 0.5), (0.2, 0.9), (0.4, 0.9))
MAP_WORLD, MAP_SEEDS = 1, (100, 101)
MAP_SIZE = BaseSize(hidden_size=128, intermediate_size=512, learning_rate=1.5e-3, batch=4)
MAP_COURSE = Course((20,), cosine=True)


def choose(scores: dict[tuple[float, float], list[float]]) -> dict[str, Any]:
    """The rule."""
    best = min(scores, key=lambda point: float(np.mean(scores[point])))
    points, within = [], []
    for point, values in scores.items():
        behind = np.array(values) - np.array(scores[best])
        error = float(behind.std(ddof=1) / math.sqrt(len(behind)))
        points.append(
            {
                "mean": point[0],
                "max": point[1],
                "score": float(np.mean(values)),
                "behind": float(behind.mean()),
                "standard_error": error,
            }
        )
        if behind.mean() <= error:
            within.append(point)
    return {"points": points, "best": best, "chosen": min(within)}


def score(found: dict[str, Any], sft: dict[str, Any]) -> float:
    return float(np.mean([math.log(found[one]["nll"] / sft[one]["nll"]) for one in GROUPS]))


def make_map(output: Path, folder: Path) -> None:
    base = make_base(folder, MAP_WORLD, MAP_SIZE)
    scores: dict[tuple[float, float], list[float]] = {point: [] for point in GRID}
    runs = []
    for seed in MAP_SEEDS:
        study = Study(base, seed)
        (sft,) = study.run(Arm("SFT"), MAP_COURSE)
        runs.append({"seed": seed, "base": study.before, "SFT": sft})
        for point, estimator in itertools.product(GRID, ESTIMATORS):
            (found,) = study.run(Arm("", "reference", *point, estimator), MAP_COURSE)
            scores[point].append(score(found, sft))
            runs.append({"seed": seed, "point": point, "estimator": estimator, **found})
            print(seed, point, estimator, f"{scores[point][-1]:.3f}", flush=True)
    chosen = choose(scores)
    document = {"rule": __doc__, **chosen, "runs": runs}
    output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print("chosen:", chosen["chosen"], "best:", chosen["best"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        make_map(args.output, Path(name))


if __name__ == "__main__":
    main()
