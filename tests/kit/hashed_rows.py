"""An estimator that asks nobody: the uncertainty of a row is a digest of its text.

For what an engine does, and a server has no part in. Some rows are bad: at one that holds `poison`
the process ends, at one that holds `broken` an error is raised that nobody expects.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from axolotl_ual.preprocess.calls.plan import Plan
from axolotl_ual.preprocess.data.sample import Sample
from axolotl_ual.preprocess.estimators.base import Estimation, RowScores
from axolotl_ual.preprocess.progress import Progress


class Hashed:
    """Estimator and scorer in one."""

    def check(self) -> None:
        pass

    def plan(self, samples: Sequence[Sample]) -> Plan:
        return Plan([f"{len(samples):,} rows are hashed"])

    def scorer(self) -> Hashed:
        return self

    def score(self, samples: Sequence[Sample], progress: Progress) -> RowScores:
        values = np.empty(len(samples))
        for place, sample in enumerate(samples):
            text = sample.turns[-1].text
            if "poison" in text:
                os._exit(1)
            if "broken" in text:
                raise RuntimeError(f"device-side assert: {text}")
            values[place] = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
            progress.advance()
        progress.say(f"{len(samples)} rows were hashed")
        return RowScores(values={"uncertainty": values / 2**32})

    def finish(self, scores: RowScores) -> Estimation:
        return Estimation(scores.values["uncertainty"].astype(np.float32), scores.failures)


def build(**_: Any) -> Hashed:
    return Hashed()
