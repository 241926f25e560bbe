"""The uncertainty of rows as `annotate` gets it: check, score in this process, finish."""

from __future__ import annotations

from collections.abc import Sequence

from axolotl_ual.preprocess.data.sample import Sample
from axolotl_ual.preprocess.engines.base import estimate
from axolotl_ual.preprocess.engines.local import LocalEngine
from axolotl_ual.preprocess.estimators.base import Estimation, Estimator
from axolotl_ual.preprocess.progress import Progress


def estimate_here(
    estimator: Estimator, samples: Sequence[Sample], progress: Progress
) -> Estimation:
    return estimate(estimator, samples, progress, LocalEngine())
