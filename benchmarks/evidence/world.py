"""Study 3, the synthetic world: where does smoothing by uncertainty help, and where not?

    python benchmarks/evidence/world.py           # goes on where it was stopped
    python benchmarks/evidence/world_page.py      # docs/world.md, from the results

Protocol, written before the first run; the order of runs, and that the rule below goes through
points one by one, were settled when plain SFT at the lowest rate had been seen. What is trained and
measured is said in `benchmarks/overfitting.py`; the base model is the demo's.

Axes. Learning rate (RATES) and epochs (EPOCHS), from well fitted to overfitted; the rate stays
after its warm-up, so that a short course is the beginning of a long one and one run gives all its
epochs. Answer noise (NOISES): so large a share of the training rows has an answer that is wrong;
held-out answers are not spoiled. Seeds of rows, adapter and order: SEEDS, or as many of them as the
results hold, which the tables say.

Arms. Plain SFT; the uniform and the reference prior at mean 0.1 (at most 0.5), by the rank of
perplexity under the base model and constant. At the learning rate of the demo's point without noise
also FURTHER: both priors shuffled, and the reference prior at mean 0.4 (at most 0.9), by perplexity
and constant.

Order. Plain SFT without noise at RULE_SEEDS first, until the demo's point is found; then the
learning rate of that point at all SEEDS: ARMS, FURTHER, and ARMS with noise; then what is left of
the map, seed by seed and points without noise first.

Score of a run: the mean over the three groups of log NLL on held-out rows, so that each group
counts alike. A difference of two arms is paired by seed; its interval is Student's at 95 % over
seeds, not corrected for how many there are. "Better" and "worse" are said where it excludes 0, and
"-" else. At each point it is said for UAL against SFT, for constant against SFT and for UAL
against constant, with each prior. Both lose where UAL and constant are both worse than SFT.

Rule of the demo's point, which looks at plain SFT alone, without noise, at RULE_SEEDS. Points are
gone through from well fitted to overfitted, learning rates in increasing order and epochs in
increasing order within them. The demo shows the first one at which the NLL on questions with
several answers (`open`), mean over seeds, is at least 10 % above the least of those before it and
of the model before tuning; if there is none, the last.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))

from overfitting import Arm, Course, Study, make_base

from axolotl_ual.demo.base_model import BaseSize

RESULTS = Path(__file__).parent / "results" / "world.json"
RATES = (5e-4, 2e-3, 8e-3)
EPOCHS = (3, 8, 20)
NOISES = (0.0, 0.2)
SEEDS = (0, 1, 2, 3, 4)
RULE_SEEDS = (0, 1, 2)
ARMS = (
    Arm("SFT"),
    Arm("uniform: UAL", "uniform", 0.1),
    Arm("uniform: constant", "uniform", 0.1, control="constant"),
    Arm("reference: UAL", "reference", 0.1),
    Arm("reference: constant", "reference", 0.1, control="constant"),
)
FURTHER = (
    Arm("uniform: shuffled", "uniform", 0.1, control="shuffled"),
    Arm("reference: shuffled", "reference", 0.1, control="shuffled"),
    Arm("reference, mean 0.4: UAL", "reference", 0.4, 0.9),
    Arm("reference, mean 0.4: constant", "reference", 0.4, 0.9, control="constant"),
)
PRIORS = ("uniform", "reference")
TOO_MUCH = 1.10
"""SFT's NLL on `open` over its least, from which on it overfits."""


def key(noise: float, rate: float, epochs: int) -> str:
    return f"noise {noise:g}, rate {rate:g}, {epochs} epochs"


Job = tuple[int, float, float, Arm]
"""Seed, noise, rate and arm."""


def by_the_rule(rate: float) -> Iterator[Job]:
    """What the demo's point is chosen by at a rate."""
    for seed in RULE_SEEDS:
        yield seed, 0.0, rate, ARMS[0]


def after_the_rule(rate: float) -> Iterator[Job]:
    """Every run, those at the rate of the demo's point first."""
    for noise, arms in ((0.0, ARMS), (0.0, FURTHER), *((noise, ARMS) for noise in NOISES[1:])):
        for seed, arm in itertools.product(SEEDS, arms):
            yield seed, noise, rate, arm
    yield from itertools.product(SEEDS, NOISES, RATES, ARMS)


class Map:
    """The results, and what makes more of them."""

    def __init__(self, results: Path, folder: Path) -> None:
        self.results = results
        self.document: dict[str, Any] = {"base": {}, "points": {}}
        if results.is_file():
            self.document = json.loads(results.read_text(encoding="utf-8"))
        self.document["protocol"] = __doc__
        base = make_base(folder, 0, BaseSize())
        self.study_of = functools.cache(functools.partial(Study, base))

    def run(self, jobs: Iterator[Job]) -> None:
        """Those that the results do not hold; they are written after each."""
        for seed, noise, rate, arm in jobs:
            names = [key(noise, rate, last) for last in EPOCHS]
            points = [self.document["points"].setdefault(name, {}) for name in names]
            if all(str(seed) in point.get(arm.name, {}) for point in points):
                continue
            study = self.study_of(seed, noise)
            self.document["base"][str(seed)] = study.before
            found = study.run(arm, Course(EPOCHS, rate, noise=noise))
            for point, measures in zip(points, found, strict=True):
                point.setdefault(arm.name, {})[str(seed)] = measures
            self.results.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(self.document, indent=1) + "\n"
            self.results.write_text(text, encoding="utf-8")
            print(seed, noise, rate, arm.name, f"{found[-1]['seconds']:.1f} s", flush=True)


def demo_point(document: dict[str, Any]) -> tuple[float, int, float] | None:
    """Rate and epochs that the rule picks, and SFT's NLL on `open` there over the least before it.

    None where the runs that there are do not tell.
    """
    least = _mean_open(document["base"])
    for rate, epochs in itertools.product(RATES, EPOCHS):
        here = _mean_open(document["points"].get(key(0.0, rate, epochs), {}).get("SFT", {}))
        if here is None or least is None:
            return None
        if here >= TOO_MUCH * least or (rate, epochs) == (RATES[-1], EPOCHS[-1]):
            return rate, epochs, here / least
        least = min(least, here)
    return None


def _mean_open(by_seed: dict[str, Any]) -> float | None:
    """What the rule looks at."""
    if any(str(seed) not in by_seed for seed in RULE_SEEDS):
        return None
    return float(np.mean([by_seed[str(seed)]["open"]["nll"] for seed in RULE_SEEDS]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--base", type=Path, help="folder that keeps the base model")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = Map(args.results, args.base or Path(name))
        rates = iter(RATES)
        while (point := demo_point(found.document)) is None:
            found.run(by_the_rule(next(rates)))
        found.run(after_the_rule(point[0]))


if __name__ == "__main__":
    main()
