"""Study 2: does smoothing by uncertainty help when a real model is tuned on mixed text?

    python benchmarks/evidence/training.py resume --data DATA --work WORK

One process, one thread. Questions, arms and rules are in README.md and protocol.json. `base.json`
has the model before tuning and how held-out rows are grouped; `seed-S-ARM.json` a run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from annotating import annotated
from measuring import clustering, divergence, diversity, predictions, summed
from mixed import SOURCES, Mixture, encode_row, make_mixture
from smollm import model_folder
from study import Place, Results, main
from tuning import Tuned

from axolotl_ual.labels.smoothing import solve_smoothing

NAME = "training"
Floats = np.ndarray[Any, Any]
ESTIMATED = {
    "ual": "perplexity",
    "shuffled": "perplexity",
    "decreasing": "perplexity",
    "ual-reference": "perplexity",
    "ual-self-consistency": "self_consistency",
}
"""The estimator whose uncertainty an arm goes by."""


class Study:
    """The model, the rows and their uncertainty, which all runs share."""

    def __init__(self, results: Results, place: Place) -> None:
        torch.set_num_threads(1)
        self.results, self.place = results, place
        self.fixed = results.protocol
        self.folder = model_folder(place)
        self.tuned = Tuned(self.folder, self.fixed)
        tokenizer = self.tuned.tokenizer
        self.mixture: Mixture = make_mixture(place.sources, self.fixed, tokenizer)
        rows = (self.mixture.train, self.mixture.held_out, self.mixture.neutral)
        self.train, self.held_out, self.neutral = (
            [encode_row(row, tokenizer) for row in part] for part in rows
        )

    def base(self) -> dict[str, Any]:
        """The model before tuning, and the groups: by source, and halves by its own entropy."""
        found, states, tokens = predictions(self.tuned, self.held_out)
        count = np.bincount(found.row, minlength=found.num_rows)
        entropy = np.bincount(found.row, found.entropy, found.num_rows) / count
        high = entropy > np.median(entropy)
        sources = [row.source for row in self.mixture.held_out]
        groups = {
            "all": [True] * len(sources),
            **{source: [one == source for one in sources] for source in SOURCES},
            "high entropy": high.tolist(),
            "low entropy": (~high).tolist(),
        }
        return {
            "tokens": count.tolist(),
            "groups": {name: np.flatnonzero(members).tolist() for name, members in groups.items()},
            **self._measured(found, states, tokens, groups),
        }

    def _measured(
        self, found: Any, states: Floats, tokens: Floats, groups: Mapping[str, Sequence[bool]]
    ) -> dict[str, Any]:
        opened = [row for row, one in zip(self.held_out, groups[SOURCES[1]], strict=True) if one]
        asked = opened[: self.fixed["diversity"]["rows"]]
        return {
            **summed(found, {name: np.array(members) for name, members in groups.items()}),
            "silhouette": clustering(states, tokens, dict(self.fixed["clustering"])),
            "diversity": diversity(self.tuned, asked, dict(self.fixed["diversity"])),
        }

    def run(self, arm: str, seed: int, base: Mapping[str, Any]) -> dict[str, Any]:
        """Train an arm and measure it."""
        began = time.process_time()
        smoothing = self.smoothing(arm, seed)
        self.tuned.start(seed)
        prior = "reference" if arm.endswith("-reference") else "uniform"
        losses = self.tuned.train(self.train, smoothing, prior, seed)
        trained = time.process_time()
        numbers = {name: set(members) for name, members in base["groups"].items()}
        groups = {
            name: [row in members for row in range(len(self.held_out))]
            for name, members in numbers.items()
        }
        found = {
            "arm": arm,
            "seed": seed,
            "train_nll": losses,
            **self._measured(*predictions(self.tuned, self.held_out), groups),
            "neutral": divergence(self.tuned, self.neutral),
        }
        self.tuned.stop()
        found["cpu_seconds"] = {
            "train": round(trained - began, 1),
            "measure": round(time.process_time() - trained, 1),
        }
        return found

    def smoothing(self, arm: str, seed: int) -> Floats:
        """Label smoothing of each training row in an arm."""
        mean, most = self.fixed["smoothing"]["mean"], self.fixed["smoothing"]["max"]
        if arm == "sft":
            return np.zeros(len(self.train))
        if arm.startswith("constant"):
            return np.full(len(self.train), mean)
        values = self.uncertainty(arm)
        solved = solve_smoothing(values, mean, most, decreasing=arm == "decreasing")
        found = np.nan_to_num(solved(values), nan=mean)
        return np.random.default_rng(seed).permutation(found) if arm == "shuffled" else found

    def uncertainty(self, arm: str) -> Floats:
        """Of each training row: by the real `annotate`, or 1 where many answers are good."""
        if arm == "ual-by-source":
            return np.array([float(row.source == SOURCES[1]) for row in self.mixture.train])
        estimator = ESTIMATED[arm]
        return annotated(
            estimator,
            self.mixture.train,
            self.folder,
            self.place.work / f"training-{estimator}",
            self.fixed["estimators"][estimator],
            self.fixed["smoothing"],
        )


def planned(fixed: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Arms and seeds in their order: the first group of arms seed by seed, then the next."""
    for group in fixed["order"]:
        for seed in fixed["seeds"]:
            for arm in group:
                yield arm, seed


def make(results: Results, place: Place, kind: type[Study] = Study) -> None:
    """Make every run that is missing."""
    missing = [
        (f"seed-{seed}-{arm}", arm, seed)
        for arm, seed in planned(results.protocol)
        if not results.has(f"seed-{seed}-{arm}")
    ]
    if results.has("base") and not missing:
        print("nothing is missing")
        return
    study = kind(results, place)
    if not results.has("base"):
        results.write("base", study.base())
    base = results.read()["base"]
    for name, arm, seed in missing:
        results.write(name, study.run(arm, seed, base))
        print(f"{name}: written", flush=True)


if __name__ == "__main__":
    main(NAME, str(__doc__), make, None)
