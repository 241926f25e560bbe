"""Study 4, step by step: what a change of stage does.

    python benchmarks/evidence/transitions.py resume --data DATA --work WORK

The runs are the first epoch of those of `staged.py`, arms `staged` and `shuffled`. Held-out pairs
are measured at each change of stage, one step later, and when the stage that it begins has ended;
margins of the pairs that are trained come with every step. `pairs.json` has the gaps;
`seed-S-ARM.json` a run.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from mixed import Encoded
from staged import BATCH, Floats, Study, make
from study import main

NAME = "transitions"


class Transitions(Study):
    """The pairs of study 4, measured around changes of stage."""

    arms = ("staged", "shuffled")

    @torch.no_grad()
    def score(self, pairs: Sequence[Sequence[Encoded]]) -> Floats:
        """Log-probability (P, 2) of each answer, in batches of like lengths."""
        flat = [item for pair in pairs for item in pair]
        order = sorted(range(len(flat)), key=lambda number: len(flat[number].ids))
        found = np.zeros(len(flat))
        for start in range(0, len(flat), BATCH):
            chosen = order[start : start + BATCH]
            found[chosen] = self.log_p([flat[number] for number in chosen]).double().numpy()
        return found.reshape(-1, 2)

    def run(self, arm: str, seed: int) -> dict[str, Any]:
        """Train an arm; measure it around each change of stage."""
        began = time.process_time()
        marks = measured_after(self.fixed["changes"], self.fixed["later"])
        trained, margins = [], {}
        for step in self.steps(arm, seed):
            trained.append({"pairs": step.pairs, "margins": step.margins})
            if step.number in marks:
                margins[str(step.number)] = self.margins().tolist()
        return {
            "arm": arm,
            "seed": seed,
            "steps": trained,
            "margins": margins,
            "cpu_seconds": round(time.process_time() - began, 1),
        }


def measured_after(changes: Sequence[int], later: Sequence[int]) -> list[int]:
    """Numbers of the steps after which held-out pairs are measured."""
    return sorted({change + more for change in changes for more in (0, *later)})


if __name__ == "__main__":
    main(NAME, str(__doc__), partial(make, kind=Transitions), None)
